// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Sums over the components of rows.
#pragma once

#include <cstdint>

#include "base/rows.h"
#include "base/visit_dtype.h"

namespace longspan::base {

// sum_d term(d), in some sums that do not wait for each other.
template <class Term>
auto sum_of(std::int64_t dim, const Term& term) noexcept {
  constexpr std::int64_t kSums = 4;
  decltype(term(dim)) sums[kSums] = {};
  std::int64_t d = 0;
  for (; d + kSums <= dim; d += kSums) {
    for (std::int64_t s = 0; s < kSums; ++s) sums[s] += term(d + s);
  }
  for (std::int64_t s = 0; d < dim; ++d, ++s) sums[s] += term(d);
  for (std::int64_t half = kSums / 2; half > 0; half /= 2) {
    for (std::int64_t s = 0; s < half; ++s) sums[s] += sums[s + half];
  }
  return sums[0];
}

// Of row(0) ... row(dim - 1).
template <class Row>
double sum_of_squares(const Row& row, std::int64_t dim) noexcept {
  return sum_of(dim, [&](std::int64_t d) {
    const double x = row(d);
    return x * x;
  });
}

// Of row n, in float64.
inline double sum_of_squares(const RowSource& rows, std::int64_t n, std::int64_t dim) noexcept {
  return visit_floating(rows.dtype, [&](auto tag) {
    const auto* row = static_cast<const decltype(tag)*>(rows.data) + rows.offset(n);
    const auto squares = [&](std::int64_t stride) {
      return sum_of_squares([&](std::int64_t d) { return double{to_float(row[d * stride])}; }, dim);
    };
    return rows.dim_stride == 1 ? squares(1) : squares(rows.dim_stride);
  });
}

// sum_d a[d] b[d] of row n, in float64; both have one dtype.
inline double row_dot(const RowSource& a, const RowSource& b, std::int64_t n,
                      std::int64_t dim) noexcept {
  return visit_floating(a.dtype, [&](auto tag) {
    using E = decltype(tag);
    const E* x = static_cast<const E*>(a.data) + a.offset(n);
    const E* y = static_cast<const E*>(b.data) + b.offset(n);
    const auto dot = [&](std::int64_t of_x, std::int64_t of_y) {
      return sum_of(dim, [&](std::int64_t d) {
        return static_cast<double>(to_float(x[d * of_x])) *
               static_cast<double>(to_float(y[d * of_y]));
      });
    };
    return a.dim_stride == 1 && b.dim_stride == 1 ? dot(1, 1) : dot(a.dim_stride, b.dim_stride);
  });
}

}  // namespace longspan::base
