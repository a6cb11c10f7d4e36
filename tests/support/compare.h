// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// When a result passes: NaN meets NaN and inf meets inf; the rest by relative L2 (output) or
// element by element (lse), within the table of each type, or else within 1.5 times the error of
// the naive program of the same type.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "longspan/tensor.h"
#include "reference/attention_reference.h"
#include "support/tensor.h"

namespace longspan::test {

// |actual - expected| as relative L2 of the whole tensor. `special` is false where NaN or inf stand
// differently.
struct Difference {
  bool special_agree = true;
  double rel_l2 =
      0;  // absolute L2 when the expected values are all 0, so that only zeros are equal to zeros
  double max_abs = 0;
  std::size_t worst = 0;  // row-major number of the element with max_abs, or of the first that is
                          // special on one side
};
Difference difference(const std::vector<double>& actual, const std::vector<double>& expected);

testing::AssertionResult within_rel_l2(const std::vector<double>& actual,
                                       const std::vector<double>& expected, double rel_l2);
// For tensors that are zero in truth, where a relative norm has no meaning.
testing::AssertionResult within_absolute(const std::vector<double>& actual,
                                         const std::vector<double>& expected, double absolute);
// Element by element: absolute + relative |expected|.
testing::AssertionResult within_elementwise(const std::vector<double>& actual,
                                            const std::vector<double>& expected, double absolute,
                                            double relative);

// Unit roundoff of floating-point types: 2^-8 for bfloat16, 2^-53 for float64.
double unit_roundoff(DType dtype);
// What the scores behind an output or a gradient of such a type may be off by, of the sum of the
// absolute values of their terms: they are rounded sums. Two roundoffs are some four standard
// deviations of hundreds of products of either sign; any program has such errors, and each by
// chance. It widens rule B where scores of tens make it more than the table.
double score_error(DType dtype);

// Rule B of one type, and the floor of rule A (taken of the sum of the absolute terms, so that it
// also serves outputs that cancel; one roundoff of the root of the sum of their squares, which is
// what their own errors add up to by chance, is a floor, too).
struct Tolerance {
  double output_rel_l2, lse_absolute, lse_relative, floor;
};
// The type of the output decides: a float32 output of float16 inputs is held to float32's row.
Tolerance tolerance_of(DType output);

// The row of the table for what a kernel makes of these inputs: kernels that compute with bfloat16
// are held to its row whatever the output's type.
DType row_of(const std::string& kernel, DType input, DType output);

// Rule B, which never allows so much that zeros would pass, or the truth as the output's type
// rounds it, or else rule A: `naive` is only run when neither is met.
testing::AssertionResult matches(const Tensor& output, const Tensor& lse,
                                 const reference::AttentionResult& truth,
                                 const std::function<reference::AttentionResult()>& naive,
                                 std::optional<DType> row = std::nullopt);

}  // namespace longspan::test
