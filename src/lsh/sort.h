// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The stable sort of one round.
#pragma once

#include <cstdint>

#include "base/buffer.h"
#include "lsh/index_grid.h"

namespace longspan::lsh {

// Sorts positions by (bucket, position), 11 bits of the bucket at a time, the lowest first: each
// pass is a stable counting sort, so no key is ever built that could overflow, and empty buckets
// cost nothing past 2^11.
class BucketSort {
 public:
  explicit BucketSort(std::int64_t seqlen) : seqlen_(seqlen) {}
  std::size_t bytes() const noexcept;

  // positions[n] of the n-th in order; no bucket is negative. `memory`: bytes(), aligned.
  void sort(const IndexRow& buckets, const IndexRow& positions, std::byte* memory) const noexcept;

 private:
  struct Scratch {
    std::int64_t* starts;
    std::int64_t* order[2];
  };
  Scratch carve(base::Carver& carver) const noexcept;

  std::int64_t seqlen_;
};

}  // namespace longspan::lsh
