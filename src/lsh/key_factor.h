// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// From a row of shared vectors to the factor that makes a key of it.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "base/rows.h"
#include "base/visit_dtype.h"
#include "longspan/lsh_attention.h"

namespace longspan::lsh {

// Of row(0) ... row(dim - 1), float64. Four sums, so that an addition need not wait for the last.
template <class Row>
double sum_of_squares(const Row& row, std::int64_t dim) {
  constexpr std::int64_t kSums = 4;
  std::array<double, kSums> sums{};
  const auto add = [&](std::int64_t d, std::int64_t s) { sums[s] += row(d) * row(d); };
  std::int64_t d = 0;
  for (; d + kSums <= dim; d += kSums) {
    for (std::int64_t s = 0; s < kSums; ++s) add(d + s, s);
  }
  for (std::int64_t s = 0; d < dim; ++d, ++s) add(d, s);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Of row n.
inline double sum_of_squares(const base::RowSource& rows, std::int64_t n, std::int64_t dim) {
  return base::visit_floating(rows.dtype, [&](auto tag) {
    const auto* row = static_cast<const decltype(tag)*>(rows.data) + n * rows.row_stride;
    const std::int64_t stride = rows.dim_stride;
    if (stride == 1) {
      return sum_of_squares([&](std::int64_t d) { return double{base::to_float(row[d])}; }, dim);
    }
    return sum_of_squares([&](std::int64_t d) { return double{base::to_float(row[d * stride])}; },
                          dim);
  });
}

inline double key_factor(double squares, std::int64_t dim, KeyNorm norm) {
  const auto n = static_cast<double>(dim);
  if (norm == KeyNorm::kL2) return 1 / std::max(std::sqrt(squares), 1e-12);
  return 1 / (std::sqrt(squares / n + 1e-6) * std::sqrt(n));
}

// Factors that reach this are the same for all such rows: their lengths are clamped.
inline double constant_factor(KeyNorm norm) {
  return norm == KeyNorm::kL2 ? 1e12 : std::numeric_limits<double>::infinity();
}

}  // namespace longspan::lsh
