// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Gradients against differences of the forward pass alone: no reference has a part in it.
#include <gtest/gtest.h>

#include <cmath>

#include "support/compare.h"
#include "support/derivative.h"

namespace longspan::test {
namespace {

class ExactBackwardDerivative
    : public testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(ExactBackwardDerivative, MeetsCentralDifferences) {
  const Execution execution = on(std::get<0>(GetParam()), 1);
  const DerivativeCase one = derivative_case(std::get<1>(GetParam()));
  const GradientTensors gradients =
      run_backward(one.inputs, run(one.inputs, execution), one.derivatives, execution);
  const auto loss = [&] {
    const Output result = run(one.inputs, execution);
    return loss_of(result.output.values(), result.lse.values(), one.derivatives);
  };
  for (const Variable& variable : variables_of(one)) {
    SCOPED_TRACE(variable.name);
    EXPECT_TRUE(within_elementwise((gradients.*variable.gradient).values(),
                                   central_differences(variable.tensor, loss), kDerivativeAbsolute,
                                   kDerivativeRelative));
  }
}

INSTANTIATE_TEST_SUITE_P(Options, ExactBackwardDerivative,
                         testing::Combine(testing::ValuesIn(usable_kernels()),
                                          testing::ValuesIn(derivative_case_names())),
                         [](const auto& one) {
                           return std::get<0>(one.param) + "_" + std::get<1>(one.param);
                         });

// A long call: the derivative of the loss along one direction in all inputs at once.
class ExactBackwardDirection : public testing::TestWithParam<DType> {
 protected:
  static constexpr std::int64_t kSeqlen = 4096;

  static Inputs inputs(DType dtype) {
    Inputs in = normal_inputs({.batch = 1,
                               .seqlen_q = kSeqlen,
                               .seqlen_k = kSeqlen,
                               .heads = 1,
                               .heads_kv = 1,
                               .head_dim = 16,
                               .head_dim_v = 16},
                              dtype, 81);
    in.options.mask = causal();
    return in;
  }
  // The same numbers in float64: differences need them.
  static Tensor widened(const Tensor& tensor) {
    return Tensor(DType::kFloat64, tensor.shape()).fill_values(tensor.values());
  }
  static double dot(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (std::size_t n = 0; n < a.size(); ++n) sum += a[n] * b[n];
    return sum;
  }
};

TEST_P(ExactBackwardDirection, MeetsTheDifferenceAlongIt) {
  const DType dtype = GetParam();
  const Inputs in = inputs(dtype);
  const Derivatives derivatives = normal_derivatives(in, dtype, 82);
  const GradientTensors gradients = run_backward(in, run(in), derivatives);
  const std::vector<double> slopes[] = {gradients.query.values(), gradients.key.values(),
                                        gradients.value.values()};

  Inputs moved = in;
  const Derivatives wide{widened(derivatives.output), widened(derivatives.lse)};
  const Tensor* here[] = {&in.query, &in.key, &in.value};
  Tensor* there[] = {&moved.query, &moved.key, &moved.value};
  Random random(83);
  for (const bool steepest : {false, true}) {  // along the gradient, where nothing cancels
    std::vector<std::vector<double>> direction;
    double along = 0, norm = 0;
    for (const std::vector<double>& slope : slopes) {
      direction.push_back(slope);
      for (double& x : direction.back()) x = steepest ? x : random.normal();
      along += dot(slope, direction.back());
      norm += dot(slope, slope);
    }
    const auto loss_at = [&](double step) {
      for (int n = 0; n < 3; ++n) {
        *there[n] = widened(*here[n]);
        for (std::int64_t at = 0; at < there[n]->size(); ++at)
          there[n]->set(at, there[n]->get(at) + step * direction[n][static_cast<std::size_t>(at)]);
      }
      const Output result = run(moved);
      return loss_of(result.output.values(), result.lse.values(), wide);
    };
    constexpr double kStep = 1e-5;
    const double expected = (loss_at(kStep) - loss_at(-kStep)) / (2 * kStep);
    const double unit = steepest ? norm : std::sqrt(norm);  // what `along` is of the order of
    EXPECT_GT(std::fabs(expected), 0.05 * unit);
    EXPECT_NEAR(along, expected, (dtype == DType::kFloat64 ? 1e-6 : 1e-5) * unit);
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, ExactBackwardDirection,
                         testing::Values(DType::kFloat64, DType::kFloat32),
                         [](const auto& one) { return std::string(longspan::name_of(one.param)); });

}  // namespace
}  // namespace longspan::test
