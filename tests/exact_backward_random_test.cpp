// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Gradients of random small calls, every option mixed with every other, on every kernel against the
// float64 reference. LONGSPAN_TEST_SEED is the first seed, LONGSPAN_TEST_COUNT how many cases
// follow; a failure prints the line that repeats its case.
#include <gtest/gtest.h>

#include "support/random_case.h"

namespace longspan::test {
namespace {

constexpr std::uint64_t kDefaultSeed = 1;
constexpr std::uint64_t kDefaultCount = 500;

// Tensors that were compared, and those among them that their type can hardly tell from zeros.
struct Tally {
  int compared = 0, cancelled = 0;
};

void count(const GradientTensors& gradients, const reference::AttentionGradients& truth,
           DType output, Tally& tally) {
  const auto one = [&](const Tensor& gradient, const std::vector<double>& sum,
                       const std::vector<double>& magnitude) {
    if (!is_given(gradient.view()) || sum.empty()) return;
    const auto tolerance = gradient_tolerance_of(gradient.view().dtype, output);
    ++tally.compared;
    tally.cancelled += cancels(sum, magnitude, tolerance) ? 1 : 0;
  };
  one(gradients.query, truth.sum.query, truth.magnitude.query);
  one(gradients.key, truth.sum.key, truth.magnitude.key);
  one(gradients.value, truth.sum.value, truth.magnitude.value);
  one(gradients.bias, truth.sum.bias, truth.magnitude.bias);
  one(gradients.sinks, truth.sum.sinks, truth.magnitude.sinks);
}

void run_case(std::uint64_t seed, Tally& tally) {
  const RandomCase random_case(seed);
  SCOPED_TRACE(testing::Message() << "repeat with LONGSPAN_TEST_SEED=" << seed
                                  << " LONGSPAN_TEST_COUNT=1 exact_backward_random_test: "
                                  << random_case.text);
  const Inputs& in = random_case.inputs;
  const reference::Attention attention_reference(in.query, in.key, in.value, in.options);
  const ConstTensorView doutput = random_case.derivatives.output;
  const ConstTensorView dlse = random_case.derivatives.lse;
  const reference::AttentionGradients truth = attention_reference.gradients(doutput, dlse);
  count(random_case.gradients, truth, random_case.output_dtype, tally);
  for (const std::string& kernel : kernels_for(in.query.view().dtype)) {
    SCOPED_TRACE(kernel);
    Execution forward = random_case.execution, backward = random_case.backward;
    forward.kernel = backward.kernel = kernel;
    Output result = make_output(in, random_case.output_dtype, random_case.output_layout,
                                random_case.output_misalignment);
    ASSERT_NO_THROW(
        attention(in.query, in.key, in.value, {result.output, result.lse}, in.options, forward));
    GradientTensors gradients = random_case.gradients;  // handles: the next kernel starts anew
    const auto tensors = {&gradients.query, &gradients.key, &gradients.value, &gradients.bias,
                          &gradients.sinks};
    for (Tensor* gradient : tensors) gradient->fill(std::numeric_limits<double>::quiet_NaN());
    ASSERT_NO_THROW(attention_backward(in.query, in.key, in.value, {result.output, result.lse},
                                       {doutput, dlse}, gradients.views(), in.options, backward));
    const DType row = row_of(kernel, in.query.view().dtype, random_case.output_dtype);
    ASSERT_TRUE(matches(gradients.views(), truth, row,
                        [&] { return naive_gradients(attention_reference, doutput, dlse); }));
    for (const Tensor* gradient : tensors) {
      ASSERT_TRUE(!is_given(gradient->view()) || gradient->surroundings_untouched());
    }
  }
}

TEST(ExactBackwardRandom, EveryKernelFollowsTheReference) {
  const std::uint64_t seed = number_from_environment("LONGSPAN_TEST_SEED", kDefaultSeed);
  const std::uint64_t count = number_from_environment("LONGSPAN_TEST_COUNT", kDefaultCount);
  Tally tally;
  for (std::uint64_t n = 0; n < count; ++n) {
    run_case(seed + n, tally);
    if (HasFatalFailure()) return;
  }
  if (count < 100) return;
  // The comparisons say something: most gradients are measured against their own norm.
  EXPECT_LT(tally.cancelled, 0.2 * tally.compared) << "of " << tally.compared;
}

}  // namespace
}  // namespace longspan::test
