// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Rotations, drawn or given: four neighbours at a time for the public tensor, and as rows of
// head_dim for the kernel.
#pragma once

#include <array>
#include <cstdint>

#include "longspan/tensor.h"

namespace longspan::lsh {

// Columns 4 block ... 4 block + 3 at (head, component, round).
std::array<double, 4> rotation_block(std::uint64_t seed, std::int64_t head, std::int64_t component,
                                     std::int64_t round, std::int64_t block) noexcept;

struct RotationSource {
  ConstTensorView given;   // [heads, head_dim, num_hashes, columns]; absent: drawn
  std::uint64_t seed = 0;  // of drawn ones
  std::int64_t head_dim = 0;
  std::int64_t num_hashes = 0;
  std::int64_t columns = 0;  // of a round

  // rows[round * columns + column][component], num_hashes rounds of one head.
  template <class T>
  void fill_rows(std::int64_t head, T* rows) const;
};

}  // namespace longspan::lsh
