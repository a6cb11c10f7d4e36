// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The merge rule for scalars in float64, base e.
#pragma once

#include <cmath>
#include <limits>

namespace longspan::partial {

struct ScalarOps {
  using V = double;
  static double max(double a, double b) { return b > a || b != b ? b : a; }
  static double sub(double a, double b) { return a - b; }
  static double mul(double a, double b) { return a * b; }
  static double mul_add(double a, double b, double c) { return a * b + c; }
  static double exp(double x) { return std::exp(x); }
  static double zero_where_minus_inf(double x, double y) {
    return x == -std::numeric_limits<double>::infinity() ? 0.0 : y;
  }
};

#include "partial/merge_rule-inl.h"

using ScalarRule = MergeRule<ScalarOps>;

}  // namespace longspan::partial
