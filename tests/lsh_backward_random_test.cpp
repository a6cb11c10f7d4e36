// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Gradients of random calls of LSH attention against its literal definition. LONGSPAN_TEST_SEED and
// LONGSPAN_TEST_COUNT repeat one, or run more.
#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/random_lsh_case.h"

namespace longspan::test {
namespace {

TEST(LshBackwardRandom, IsTheDefinition) {
  const std::uint64_t first = number_from_environment("LONGSPAN_TEST_SEED", 1);
  const std::uint64_t count = number_from_environment("LONGSPAN_TEST_COUNT", 400);
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    const RandomLshCase one(seed);
    SCOPED_TRACE(one.text());
    const Output result = run_lsh_as(one.output, one.in, one.execution);
    const Derivatives derivatives = normal_derivatives(one.in, one.output, seed);
    GradientTensors found = run_lsh_backward(one.in, result, derivatives, one.execution);
    const DType row = row_of(one.execution.kernel, one.in.query.view().dtype, one.output);
    ASSERT_TRUE(matches(found.views(), gradient_truth_of(one.in, derivatives), row));
  }
}

}  // namespace
}  // namespace longspan::test
