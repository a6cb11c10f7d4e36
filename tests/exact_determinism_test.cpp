// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The same bits for any number of threads, any memory limit, and again.
#include <gtest/gtest.h>

#include <ostream>

#include "support/call.h"

namespace longspan::test {
namespace {

struct Load {
  std::string name;
  std::int64_t seqlen_q;
  bool causal;
  friend std::ostream& operator<<(std::ostream& out, const Load& load) { return out << load.name; }
};

class ExactDeterminism : public testing::TestWithParam<std::tuple<std::string, Load>> {
 protected:
  Inputs inputs(DType dtype) const {
    const Load& load = std::get<1>(GetParam());
    Inputs made = normal_inputs({.batch = 1,
                                 .seqlen_q = load.seqlen_q,
                                 .seqlen_k = kKeys,
                                 .heads = 4,
                                 .heads_kv = 2,
                                 .head_dim = 32,
                                 .head_dim_v = 20},
                                dtype, 31);
    made.options.query_offset = QueryOffset::end();
    if (load.causal) made.options.mask = causal();
    return made;
  }
  Execution execution(int threads) const { return on(std::get<0>(GetParam()), threads); }

  static constexpr std::int64_t kKeys = 2049;
};

TEST_P(ExactDeterminism, SameBitsForAnyThreads) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16}) {
    const Inputs in = inputs(dtype);
    for (const std::int64_t key_chunk :
         {std::int64_t{0}, kKeys, kKeys / 64}) {  // chosen, one segment, many
      Execution one = execution(1);
      one.key_chunk = key_chunk;
      const Output expected = run(in, one);
      EXPECT_TRUE(matches_reference(expected, in));
      for (const int threads : {1, 2, 3, 7}) {
        Execution several = execution(threads);
        several.key_chunk = key_chunk;
        EXPECT_TRUE(same_bits(run(in, several), expected))
            << longspan::name_of(dtype) << ", " << threads << " threads, key chunk " << key_chunk;
      }
    }
  }
}

TEST_P(ExactDeterminism, SameBitsForAnyMemoryLimit) {
  const Inputs in = inputs(DType::kFloat32);
  const Execution free = execution(3);
  const Output expected = run(in, free);
  const std::size_t most =
      plan_attention(in.query, in.key, in.value, in.options, free).workspace_bytes;
  std::size_t fitted = 0;
  for (const std::size_t limit : {most, most - 1, most / 2, most / 3, most / 5, most / 20}) {
    Execution limited = free;
    limited.memory_limit = limit;
    try {
      const AttentionPlan plan = plan_attention(in.query, in.key, in.value, in.options, limited);
      EXPECT_LE(plan.workspace_bytes, limit);
    } catch (const Error& error) {  // no plan fits: the call must say so as well
      EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
      EXPECT_TRUE(throws_error([&] { run(in, limited); }, ErrorCode::kOutOfMemory,
                               {std::to_string(limit)}));
      continue;
    }
    ++fitted;
    EXPECT_TRUE(same_bits(run(in, limited), expected)) << "limit " << limit << " of " << most;
  }
  EXPECT_GE(fitted, 1u);
}

TEST_P(ExactDeterminism, LimitServesAllThreadsTogether) {
  const Inputs in = inputs(DType::kFloat32);
  const std::size_t one =
      plan_attention(in.query, in.key, in.value, in.options, execution(1)).workspace_bytes;
  Execution limited = execution(7);
  limited.memory_limit = one;
  const AttentionPlan plan = plan_attention(in.query, in.key, in.value, in.options, limited);
  EXPECT_LE(plan.workspace_bytes, one);
  EXPECT_GE(plan.threads, 1);
  EXPECT_TRUE(same_bits(run(in, limited), run(in, execution(1))));
}

INSTANTIATE_TEST_SUITE_P(
    Kernels, ExactDeterminism,
    testing::Combine(testing::ValuesIn(usable_kernels()),
                     testing::Values(Load{"one_query", 1, false}, Load{"few_queries", 5, true},
                                     Load{"many_queries", 300, true})),
    [](const auto& one) { return std::get<0>(one.param) + "_" + std::get<1>(one.param).name; });

}  // namespace
}  // namespace longspan::test
