// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Few queries against many keys: every kernel, every option, against the float64 reference; the
// same bits whoever shares the call; hidden NaN.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stop_token>
#include <vector>

#include "support/call.h"

namespace longspan::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

class ExactDecode : public testing::TestWithParam<std::string> {
 protected:
  Execution execution(int threads = 2, std::int64_t key_chunk = 0) const {
    Execution made = on(GetParam(), threads);
    made.key_chunk = key_chunk;
    return made;
  }
};

// Query, key and value from the same numbers, keys and values in another layout.
Inputs in_layout(const Inputs& from, Layout layout) {
  Inputs made = from;
  made.key = Tensor(from.key.view().dtype, from.key.shape(), layout, 2);
  made.value = Tensor(from.value.view().dtype, from.value.shape(), layout, 2);
  made.key.fill_values(from.key.values());
  made.value.fill_values(from.value.values());
  return made;
}

TEST_P(ExactDecode, AwkwardSizes) {
  struct Dims {
    std::int64_t head_dim, head_dim_v;
  };
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    for (const Dims& dims : {Dims{1, 64}, {7, 1}, {33, 65}, {64, 64}, {128, 128}, {80, 257}}) {
      for (const std::int64_t keys : {1, 7, 16, 17, 65, 130}) {
        for (const std::int64_t queries : {1, 2, 5}) {
          const Inputs in = normal_inputs({.batch = 2,
                                           .seqlen_q = queries,
                                           .seqlen_k = keys,
                                           .heads = 6,
                                           .heads_kv = 2,
                                           .head_dim = dims.head_dim,
                                           .head_dim_v = dims.head_dim_v},
                                          dtype, 1);
          ASSERT_TRUE(matches_reference(run(in, execution()), in))
              << longspan::name_of(dtype) << ", " << keys << " keys, " << queries << " queries, "
              << dims.head_dim << " and " << dims.head_dim_v;
        }
      }
    }
  }
}

TEST_P(ExactDecode, AnyNumberOfRows) {
  for (const std::int64_t group : {1, 2, 3, 5, 8, 13, 16, 17, 20}) {
    for (const std::int64_t queries : {1, 4}) {
      Inputs in = normal_inputs({.seqlen_q = queries,
                                 .seqlen_k = 90,
                                 .heads = group,
                                 .heads_kv = 1,
                                 .head_dim = 24,
                                 .head_dim_v = 40},
                                DType::kFloat32, 2);
      in.options.mask = causal(QueryOffset::end());
      EXPECT_TRUE(matches_reference(run(in, execution()), in)) << group << " x " << queries;
    }
  }
}

TEST_P(ExactDecode, EveryOption) {
  const Inputs plain = normal_inputs({.batch = 2,
                                      .seqlen_q = 3,
                                      .seqlen_k = 150,
                                      .heads = 4,
                                      .heads_kv = 2,
                                      .head_dim = 32,
                                      .head_dim_v = 24},
                                     DType::kFloat32, 3);
  Random random(4);
  const Tensor lengths = integers({149, 70});
  Tensor bias(DType::kFloat16, {2, 4, 3, 150}), slopes(DType::kFloat32, {4});
  Tensor sinks(DType::kFloat32, {4}), visible(DType::kBool, {2, 1, 3, 150});
  bias.fill_normal(random);
  slopes.fill_values({1.5, 0.5, 0.01, -0.2});
  sinks.fill_normal(random);
  for (std::int64_t n = 0; n < bias.size(); n += 7) bias.set(n, -kInf);
  for (std::int64_t n = 0; n < visible.size(); ++n) visible.set(n, random.chance(0.3) ? 1 : 0);
  const auto odd = [](std::int64_t, std::int64_t head, std::int64_t query, std::int64_t key) {
    return (head + query + key) % 3 == 1;
  };
  const std::vector<Mask> masks = {Mask(),
                                   causal(),
                                   window(40, 3),
                                   key_lengths(lengths.view()) & causal(),
                                   dense(visible.view()),
                                   predicate(odd),
                                   prefix(20),
                                   key_range(33, 35)};
  for (std::size_t m = 0; m < masks.size(); ++m) {
    for (int terms = 0; terms < 16; ++terms) {
      Inputs in = plain;
      in.options.mask = masks[m];
      in.options.query_offset = 130;
      if ((terms & 1) != 0) in.options.softcap = 2;
      if ((terms & 2) != 0) in.options.bias = bias.view();
      if ((terms & 4) != 0) in.options.alibi_slopes = slopes.view();
      if ((terms & 8) != 0) in.options.sinks = sinks.view();
      ASSERT_TRUE(matches_reference(run(in, execution()), in))
          << "mask " << m << ", terms " << terms;
    }
  }
}

TEST_P(ExactDecode, LargeScoresMoveTheReference) {
  for (const double gain : {30.0, 1e4, 1e7}) {
    Inputs in = normal_inputs({.seqlen_q = 1,
                               .seqlen_k = 200,
                               .heads = 4,
                               .heads_kv = 2,
                               .head_dim = 16,
                               .head_dim_v = 16},
                              DType::kFloat32, 5);
    Random random(6);
    in.query.fill_normal(random, gain);
    EXPECT_TRUE(matches_reference(run(in, execution()), in)) << gain;
  }
}

TEST_P(ExactDecode, SameBitsForAnyThreadsAndMemoryLimit) {
  Inputs in = normal_inputs({.batch = 2,
                             .seqlen_q = 2,
                             .seqlen_k = 1111,
                             .heads = 8,
                             .heads_kv = 4,
                             .head_dim = 40,
                             .head_dim_v = 24},
                            DType::kBFloat16, 7);
  in.options.mask = causal(QueryOffset::end());
  for (const std::int64_t chunk : {0, 100, 300}) {
    const Output expected = run(in, execution(1, chunk));
    EXPECT_TRUE(matches_reference(expected, in));
    for (const int threads : {2, 3, 7}) {
      Execution several = execution(threads, chunk);
      EXPECT_TRUE(same_bits(run(in, several), expected)) << threads << ", chunk " << chunk;
      several.memory_limit =
          plan_attention(in.query, in.key, in.value, in.options, execution(1, chunk))
              .workspace_bytes;
      EXPECT_TRUE(same_bits(run(in, several), expected)) << threads << " limited";
    }
  }
}

// Heads take turns or not, tiles are short or long: that must not be seen.
TEST_P(ExactDecode, SameBitsForAnyRowStrides) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const Inputs in = normal_inputs({.batch = 1,
                                     .seqlen_q = 1,
                                     .seqlen_k = 300,
                                     .heads = 12,
                                     .heads_kv = 6,
                                     .head_dim = 48,
                                     .head_dim_v = 40},
                                    dtype, 8);
    const Output expected = run(in, execution());
    for (const Layout layout : {Layout::kSwapped, Layout::kPaddedRow}) {
      EXPECT_TRUE(same_bits(run(in_layout(in, layout), execution()), expected)) << name_of(layout);
    }
    for (const Layout layout : {Layout::kGaps, Layout::kReversed}) {  // by panels
      EXPECT_TRUE(matches_reference(run(in_layout(in, layout), execution()), in))
          << name_of(layout);
    }
  }
}

TEST_P(ExactDecode, ABatchEntryOrAHeadAloneHasTheSameBits) {
  const Inputs in = normal_inputs({.batch = 3,
                                   .seqlen_q = 2,
                                   .seqlen_k = 333,
                                   .heads = 6,
                                   .heads_kv = 3,
                                   .head_dim = 33,
                                   .head_dim_v = 17},
                                  DType::kFloat32, 9);
  const Output all = run(in, execution());
  for (std::int64_t b = 0; b < 3; ++b) {
    for (std::int64_t h = 0; h < 6; ++h) {
      const auto part = [&](const Tensor& from, std::int64_t head) {
        const std::vector<std::int64_t> shape = from.shape();
        Tensor one(DType::kFloat32, {1, shape[1], 1, shape[3]});
        for (std::int64_t n = 0; n < shape[1]; ++n) {
          for (std::int64_t d = 0; d < shape[3]; ++d) {
            one.set({0, n, 0, d}, from.get({b, n, head, d}));
          }
        }
        return one;
      };
      Inputs one;
      one.query = part(in.query, h);
      one.key = part(in.key, h / 2);
      one.value = part(in.value, h / 2);
      const Output alone = run(one, execution(3));
      EXPECT_TRUE(same_bits(alone.output, part(all.output, h))) << b << ", " << h;
      for (std::int64_t n = 0; n < 2; ++n)
        EXPECT_EQ(alone.lse.get({0, 0, n}), all.lse.get({b, h, n}));
    }
  }
}

TEST_P(ExactDecode, HiddenNanNeverLeaks) {
  for (const double bad : {kNan, kInf, -kInf}) {
    Inputs in = normal_inputs({.batch = 1,
                               .seqlen_q = 3,
                               .seqlen_k = 100,
                               .heads = 4,
                               .heads_kv = 2,
                               .head_dim = 20,
                               .head_dim_v = 12},
                              DType::kFloat32, 10);
    in.options.mask = causal(95);
    const Output clean = run(in, execution());
    for (std::int64_t d = 0; d < 20; ++d) in.key.set({0, 99, 1, d}, bad);
    for (std::int64_t d = 0; d < 12; ++d) in.value.set({0, 98, 0, d}, bad);
    EXPECT_TRUE(same_bits(run(in, execution()), clean)) << bad;
    // Seen by the last query only.
    in.value.set({0, 97, 0, 5}, bad);
    const Output result = run(in, execution());
    for (std::int64_t h = 0; h < 4; ++h) {
      for (std::int64_t q = 0; q < 3; ++q) {
        for (std::int64_t d = 0; d < 12; ++d) {
          const double found = result.output.get({0, q, h, d});
          if (h < 2 && q == 2 && d == 5) {
            EXPECT_FALSE(std::isfinite(found)) << bad;
          } else {
            EXPECT_EQ(found, clean.output.get({0, q, h, d})) << bad;
          }
        }
      }
    }
  }
}

TEST_P(ExactDecode, VisibleNanMakesItsRowsNan) {
  Inputs in = normal_inputs(
      {.seqlen_q = 1, .seqlen_k = 70, .heads = 4, .heads_kv = 2, .head_dim = 8, .head_dim_v = 8},
      DType::kFloat32, 11);
  in.key.set({0, 33, 1, 2}, kNan);
  const Output result = run(in, execution());
  for (std::int64_t h = 0; h < 4; ++h) {
    EXPECT_EQ(std::isnan(result.lse.get({0, h, 0})), h >= 2);
    EXPECT_EQ(std::isnan(result.output.get({0, 0, h, 3})), h >= 2);
  }
}

TEST_P(ExactDecode, RowsThatSeeNothingAreEmpty) {
  Inputs in = normal_inputs({.batch = 2,
                             .seqlen_q = 1,
                             .seqlen_k = 80,
                             .heads = 2,
                             .heads_kv = 1,
                             .head_dim = 8,
                             .head_dim_v = 8},
                            DType::kFloat32, 12);
  const Tensor lengths = integers({0, 80});
  in.options.mask = key_lengths(lengths.view());
  const Output result = run(in, execution());
  EXPECT_EQ(result.lse.get({0, 1, 0}), -kInf);
  EXPECT_EQ(result.output.get({0, 0, 1, 3}), 0);
  EXPECT_TRUE(matches_reference(result, in));
}

TEST_P(ExactDecode, PlansProgressAndStops) {
  Inputs in = normal_inputs({.seqlen_q = 1,
                             .seqlen_k = 3000,
                             .heads = 8,
                             .heads_kv = 2,
                             .head_dim = 16,
                             .head_dim_v = 16},
                            DType::kFloat32, 13);
  Execution execution = this->execution(2, 1000);
  Progress progress;
  execution.progress = &progress;
  const AttentionPlan plan = plan_attention(in.query, in.key, in.value, in.options, execution);
  EXPECT_TRUE(plan.decode);
  run(in, execution);
  EXPECT_EQ(progress.done, plan.tiles_visited);
  EXPECT_EQ(progress.total, plan.tiles_visited);

  std::stop_source source;
  source.request_stop();
  execution.stop = source.get_token();
  EXPECT_TRUE(throws_error([&] { run(in, execution); }, ErrorCode::kCancelled, {"stopped"}));

  in.options.dropout.probability = 0.5;
  EXPECT_FALSE(plan_attention(in.query, in.key, in.value, in.options, execution).decode);
}

TEST_P(ExactDecode, WritesFloat32OnRequest) {
  const Inputs in = normal_inputs(
      {.seqlen_q = 1, .seqlen_k = 70, .heads = 4, .heads_kv = 2, .head_dim = 64, .head_dim_v = 64},
      DType::kFloat16, 14);
  EXPECT_TRUE(matches_reference(run_as(DType::kFloat32, in, execution()), in));
}

INSTANTIATE_TEST_SUITE_P(Kernels, ExactDecode, testing::ValuesIn(usable_kernels()),
                         [](const auto& one) { return one.param; });

}  // namespace
}  // namespace longspan::test
