// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Tolerances, and comparisons that NaN fails.
#include "answer_error.h"

#include <cmath>

#include "reference/attention_reference.h"

namespace longspan::bench {

Tolerance tolerance_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return {5e-4, 2e-3, 1e-5, 1e-6};
    case DType::kBFloat16:
      return {4e-3, 1e-2, 2e-4, 1e-6};
    default:
      return {2e-6, 1e-5, 2e-6, 1e-6};
  }
}

double Difference::relative() const { return std::sqrt(delta_ / norm_); }

void include(AnswerError& error, const Difference& difference, double tolerance) {
  const double relative = difference.relative();
  if (!(relative <= tolerance)) error.within = false;
  if (!(relative <= error.rel_l2)) error.rel_l2 = relative;
}

void include_lse(AnswerError& error, double found, double expected, const Tolerance& tolerance) {
  const double off = found == expected ? 0 : std::fabs(found - expected);
  if (!(off <= tolerance.lse_absolute + tolerance.lse_relative * std::fabs(expected))) {
    error.within = false;
  }
  if (!(off <= error.lse)) error.lse = off;
}

std::int64_t spread(std::int64_t sample, std::int64_t n) {
  return static_cast<std::int64_t>((static_cast<std::uint64_t>(sample) * 2654435761U) %
                                   static_cast<std::uint64_t>(n));
}

double read(const ConstTensorView& view, std::int64_t row, std::int64_t head, std::int64_t dim) {
  return reference::read_element(
      view, row * view.strides[1] + head * view.strides[2] + dim * view.strides[3]);
}

}  // namespace longspan::bench
