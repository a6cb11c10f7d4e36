// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What a kernel is asked for when it hashes (Kitaev et al. 2020, section 2): for each vector and
// round, argmax([xR, -xR]) of every factor.
#pragma once

#include <cstdint>
#include <span>

namespace longspan::kernel {

// One panel of vectors meets the rotations of some rounds.
template <class T>
struct HashPanel {
  const T* panel = nullptr;  // [head_dim][width]
  // Rows of head_dim: for each round the columns of its rotations, factor after factor.
  const T* rotations = nullptr;
  std::int64_t head_dim = 0;
  std::int64_t rounds = 0;
  std::span<const std::int64_t> factors;  // even; half of each are columns
  std::int64_t columns = 0;               // of a round: half the sum of the factors
  T* products = nullptr;                  // scratch [rounds * columns][width]
  std::int32_t* buckets = nullptr;        // [rounds][width], mixed radix, first factor lowest
};

}  // namespace longspan::kernel
