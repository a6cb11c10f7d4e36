// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The keys of one head in the order of each round, by (bucket, position), while keys come and go at
// the end of the sequence: what sort.h makes of all of them at once, a key at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "mask/tile.h"

namespace longspan::lsh {

// The positions of a bucket ascend by themselves, since a new key has the largest. Where a bucket
// begins is a sum of sizes, kept as partial sums (Fenwick 1994): O(log buckets) to change or to
// ask.
class GrowingOrder {
 public:
  GrowingOrder(std::int64_t rounds, std::int64_t buckets);

  std::int64_t length() const noexcept { return length_; }  // keys
  std::size_t bytes() const noexcept;

  // One more key, with its bucket in each round. Throws std::bad_alloc: then nothing has changed.
  void push(std::span<const std::int32_t> buckets);
  void pop() noexcept;  // the last key

  // In each round, of the key at a position.
  std::span<const std::int32_t> buckets_of(std::int64_t position) const noexcept {
    return {buckets_.data() + position * rounds_, static_cast<std::size_t>(rounds_)};
  }
  // The number of keys with (bucket, position) at most these.
  std::int64_t rank(std::int64_t round, std::int64_t bucket, std::int64_t position) const noexcept;
  mask::Range places_of_bucket(std::int64_t round, std::int64_t bucket) const noexcept;
  // The keys at these places of a round go behind those that are in `keys`.
  void append_keys(std::int64_t round, mask::Range places, std::vector<std::int32_t>& keys) const;

 private:
  // sums[n] = sizes of buckets n - (lowest bit of n) ... n - 1, n > 0.
  struct Round {
    std::vector<std::vector<std::int32_t>> positions;  // by bucket
    std::vector<std::int32_t> sums;

    void count(std::int64_t bucket, std::int32_t keys) noexcept;
    std::int64_t begin_of(std::int64_t bucket) const noexcept;
    // The bucket that holds a place, and how far in it that is.
    std::int64_t bucket_at(std::int64_t place, std::int64_t& offset) const noexcept;
  };

  std::int64_t rounds_;
  std::int64_t length_ = 0;
  std::vector<Round> orders_;
  std::vector<std::int32_t> buckets_;  // [length][rounds]
};

}  // namespace longspan::lsh
