// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Gradients where a sink has nearly all the weight of every row: what is left for the keys is far
// below the last place of 1.
#include <gtest/gtest.h>

#include "support/backward.h"

namespace longspan::test {
namespace {

constexpr Shape kShape{.batch = 2,
                       .seqlen_q = 70,
                       .seqlen_k = 1100,  // several ranges of keys take turns
                       .heads = 2,
                       .heads_kv = 1,
                       .head_dim = 20,
                       .head_dim_v = 9};

// The bias has no key axis: its gradient is dS summed over the keys.
Inputs dominated(DType dtype, const std::vector<std::int64_t>& bias_shape, std::uint64_t seed) {
  Inputs inputs = normal_inputs(kShape, dtype, seed);
  Tensor sinks(dtype, {kShape.heads});
  sinks.fill(dtype == DType::kFloat64 ? 40 : 25);
  inputs.options.sinks = inputs.keep(sinks).view();
  Tensor bias(dtype, bias_shape);
  for (std::int64_t n = 0; n < bias.size(); ++n) bias.set(n, 0.01 * static_cast<double>(n % 50));
  inputs.options.bias = inputs.keep(bias).view();
  inputs.options.mask = causal(1030);
  return inputs;
}

TEST(ExactBackwardSink, BiasWithoutKeysKeepsItsDigits) {
  for (const auto& [kernel, dtype] : kernels_and_types({DType::kFloat32, DType::kFloat64})) {
    for (const std::vector<std::int64_t>& bias_shape :
         {std::vector<std::int64_t>{2, 2, 70, 1}, {70, 1}, {2, 1, 1}, {1}}) {
      SCOPED_TRACE(testing::Message()
                   << kernel << ", " << name_of(dtype) << ", bias of rank " << bias_shape.size());
      const Inputs inputs = dominated(dtype, bias_shape, 11);
      const Derivatives derivatives = normal_derivatives(inputs, dtype, 12);
      const Output result = run(inputs, on(kernel, 2));
      EXPECT_TRUE(matches_reference(run_backward(inputs, result, derivatives, on(kernel, 2)),
                                    inputs, derivatives));
    }
  }
}

TEST(ExactBackwardSink, ThreadsChangeNoBit) {
  const Inputs inputs = dominated(DType::kFloat32, {70, 1}, 13);
  const Derivatives derivatives = normal_derivatives(inputs, DType::kFloat32, 14);
  const Output result = run(inputs);
  const GradientTensors one = run_backward(inputs, result, derivatives, on({}, 1));
  for (const int threads : {2, 3, 7}) {
    EXPECT_TRUE(same_bits(run_backward(inputs, result, derivatives, on({}, threads)), one));
  }
}

TEST(ExactBackwardSink, BiasAloneIsTheSame) {
  const Inputs inputs = dominated(DType::kFloat32, {70, 1}, 15);
  const Derivatives derivatives = normal_derivatives(inputs, DType::kFloat32, 16);
  const Output result = run(inputs);
  const GradientTensors all = run_backward(inputs, result, derivatives);
  GradientTensors alone = make_gradients(inputs, DType::kFloat32);
  attention_backward(inputs.query, inputs.key, inputs.value, {result.output, result.lse},
                     {derivatives.output, derivatives.lse},
                     {.query = {}, .key = {}, .value = {}, .bias = alone.bias, .sinks = {}},
                     inputs.options);
  for (std::int64_t n = 0; n < all.bias.size(); ++n) {
    ASSERT_EQ(alone.bias.get(n), all.bias.get(n)) << n;
  }
}

}  // namespace
}  // namespace longspan::test
