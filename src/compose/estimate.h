// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What a sample of rows says of all rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include "longspan/lsh_diagnostics.h"

namespace longspan::compose {

// sum of numerator(row) / sum of denominator(row). The variance of a ratio of sums is that of
// numerator - ratio * denominator (delta method), here of rows drawn without replacement that are
// `share` of all rows. `least` and `most` bound the interval.
template <class Row, class Numerator, class Denominator>
Estimate estimate_ratio(std::span<const Row> sample, double share, const Numerator& numerator,
                        const Denominator& denominator, double least, double most) {
  constexpr double kTwoSided95 = 1.96;  // of the normal distribution
  double above = 0, below = 0;
  for (const Row& row : sample) {
    above += static_cast<double>(numerator(row));
    below += static_cast<double>(denominator(row));
  }
  Estimate estimate;
  estimate.value = above / below;
  double squares = 0;
  for (const Row& row : sample) {
    const double residual = static_cast<double>(numerator(row)) -
                            estimate.value * static_cast<double>(denominator(row));
    squares += residual * residual;
  }
  const auto n = static_cast<double>(sample.size());
  // One row says nothing of others: 0 / 0.
  const double variance = share < 1 ? (1 - share) * squares * n / (n - 1) : 0;
  const double error = std::sqrt(variance) / below;
  estimate.low = std::clamp(estimate.value - kTwoSided95 * error, least, most);
  estimate.high = std::clamp(estimate.value + kTwoSided95 * error, least, most);
  return estimate;
}

inline Estimate root_of(const Estimate& x) {
  return {std::sqrt(x.value), std::sqrt(x.low), std::sqrt(x.high)};
}

}  // namespace longspan::compose
