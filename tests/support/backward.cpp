// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Shapes of gradients, backward calls, and comparisons that NaN and zeros fail.
#include "support/backward.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/compare.h"

namespace longspan::test {
namespace {

// Of its own norm: what rule A may allow at most, so that zeros do not pass.
constexpr double kMostRelL2 = 0.05;

// Of the sum of the absolute terms: below it the float64 reference is nothing but its own rounding.
constexpr double kZeroInTruth = 1e-13;

// The members of Gradients and of reference::GradientSet, in one order.
constexpr const char* kNames[] = {"dquery", "dkey", "dvalue", "dbias", "dsinks"};
constexpr TensorView Gradients::*kViews[] = {&Gradients::query, &Gradients::key, &Gradients::value,
                                             &Gradients::bias, &Gradients::sinks};
using Values = std::vector<double> reference::GradientSet::*;
constexpr Values kValues[] = {&reference::GradientSet::query, &reference::GradientSet::key,
                              &reference::GradientSet::value, &reference::GradientSet::bias,
                              &reference::GradientSet::sinks};

double norm_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += std::isfinite(value) ? value * value : 0;
  return std::sqrt(sum);
}

// L2 of the difference; infinite where NaN or inf stand differently.
double distance(const std::vector<double>& actual, const std::vector<double>& truth) {
  const Difference d = difference(actual, truth);
  if (!d.special_agree) return std::numeric_limits<double>::infinity();
  return norm_of(truth) > 0 ? d.rel_l2 * norm_of(truth) : d.rel_l2;
}

}  // namespace

Derivatives normal_derivatives(const Inputs& inputs, DType output, std::uint64_t seed,
                               bool with_lse) {
  Random random(seed);
  Output shaped = make_output(inputs, output);
  Derivatives derivatives;
  derivatives.output = shaped.output.fill_normal(random);
  if (with_lse) derivatives.lse = shaped.lse.fill_normal(random);
  return derivatives;
}

GradientTensors make_gradients(const Inputs& inputs, DType dtype, Layout layout,
                               std::size_t misalignment) {
  const auto like = [&](const ConstTensorView& input, DType type) {
    if (!is_given(input)) return Tensor();
    const std::vector<std::int64_t> shape(input.shape.begin(), input.shape.begin() + input.rank);
    Tensor gradient(type, shape, layout, misalignment);
    return gradient.fill(std::numeric_limits<double>::quiet_NaN());
  };
  const DType wide = accumulator_of(inputs.query.view().dtype);
  return {like(inputs.query, dtype), like(inputs.key, dtype), like(inputs.value, dtype),
          like(inputs.options.bias, wide), like(inputs.options.sinks, wide)};
}

GradientTensors run_backward(const Inputs& inputs, const Output& result,
                             const Derivatives& derivatives, const Execution& execution) {
  GradientTensors gradients = make_gradients(inputs, result.output.view().dtype);
  attention_backward(inputs.query, inputs.key, inputs.value, {result.output, result.lse},
                     {derivatives.output, derivatives.lse}, gradients.views(), inputs.options,
                     execution);
  return gradients;
}

testing::AssertionResult same_bits(const GradientTensors& a, const GradientTensors& b) {
  const Tensor GradientTensors::*const tensors[] = {&GradientTensors::query, &GradientTensors::key,
                                                    &GradientTensors::value, &GradientTensors::bias,
                                                    &GradientTensors::sinks};
  for (std::size_t n = 0; n < std::size(tensors); ++n) {
    const Tensor &x = a.*tensors[n], &y = b.*tensors[n];
    if (!is_given(x.view()) && !is_given(y.view())) continue;
    if (!same_bits(x, y)) {
      return testing::AssertionFailure()
             << kNames[n] << ": bits differ, rel L2 " << difference(x.values(), y.values()).rel_l2;
    }
  }
  return testing::AssertionSuccess();
}

reference::AttentionGradients gradient_truth_of(const Inputs& inputs,
                                                const Derivatives& derivatives) {
  return reference::Attention(inputs.query, inputs.key, inputs.value, inputs.options)
      .gradients(derivatives.output, derivatives.lse);
}

GradientTolerance gradient_tolerance_of(DType gradient, DType output) {
  const auto one_of = [&](DType dtype) { return gradient == dtype || output == dtype; };
  constexpr double kWeightsEnd = 0x1p-120;  // in float32 they reach down to 2^-126
  if (one_of(DType::kBFloat16)) return {1e-2, kWeightsEnd, 1e-4, unit_roundoff(DType::kBFloat16)};
  if (one_of(DType::kFloat16)) {
    return {2e-3, 0x1p-25, 1e-5, unit_roundoff(DType::kFloat16)};
  }
  if (one_of(DType::kFloat32)) return {1e-5, kWeightsEnd, 1e-7, unit_roundoff(DType::kFloat32)};
  return {1e-12, 0, 1e-15, unit_roundoff(DType::kFloat64)};
}

bool zero_in_truth(const std::vector<double>& truth, const std::vector<double>& magnitude) {
  return norm_of(truth) <= kZeroInTruth * norm_of(magnitude);
}

bool cancels(const std::vector<double>& truth, const std::vector<double>& magnitude,
             const GradientTolerance& tolerance) {
  return kMostRelL2 * norm_of(truth) < tolerance.rel_l2 * norm_of(magnitude);
}

testing::AssertionResult gradient_matches(const ConstTensorView& actual,
                                          const std::vector<double>& truth,
                                          const std::vector<double>& magnitude,
                                          const std::vector<double>& deviation,
                                          const GradientTolerance& tolerance,
                                          const std::function<std::vector<double>()>& naive) {
  const std::vector<double> values = reference::read_all(actual);
  const double steps = tolerance.step * std::sqrt(static_cast<double>(truth.size()));
  const double norm = norm_of(truth), terms = norm_of(magnitude);
  const double error = distance(values, truth);
  const double by_weights = std::min(tolerance.weight_step * terms, kMostRelL2 * norm);
  const double by_table =
      std::max(tolerance.rel_l2 * (zero_in_truth(truth, magnitude) ? terms : norm), by_weights) +
      steps;
  if (error <= by_table) return testing::AssertionSuccess();

  std::vector<double> same_type = naive();
  for (double& value : same_type) value = rounded_to(actual.dtype, value);
  const double naive_error = distance(same_type, truth);
  const double most = std::max(kMostRelL2 * norm, tolerance.rel_l2 * terms);
  const double floor = tolerance.floor * terms + tolerance.roundoff * norm_of(deviation);
  const double by_naive = std::min(1.5 * naive_error + floor, most) + steps;
  if (error <= by_naive) return testing::AssertionSuccess();
  const Difference d = difference(values, truth);
  auto failure = testing::AssertionFailure()
                 << "L2 error " << error << " of " << norm << " (absolute terms " << terms
                 << "); allowed " << by_table << " or " << by_naive << ", naive " << naive_error;
  if (d.worst < values.size() && d.worst < truth.size()) {
    failure << "; worst at " << d.worst << ": " << values[d.worst] << " for " << truth[d.worst];
  } else {
    failure << "; sizes " << values.size() << " and " << truth.size();
  }
  return failure;
}

testing::AssertionResult matches(const Gradients& actual,
                                 const reference::AttentionGradients& truth, DType output,
                                 const NaiveGradients& naive) {
  reference::AttentionGradients same_type;
  bool ran = false;
  for (std::size_t n = 0; n < std::size(kNames); ++n) {
    const TensorView& view = actual.*kViews[n];
    if (!is_given(view)) continue;
    const Values values = kValues[n];
    GradientTolerance tolerance = gradient_tolerance_of(view.dtype, output);
    const bool wide = view.dtype == DType::kFloat64 && output == DType::kFloat64;
    tolerance.weight_step =
        truth.largest_exponent * score_error(wide ? DType::kFloat64 : DType::kFloat32);
    const auto passes =
        gradient_matches(view, truth.sum.*values, truth.magnitude.*values, truth.deviation.*values,
                         tolerance, [&]() -> std::vector<double> {
                           if (!ran) same_type = naive();
                           ran = true;
                           return same_type.sum.*values;
                         });
    if (!passes) return testing::AssertionFailure() << kNames[n] << ": " << passes.message();
  }
  return testing::AssertionSuccess();
}

reference::AttentionGradients naive_gradients(const reference::Attention& attention,
                                              const ConstTensorView& doutput,
                                              const ConstTensorView& dlse) {
  const DType output = doutput.dtype;
  if (output == DType::kFloat64) return attention.gradients(doutput, dlse);
  return attention.gradients(doutput, dlse, reference::Precision::kFloat32,
                             [output](double element) { return rounded_to(output, element); });
}

testing::AssertionResult matches_reference(GradientTensors gradients, const Inputs& inputs,
                                           const Derivatives& derivatives) {
  const reference::Attention attention(inputs.query, inputs.key, inputs.value, inputs.options);
  const ConstTensorView doutput = derivatives.output, dlse = derivatives.lse;
  return matches(gradients.views(), attention.gradients(doutput, dlse), doutput.dtype,
                 [&] { return naive_gradients(attention, doutput, dlse); });
}

}  // namespace longspan::test
