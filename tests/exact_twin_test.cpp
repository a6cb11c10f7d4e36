// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Whole calls on the kernels for bfloat16 over software twins, in every instruction set that runs
// here: results and gradients against the reference, the same bits for any threads and for a batch
// entry alone, and the bits of the hardware where there is one.
#include <gtest/gtest.h>

#include "support/backward.h"
#include "support/compare.h"
#include "twins/twin.h"

namespace longspan::test {
namespace {

struct Call {
  Inputs inputs;
  Derivatives derivatives;
};

// Sizes that no tile divides, more keys than a block, grouped heads, every kind of option.
Call call(int options) {
  Call made{normal_inputs({.batch = 2,
                           .seqlen_q = 61,
                           .seqlen_k = 173,
                           .heads = 4,
                           .heads_kv = 2,
                           .head_dim = 37,
                           .head_dim_v = 19},
                          DType::kBFloat16, 71),
            {}};
  Inputs& in = made.inputs;
  Random random(72);
  in.options.query_offset = QueryOffset::end();
  if ((options & 1) != 0) in.options.mask = causal() & window(150, -1);
  if ((options & 2) != 0) in.options.dropout = {0.3, 5};
  if ((options & 4) != 0) {
    in.options.softcap = 4;
    in.options.bias = in.keep(Tensor(DType::kBFloat16, {61, 173}).fill_normal(random)).view();
    in.options.alibi_slopes = in.keep(Tensor(DType::kFloat32, {4}).fill(0.05)).view();
  }
  made.derivatives = normal_derivatives(in, DType::kBFloat16, 73);
  return made;
}

struct Results {
  Output output;
  GradientTensors gradients;
};

Results run_both(const Call& call, const Execution& execution) {
  const Output output = run(call.inputs, execution);
  return {output, run_backward(call.inputs, output, call.derivatives, execution)};
}

testing::AssertionResult same_bits(const Results& a, const Results& b) {
  const auto outputs = test::same_bits(a.output, b.output);
  return outputs ? test::same_bits(a.gradients, b.gradients) : outputs;
}

Tensor entry_of(const Tensor& tensor, std::int64_t batch) {
  std::vector<std::int64_t> shape = tensor.shape();
  shape[0] = 1;
  Tensor entry(tensor.view().dtype, shape);
  for (std::int64_t n = 0; n < entry.size(); ++n)
    entry.set(n, tensor.get(batch * entry.size() + n));
  return entry;
}

class ExactTwin : public testing::TestWithParam<std::string> {};

TEST_P(ExactTwin, FollowsTheReference) {
  for (int options = 0; options < 8; ++options) {
    SCOPED_TRACE(options);
    const Call made = call(options);
    const Inputs& in = made.inputs;
    EXPECT_EQ(plan_attention(in.query, in.key, in.value, in.options, on(GetParam())).kernel,
              GetParam());
    const Results results = run_both(made, on(GetParam(), 2));
    EXPECT_TRUE(matches_reference(results.gradients, in, made.derivatives));
    EXPECT_TRUE(matches_reference(results.output, in));
  }
}

// Widened operands would leave the bits of the kernel that the twin stands on.
TEST_P(ExactTwin, ComputesInPairs) {
  const std::string base = GetParam().substr(GetParam().find("_twin_") + 6);
  const Call made = call(1);
  const Results pairs = run_both(made, on(GetParam())), widened = run_both(made, on(base));
  EXPECT_FALSE(test::same_bits(pairs.output, widened.output));
  EXPECT_FALSE(test::same_bits(pairs.gradients.query, widened.gradients.query));
  EXPECT_FALSE(test::same_bits(pairs.gradients.key, widened.gradients.key));
  EXPECT_FALSE(test::same_bits(pairs.gradients.value, widened.gradients.value));
}

TEST_P(ExactTwin, SameBitsForAnyThreadsAndAlone) {
  const Call made = call(5);
  const Results expected = run_both(made, on(GetParam(), 1));
  for (const int threads : {2, 3, 7}) {
    EXPECT_TRUE(same_bits(run_both(made, on(GetParam(), threads)), expected)) << threads;
  }
  for (std::int64_t b = 0; b < 2; ++b) {
    Call alone = made;
    for (Tensor* tensor : {&alone.inputs.query, &alone.inputs.key, &alone.inputs.value,
                           &alone.derivatives.output, &alone.derivatives.lse}) {
      *tensor = entry_of(*tensor, b);
    }
    const Results one = run_both(alone, on(GetParam(), 2));
    EXPECT_TRUE(test::same_bits(one.output.output, entry_of(expected.output.output, b)));
    EXPECT_TRUE(test::same_bits(one.gradients.query, entry_of(expected.gradients.query, b)));
    EXPECT_TRUE(test::same_bits(one.gradients.key, entry_of(expected.gradients.key, b)));
    EXPECT_TRUE(test::same_bits(one.gradients.value, entry_of(expected.gradients.value, b)));
  }
}

// A query whose scores leave the safe range of a panel must not move the bits of the others.
TEST_P(ExactTwin, WildRowsLeaveTheirNeighboursAlone) {
  const Call tame = call(1);
  Call wild = tame;
  wild.inputs.query = Tensor(DType::kBFloat16, tame.inputs.query.shape());
  for (std::int64_t n = 0; n < wild.inputs.query.size(); ++n) {
    const bool row = n / (4 * 37) % 61 == 30;
    wild.inputs.query.set(n, (row ? 60 : 1) * tame.inputs.query.get(n));
  }
  const Output a = run(tame.inputs, on(GetParam())), b = run(wild.inputs, on(GetParam()));
  std::int64_t differ = 0;
  for (std::int64_t n = 0; n < a.output.size(); ++n) {
    if (a.output.get(n) == b.output.get(n)) continue;
    ++differ;
    ASSERT_EQ(n / (4 * 19) % 61, 30);
  }
  EXPECT_GT(differ, 0);
}

INSTANTIATE_TEST_SUITE_P(Kernels, ExactTwin, testing::ValuesIn(twin_kernels()),
                         [](const auto& one) { return one.param; });

TEST(ExactTwinHardware, WholeCallsLeaveTheSameBits) {
  twin_kernels();
  std::string refusals;
  for (const kernel::Kernel& tier : kernel::all_kernels()) {
    if (tier.name != "amx" && tier.name != "avx512_bf16") continue;
    if (!tier.usable()) {
      refusals += tier.name + ": " + tier.refusal + "; ";
      continue;
    }
    for (int options = 0; options < 8; ++options) {
      const Call made = call(options);
      EXPECT_TRUE(same_bits(run_both(made, on(tier.name)), run_both(made, on(twin_of(tier).name))))
          << tier.name << ", options " << options;
    }
  }
  if (!refusals.empty()) GTEST_SKIP() << "no hardware: " << refusals;
}

}  // namespace
}  // namespace longspan::test
