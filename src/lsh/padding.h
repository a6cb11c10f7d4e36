// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Padding: the terms of a mask that exclude a key whoever looks. Such keys are not hashed.
#pragma once

#include <cstdint>
#include <span>

#include "longspan/mask.h"
#include "mask/bound_mask.h"

namespace longspan::lsh {

// The terms that are not padding.
Mask without_padding(const Mask& mask);

class Padding {
 public:
  // `num_heads_kv` > 0 unless there are no heads: a key of a group is padding when no head of the
  // group may see it. Throws what a mask throws that does not fit the shape.
  Padding(const Mask& mask, const mask::CallShape& shape, std::int64_t num_heads_kv);

  bool none() const noexcept { return mask_.everything_visible(); }
  // visible[n] != 0 when key first + n is no padding.
  void find_visible(std::int64_t batch, std::int64_t head_kv, std::int64_t first,
                    std::span<std::uint64_t> visible) const;

 private:
  mask::BoundMask mask_;
  std::int64_t group_;  // heads that share keys
};

}  // namespace longspan::lsh
