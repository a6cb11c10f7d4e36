// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// How far an answer is from the truth of its sampled rows, and how far it may be.
#pragma once

#include <cstdint>

#include "longspan/tensor.h"

namespace longspan::bench {

constexpr int kForwardRows = 32;
constexpr int kGradientRows = 8;

struct AnswerError {
  double rel_l2 = 0;   // the worst of the tensors compared
  double lse = 0;      // largest absolute error
  bool within = true;  // the tolerances of the type; false for NaN
};

// What the library promises for inputs like these.
struct Tolerance {
  double output, gradient, lse_absolute, lse_relative;
};
Tolerance tolerance_of(DType dtype);

// Relative L2 of what was compared; NaN where there was nothing to compare with.
class Difference {
 public:
  void add(double actual, double expected) {
    delta_ += (actual - expected) * (actual - expected);
    norm_ += expected * expected;
  }
  double relative() const;

 private:
  double delta_ = 0, norm_ = 0;
};

void include(AnswerError& error, const Difference& difference, double tolerance);
// One row's lse; infinities must be equal.
void include_lse(AnswerError& error, double found, double expected, const Tolerance& tolerance);

// Spread over a range of n, without a pattern that a block size could share.
std::int64_t spread(std::int64_t sample, std::int64_t n);

// Element (row, head, dim) of [1, rows, heads, dims].
double read(const ConstTensorView& view, std::int64_t row, std::int64_t head, std::int64_t dim);

}  // namespace longspan::bench
