// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// From a row of shared vectors to the factor that makes a key of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "longspan/lsh_attention.h"

namespace longspan::lsh {

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
