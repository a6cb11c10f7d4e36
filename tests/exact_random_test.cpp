// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Random small calls, every option mixed with every other, on every kernel against the float64
// reference. LONGSPAN_TEST_SEED is the first seed, LONGSPAN_TEST_COUNT how many cases follow; a
// failure prints the line that repeats its case.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "support/random_case.h"

namespace longspan::test {
namespace {

constexpr std::uint64_t kDefaultSeed = 1;
constexpr std::uint64_t kDefaultCount = 2000;

void run_case(std::uint64_t seed) {
  const RandomCase random_case(seed);
  SCOPED_TRACE(testing::Message() << "repeat with LONGSPAN_TEST_SEED=" << seed
                                  << " LONGSPAN_TEST_COUNT=1 exact_random_test: "
                                  << random_case.text);
  const reference::AttentionResult truth = truth_of(random_case.inputs);
  for (const std::string& kernel : kernels_for(random_case.inputs.query.view().dtype)) {
    SCOPED_TRACE(kernel);
    Execution execution = random_case.execution;
    execution.kernel = kernel;
    const Inputs& inputs = random_case.inputs;
    Output result = make_output(inputs, random_case.output_dtype, random_case.output_layout,
                                random_case.output_misalignment);
    result.output.fill(std::numeric_limits<double>::quiet_NaN());  // every element must be written
    result.lse.fill(std::numeric_limits<double>::quiet_NaN());
    ASSERT_NO_THROW(attention(inputs.query, inputs.key, inputs.value, {result.output, result.lse},
                              inputs.options, execution));
    ASSERT_TRUE(matches(
        result.output, result.lse, truth,
        [&] { return truth_of(inputs, random_case.naive_precision()); },
        row_of(kernel, inputs.query.view().dtype, random_case.output_dtype)));
    ASSERT_TRUE(result.output.surroundings_untouched());
    ASSERT_TRUE(result.lse.surroundings_untouched());
  }
}

TEST(ExactRandom, EveryKernelFollowsTheReference) {
  const std::uint64_t seed = number_from_environment("LONGSPAN_TEST_SEED", kDefaultSeed);
  const std::uint64_t count = number_from_environment("LONGSPAN_TEST_COUNT", kDefaultCount);
  for (std::uint64_t n = 0; n < count; ++n) {
    run_case(seed + n);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace longspan::test
