// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Every comparison is written so that NaN fails it.
#include "support/compare.h"

#include <algorithm>
#include <cmath>

#include "kernels/registry.h"

namespace longspan::test {
namespace {

bool special_agree(double actual, double expected) {
  if (std::isnan(expected)) return std::isnan(actual);
  return actual == expected;
}

testing::AssertionResult failure(const Difference& d, const std::vector<double>& actual,
                                 const std::vector<double>& expected) {
  auto result = testing::AssertionFailure() << "rel L2 " << d.rel_l2 << ", max abs " << d.max_abs;
  if (!d.special_agree) result << ", NaN or inf differ";
  if (d.worst < actual.size() && d.worst < expected.size()) {
    result << ", worst at " << d.worst << ": " << actual[d.worst] << " for " << expected[d.worst];
  } else {
    result << ", sizes " << actual.size() << " and " << expected.size();
  }
  return result;
}

// L2 over the finite elements.
double norm_of(const std::vector<double>& values) {
  return difference(values, std::vector<double>(values.size(), 0.0)).rel_l2;
}

// Neither rule allows so much that a zero output would pass.
constexpr double kMostRelL2 = 0.05;

std::vector<double> rounded(std::vector<double> values, DType dtype) {
  for (double& value : values) value = rounded_to(dtype, value);
  return values;
}

}  // namespace

Difference difference(const std::vector<double>& actual, const std::vector<double>& expected) {
  Difference d;
  if (actual.size() != expected.size()) {
    d.special_agree = false;
    d.rel_l2 = d.max_abs = HUGE_VAL;
    d.worst = actual.size() + expected.size();
    return d;
  }
  double error = 0, norm = 0;
  for (std::size_t n = 0; n < actual.size(); ++n) {
    if (!std::isfinite(expected[n]) || !std::isfinite(actual[n])) {
      if (!special_agree(actual[n], expected[n]) && d.special_agree) {
        d.special_agree = false;
        d.worst = n;
      }
      continue;
    }
    const double delta = std::fabs(actual[n] - expected[n]);
    error += delta * delta;
    norm += expected[n] * expected[n];
    if (delta > d.max_abs) {
      d.max_abs = delta;
      if (d.special_agree) d.worst = n;
    }
  }
  d.rel_l2 = norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
  return d;
}

testing::AssertionResult within_rel_l2(const std::vector<double>& actual,
                                       const std::vector<double>& expected, double rel_l2) {
  const Difference d = difference(actual, expected);
  const double allowed = norm_of(expected) > 0 ? rel_l2 : 0.0;  // only zeros are equal to zeros
  if (d.special_agree && d.rel_l2 <= allowed) return testing::AssertionSuccess();
  return failure(d, actual, expected) << "; allowed rel L2 " << allowed;
}

testing::AssertionResult within_absolute(const std::vector<double>& actual,
                                         const std::vector<double>& expected, double absolute) {
  const Difference d = difference(actual, expected);
  if (d.special_agree && d.max_abs <= absolute) return testing::AssertionSuccess();
  return failure(d, actual, expected) << "; allowed " << absolute;
}

testing::AssertionResult within_elementwise(const std::vector<double>& actual,
                                            const std::vector<double>& expected, double absolute,
                                            double relative) {
  const Difference d = difference(actual, expected);
  if (!d.special_agree) return failure(d, actual, expected);
  for (std::size_t n = 0; n < actual.size(); ++n) {
    if (!std::isfinite(expected[n])) continue;
    const double allowed = absolute + relative * std::fabs(expected[n]);
    if (!(std::fabs(actual[n] - expected[n]) <= allowed)) {
      return testing::AssertionFailure() << "element " << n << ": " << actual[n] << " for "
                                         << expected[n] << "; allowed " << allowed;
    }
  }
  return testing::AssertionSuccess();
}

double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return 0x1p-53;
    case DType::kFloat16:
      return 0x1p-11;
    case DType::kBFloat16:
      return 0x1p-8;
    default:
      return 0x1p-24;
  }
}

double score_error(DType dtype) {
  return 2 * unit_roundoff(dtype == DType::kFloat64 ? dtype : DType::kFloat32);
}

Tolerance tolerance_of(DType output) {
  switch (output) {
    case DType::kFloat64:
      return {1e-13, 1e-13, 2e-14, 1e-15};
    case DType::kFloat16:
      return {5e-4, 1e-5, 1e-6, 1e-5};
    case DType::kBFloat16:
      return {4e-3, 2e-4, 1e-6, 1e-4};
    default:
      return {2e-6, 2e-6, 1e-6, 1e-7};
  }
}

DType row_of(const std::string& kernel, DType input, DType output) {
  const DType operands = kernel::choose_kernel(kernel).table<float>(input).format.dtype;
  return operands == DType::kBFloat16 ? DType::kBFloat16 : output;
}

testing::AssertionResult matches(const Tensor& output, const Tensor& lse,
                                 const reference::AttentionResult& truth,
                                 const std::function<reference::AttentionResult()>& naive,
                                 std::optional<DType> row) {
  const DType dtype = row.value_or(output.view().dtype);
  const Tolerance tolerance = tolerance_of(dtype);
  const std::vector<double> output_values = output.values(), lse_values = lse.values();
  const double norm = norm_of(truth.output);
  const double of_scores = score_error(dtype);
  const double by_scores = norm > 0 ? of_scores * norm_of(truth.score_effect) / norm : 0.0;
  auto output_passes =
      within_rel_l2(output_values, truth.output,
                    std::max(tolerance.output_rel_l2, std::min(by_scores, kMostRelL2)));
  auto lse_passes = within_elementwise(
      lse_values, truth.lse, std::max(tolerance.lse_absolute, of_scores * truth.score_terms),
      tolerance.lse_relative);
  if (!output_passes) {  // the truth may be smaller than the smallest number of the type
    const Difference d = difference(output_values, rounded(truth.output, output.view().dtype));
    if (d.special_agree && d.max_abs == 0) output_passes = testing::AssertionSuccess();
  }
  if (output_passes && lse_passes) return output_passes;

  const reference::AttentionResult same_type = naive();
  if (!output_passes) {
    const Difference d = difference(rounded(same_type.output, dtype), truth.output);
    const double floor = tolerance.floor * norm_of(truth.magnitude) +
                         unit_roundoff(dtype) * norm_of(truth.deviation);
    const double allowed = std::min(1.5 * d.rel_l2 + floor / norm, kMostRelL2);
    if (!d.special_agree || !within_rel_l2(output_values, truth.output, allowed)) {
      return output_passes << "; output; naive rel L2 " << d.rel_l2;
    }
  }
  if (!lse_passes) {
    const Difference d = difference(same_type.lse, truth.lse);
    const double allowed = 1.5 * d.max_abs + tolerance.floor;
    // Row by row the better of the two rules: a tensor can hold both kinds of rows.
    if (!d.special_agree ||
        !within_elementwise(lse_values, truth.lse, allowed, tolerance.lse_relative)) {
      return lse_passes << "; lse; naive max abs " << d.max_abs;
    }
  }
  return testing::AssertionSuccess();
}

}  // namespace longspan::test
