// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What LSH attention promises beside its numbers: the same bits for any threads and batch, exact
// attention where every key is in the window, NaN only where it is seen, errors in words.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/compare.h"
#include "support/lsh_call.h"

namespace longspan::test {
namespace {

std::vector<LshInputs> all_kinds(DType dtype) {
  std::vector<LshInputs> all;
  all.push_back(normal_lsh({2, 403, 2, 24}, dtype, 5));
  all.back().options.mask = causal();
  all.push_back(all.back());
  all.back().lsh.wrap = Wrap::kAll;
  all.push_back(separate_lsh(dtype, 150, 211, 6));
  all.push_back(all.front());
  all.back().lsh.whole_buckets = true;
  all.back().lsh.local_window = {{20, 0}};
  all.push_back(normal_lsh({2, 403, 2, 24}, dtype, 7));  // one chunk
  all.back().lsh.chunk_len = 1000;
  return all;
}

TEST(LshAttention, HasTheSameBitsForAnyThreadsAndForABatchEntryAlone) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat64}) {
    for (const LshInputs& in : all_kinds(dtype)) {
      for (const std::string& kernel : kernels_for(dtype)) {
        SCOPED_TRACE(kernel);
        const Output one = run_lsh(in, on(kernel, 1));
        for (const int threads : {2, 3, 7}) {
          EXPECT_TRUE(same_bits(one, run_lsh(in, on(kernel, threads)))) << threads;
        }
        for (const std::int64_t batch : {0, 1}) {
          const Output alone = run_lsh(entry_of(in, batch), on(kernel));
          const Output expected{entry_of(one.output, batch), entry_of(one.lse, batch)};
          EXPECT_TRUE(same_bits(alone, expected)) << batch;
        }
      }
    }
  }
}

Output exact(const Tensor& query, const Tensor& key, const Tensor& value,
             const AttentionOptions& options) {
  Inputs in{query, key, value, options, {}};
  return run(in);
}

TEST(LshAttention, OfWholeBucketsThatAreOneIsExactAttention) {
  for (const std::string& kernel : usable_kernels()) {
    SCOPED_TRACE(kernel);
    LshInputs in = separate_lsh(DType::kFloat64, 150, 211, 8);
    put_into_one_bucket(in);
    const Output result = run_lsh(in, on(kernel));
    const Output truth = exact(in.query, in.key, in.value, in.options);
    EXPECT_TRUE(within_rel_l2(result.output.values(), truth.output.values(), 1e-13));
    EXPECT_TRUE(within_elementwise(result.lse.values(), truth.lse.values(), 1e-13, 1e-13));
  }
}

// A position that sees itself only when it sees nothing else: all but the diagonal of exact
// attention to the normalised keys.
TEST(LshAttention, OfOneChunkIsExactAttentionWithoutTheDiagonal) {
  LshInputs in = normal_lsh({2, 130, 2, 24}, DType::kFloat64, 9);
  in.lsh.chunk_len = 130;
  in.options.mask = causal();
  Tensor key(DType::kFloat64, in.query.shape());
  normalize_keys(in.query, key, KeyNorm::kRms);
  AttentionOptions options;
  options.scale = 1.0;
  options.mask = causal() & predicate([](std::int64_t, std::int64_t, std::int64_t i,
                                         std::int64_t j) { return i != j || i == 0; });
  const Output result = run_lsh(in), truth = exact(in.query, key, in.value, options);
  EXPECT_TRUE(within_rel_l2(result.output.values(), truth.output.values(), 1e-13));
}

TEST(LshAttention, DoesNotHangOnTheOrderOfRounds) {
  LshInputs in = normal_lsh({1, 300, 2, 16}, DType::kFloat64, 10);
  in.options.mask = causal();
  in.lsh.num_buckets = {8};
  Tensor buckets(DType::kInt32, {1, 2, 4, 300});
  hash_vectors(in.query, buckets, in.lsh);
  Tensor reversed(DType::kInt32, buckets.shape());
  for (std::int64_t h = 0; h < 2; ++h) {
    for (std::int64_t r = 0; r < 4; ++r) {
      for (std::int64_t n = 0; n < 300; ++n)
        reversed.set({0, h, 3 - r, n}, buckets.get({0, h, r, n}));
    }
  }
  in.lsh.buckets = buckets;
  const Output forward = run_lsh(in);
  in.lsh.buckets = reversed;
  const Output backward = run_lsh(in);
  EXPECT_TRUE(within_rel_l2(backward.output.values(), forward.output.values(), 1e-14));
  EXPECT_TRUE(within_elementwise(backward.lse.values(), forward.lse.values(), 1e-13, 1e-14));
}

// Values of 1 give 1, also where scores are far apart from their bound and from each other.
TEST(LshAttention, WeightsSumToOneHoweverLargeTheRows) {
  for (const double gain : {1e-20, 1.0, 30.0, 1e4, 1e15}) {
    LshInputs in = normal_lsh({1, 500, 1, 32}, DType::kFloat32, 11);
    Random random(12);
    in.query.fill_normal(random, gain);
    in.value.fill(1);
    in.options.mask = causal();
    for (const std::string& kernel : usable_kernels()) {
      SCOPED_TRACE(testing::Message() << kernel << " " << gain);
      const Output result = run_lsh(in, on(kernel));
      EXPECT_TRUE(within_rel_l2(result.output.values(), std::vector<double>(16000, 1.0), 1e-6));
    }
  }
}

// Hidden rows of NaN change no bit; visible ones make exactly the rows NaN that see them.
TEST(LshAttention, KeepsHiddenNaNAway) {
  const double nan = std::nan("");
  const double inf = std::numeric_limits<double>::infinity();
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const std::string& kernel : kernels_for(dtype)) {
      SCOPED_TRACE(kernel);
      for (const double poison : {nan, inf}) {
        LshInputs in = normal_lsh({1, 200, 2, 20}, dtype, 13);
        const Tensor lengths = integers({150});
        in.options.mask = key_lengths(lengths) & causal();
        const Output clean = run_lsh(in, on(kernel));
        const Output result = run_lsh(poisoned(in, 150, poison), on(kernel));
        for (std::int64_t n = 0; n < 150; ++n) {
          for (std::int64_t h = 0; h < 2; ++h) {
            ASSERT_TRUE(std::isfinite(result.lse.get({0, h, n})));
            for (std::int64_t d = 0; d < 20; ++d) {
              ASSERT_EQ(result.output.get({0, n, h, d}), clean.output.get({0, n, h, d}));
            }
          }
        }
      }
    }
  }
}

TEST(LshAttention, SpreadsVisibleNaNToRowsThatSeeIt) {
  LshInputs in = normal_lsh({1, 200, 1, 8}, DType::kFloat64, 14);
  in.options.mask = causal();
  in.value.set({0, 60, 0, 2}, std::nan(""));
  const reference::LshResult truth = truth_of(in);
  for (const std::string& kernel : usable_kernels()) {
    SCOPED_TRACE(kernel);
    EXPECT_TRUE(matches(run_lsh(in, on(kernel)), truth, DType::kFloat64));
  }
}

TEST(LshAttention, PlansWhatItDoes) {
  LshInputs in = normal_lsh({1, 1000, 2, 32}, DType::kFloat32, 15);
  Execution execution;
  execution.threads = 2;
  const LshPlan plan = plan_lsh_attention(in.query, {}, in.value, in.lsh, in.options, execution);
  EXPECT_EQ(plan.threads, 2);
  EXPECT_EQ(plan.num_hashes, 4);
  EXPECT_EQ(plan.num_chunks, 63);
  EXPECT_EQ(plan.num_buckets, (std::vector<std::int64_t>{8, 8}));
  EXPECT_EQ(plan.flop, 2.0 * 64 * 2 * 4 * 1000 * 32);
  const Output free = run_lsh(in);
  execution.memory_limit = plan.workspace_bytes;
  EXPECT_TRUE(same_bits(free, run_lsh(in, execution)));
  execution.memory_limit = plan.workspace_bytes - 1;
  const LshPlan less = plan_lsh_attention(in.query, {}, in.value, in.lsh, in.options, execution);
  EXPECT_EQ(less.threads, 1);
  execution.memory_limit = 1000;
  EXPECT_TRUE(throws_error([&] { run_lsh(in, execution); }, ErrorCode::kOutOfMemory,
                           {"memory_limit", "1000"}));
}

// 8 MiB a tensor.
TEST(LshAttention, CopiesALongListWhereMemoryIsNotShort) {
  LshInputs in = normal_lsh({1, 32768, 1, 64}, DType::kFloat32, 16);
  in.lsh.num_hashes = 1;
  Execution execution;
  execution.threads = 2;
  const auto plan = [&] {
    return plan_lsh_attention(in.query, {}, in.value, in.lsh, in.options, execution);
  };
  const LshPlan free = plan();
  const Output expected = run_lsh(in, execution);
  execution.memory_limit = free.workspace_bytes - 1;
  const LshPlan less = plan();
  EXPECT_EQ(less.threads, 2);
  EXPECT_EQ(free.workspace_bytes - less.workspace_bytes, std::size_t{3} << 23);
  EXPECT_TRUE(same_bits(expected, run_lsh(in, execution)));
}

TEST(LshAttention, StopsOnRequest) {
  const LshInputs in = normal_lsh({1, 1000, 2, 32}, DType::kFloat32, 16);
  std::stop_source stop;
  stop.request_stop();
  Execution execution;
  execution.stop = stop.get_token();
  EXPECT_TRUE(throws_error([&] { run_lsh(in, execution); }, ErrorCode::kCancelled, {"stopped"}));
}

TEST(LshAttention, RefusesInWords) {
  const LshInputs good = normal_lsh({1, 100, 2, 8}, DType::kFloat32, 17);
  const auto refuses = [&](auto change, std::initializer_list<std::string> words) {
    LshInputs in = good;
    change(in);
    return throws_error([&] { run_lsh(in); }, ErrorCode::kInvalidArgument, words);
  };
  EXPECT_TRUE(refuses([](LshInputs& in) { in.lsh.chunk_len = 0; }, {"chunk_len", "0"}));
  EXPECT_TRUE(refuses([](LshInputs& in) { in.lsh.num_buckets = {3}; }, {"num_buckets", "3"}));
  EXPECT_TRUE(refuses([](LshInputs& in) { in.options.scale = 1.0; }, {"scale"}));
  EXPECT_TRUE(refuses([](LshInputs& in) { in.options.dropout.probability = 0.5; }, {"dropout"}));
  EXPECT_TRUE(refuses(
      [](LshInputs& in) {
        in.options.bias = in.keep(Tensor(DType::kFloat32, {100, 100}));
      },
      {"bias"}));
  EXPECT_TRUE(refuses(
      [](LshInputs& in) {
        in.value = Tensor(DType::kFloat32, {1, 99, 2, 8});
      },
      {"99", "100"}));
  LshInputs separate = separate_lsh(DType::kFloat32, 150, 211, 18);
  separate.options = {};
  EXPECT_TRUE(throws_error([&] { run_lsh(separate); }, ErrorCode::kInvalidArgument,
                           {"query_offset", "end"}));
  Tensor output = good.query;  // overlaps
  EXPECT_TRUE(throws_error(
      [&] {
        lsh_attention(good.query, {}, good.value, {output, {}});
      },
      ErrorCode::kInvalidArgument, {"overlap"}));
}

TEST(LshAttention, OfNothingIsNothing) {
  for (const std::vector<std::int64_t>& shape :
       {std::vector<std::int64_t>{0, 9, 2, 4}, {1, 0, 2, 4}, {1, 9, 0, 4}}) {
    EXPECT_NO_THROW(run_lsh(normal_lsh(shape, DType::kFloat32, 19)));
  }
  LshInputs headless = separate_lsh(DType::kFloat32, 50, 50, 19);
  headless.query = Tensor(DType::kFloat32, {2, 50, 0, 24});
  EXPECT_NO_THROW(run_lsh(headless));
}

TEST(LshAttention, CountsItsWork) {
  LshInputs shared = normal_lsh({1, 500, 3, 8}, DType::kFloat32, 20);
  shared.lsh.chunk_len = 40;  // of panels that are not full
  LshInputs windowed = separate_lsh(DType::kFloat32, 150, 211, 20);
  windowed.lsh.local_window = std::array<std::int64_t, 2>{20, 0};
  LshInputs whole = separate_lsh(DType::kFloat32, 211, 211, 20);
  whole.lsh.whole_buckets = true;
  for (const LshInputs& in : {shared, windowed, whole}) {
    Progress progress;
    Execution execution = on("", 2);
    execution.progress = &progress;
    const Output result = run_lsh(in, execution);
    EXPECT_GT(progress.total, 0);
    EXPECT_EQ(progress.done, progress.total);
    run_lsh_backward(in, result, normal_derivatives(in, DType::kFloat32, 21), execution);
    EXPECT_EQ(progress.done, progress.total);
  }
}

}  // namespace
}  // namespace longspan::test
