// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What the gradients of LSH attention promise beside their numbers: the same bits for any threads
// and batch, those of exact attention where every key is in the window, nothing from hidden rows.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/compare.h"
#include "support/lsh_call.h"

namespace longspan::test {
namespace {

// Long enough that a round has several shares, which take turns.
std::vector<LshInputs> all_kinds(DType dtype) {
  std::vector<LshInputs> all;
  all.push_back(normal_lsh({2, 1100, 2, 24}, dtype, 5));
  all.back().options.mask = causal();
  for (const Wrap wrap : {Wrap::kRound, Wrap::kAll}) {
    all.push_back(all.front());
    all.back().lsh.wrap = wrap;
    all.back().lsh.chunks_after = 1;
    all.back().lsh.dedup = Dedup::kNone;
  }
  all.push_back(separate_lsh(dtype, 550, 611, 6));
  all.push_back(separate_lsh(dtype, 550, 611, 6));
  all.back().lsh.whole_buckets = true;
  all.push_back(all.front());
  all.back().lsh.local_window = {{300, 0}};
  all.push_back(normal_lsh({2, 403, 2, 24}, dtype, 7));  // one chunk
  all.back().lsh.chunk_len = 1000;
  return all;
}

TEST(LshBackward, HasTheSameBitsForAnyThreadsAndForABatchEntryAlone) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat64}) {
    for (const LshInputs& in : all_kinds(dtype)) {
      const std::string kernel = kernels_for(dtype).front();
      const Output result = run_lsh(in, on(kernel));
      const Derivatives derivatives = normal_derivatives(in, dtype, 1);
      const GradientTensors one = run_lsh_backward(in, result, derivatives, on(kernel, 1));
      for (const int threads : {2, 3, 7}) {
        EXPECT_TRUE(same_bits(one, run_lsh_backward(in, result, derivatives, on(kernel, threads))))
            << threads;
      }
      for (const std::int64_t batch : {0, 1}) {
        const GradientTensors alone = run_lsh_backward(
            entry_of(in, batch), {entry_of(result.output, batch), entry_of(result.lse, batch)},
            {entry_of(derivatives.output, batch), entry_of(derivatives.lse, batch)}, on(kernel));
        GradientTensors expected;
        expected.query = entry_of(one.query, batch);
        expected.key = entry_of(one.key, batch);
        expected.value = entry_of(one.value, batch);
        EXPECT_TRUE(same_bits(alone, expected)) << batch;
      }
    }
  }
}

TEST(LshBackward, OfLongSequencesIsTheDefinition) {
  for (LshInputs& in : all_kinds(DType::kFloat64)) {
    const Output result = run_lsh(in);
    const Derivatives derivatives = normal_derivatives(in, DType::kFloat64, 2);
    GradientTensors found = run_lsh_backward(in, result, derivatives);
    EXPECT_TRUE(matches(found.views(), gradient_truth_of(in, derivatives), DType::kFloat64));
  }
}

TEST(LshBackward, OfWholeBucketsThatAreOneIsThatOfExactAttention) {
  for (const std::string& kernel : usable_kernels()) {
    SCOPED_TRACE(kernel);
    LshInputs in = separate_lsh(DType::kFloat64, 550, 611, 8);
    put_into_one_bucket(in);
    const Output result = run_lsh(in, on(kernel));
    const Derivatives derivatives = normal_derivatives(in, DType::kFloat64, 3);
    const GradientTensors found = run_lsh_backward(in, result, derivatives, on(kernel));
    const Inputs exact{in.query, in.key, in.value, in.options, {}};
    const GradientTensors truth = run_backward(exact, result, derivatives);
    EXPECT_TRUE(within_rel_l2(found.query.values(), truth.query.values(), 1e-12));
    EXPECT_TRUE(within_rel_l2(found.key.values(), truth.key.values(), 1e-12));
    EXPECT_TRUE(within_rel_l2(found.value.values(), truth.value.values(), 1e-12));
  }
}

// Rows of NaN that are padding and see nothing have gradients 0, and change no bit of others.
TEST(LshBackward, KeepsHiddenNaNAway) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat64}) {
    for (const std::string& kernel : kernels_for(dtype)) {
      SCOPED_TRACE(kernel);
      for (const double poison : {std::nan(""), std::numeric_limits<double>::infinity()}) {
        LshInputs in = normal_lsh({1, 200, 2, 20}, dtype, 13);
        const Tensor offsets = integers({0, 150, 200});
        Tensor visible = Tensor(DType::kBool, {1, 1, 1, 200}).fill(1);
        for (std::int64_t n = 150; n < 200; ++n) visible.set({0, 0, 0, n}, 0);
        in.options.mask = documents(offsets) & dense(visible);
        const Derivatives derivatives = normal_derivatives(in, dtype, 4);
        const GradientTensors clean =
            run_lsh_backward(in, run_lsh(in, on(kernel)), derivatives, on(kernel));
        const LshInputs bad = poisoned(in, 150, poison);
        const GradientTensors found =
            run_lsh_backward(bad, run_lsh(bad, on(kernel)), derivatives, on(kernel));
        for (const auto tensor : {&GradientTensors::query, &GradientTensors::value}) {
          for (std::int64_t n = 0; n < 200; ++n) {
            const std::int64_t row = 40 * n;
            for (std::int64_t d = row; d < row + 40; ++d) {
              const double x = (found.*tensor).get(d);
              if (n >= 150) {
                ASSERT_EQ(x, 0.0) << n;
              } else {
                // Padding of NaN is hashed where padding of numbers is: behind the last bucket.
                ASSERT_EQ(x, (clean.*tensor).get(d)) << n;
              }
            }
          }
        }
      }
    }
  }
}

TEST(LshBackward, SpreadsVisibleNaNToRowsThatSeeIt) {
  LshInputs in = normal_lsh({1, 200, 1, 8}, DType::kFloat64, 14);
  in.options.mask = causal();
  in.value.set({0, 60, 0, 2}, std::nan(""));
  const Derivatives derivatives = normal_derivatives(in, DType::kFloat64, 5);
  const reference::AttentionGradients truth = gradient_truth_of(in, derivatives);
  for (const std::string& kernel : usable_kernels()) {
    SCOPED_TRACE(kernel);
    const GradientTensors found =
        run_lsh_backward(in, run_lsh(in, on(kernel)), derivatives, on(kernel));
    EXPECT_TRUE(std::isnan(found.query.get({0, 60, 0, 0})));
    for (std::int64_t n = 0; n < found.query.size(); ++n) {
      ASSERT_EQ(std::isnan(found.query.get(n)), std::isnan(truth.sum.query[n])) << n;
      ASSERT_EQ(std::isnan(found.value.get(n)), std::isnan(truth.sum.value[n])) << n;
    }
  }
}

// Rows of zeros, and those too short to be divided by their length.
TEST(LshBackward, KnowsRowsWithoutALength) {
  for (const KeyNorm norm : {KeyNorm::kRms, KeyNorm::kL2}) {
    LshInputs in = normal_lsh({1, 100, 1, 8}, DType::kFloat64, 15);
    in.lsh.key_norm = norm;
    for (std::int64_t d = 0; d < 8; ++d) {
      in.query.set({0, 10, 0, d}, 0.0);
      in.query.set({0, 20, 0, d}, 1e-14 * static_cast<double>(d));
    }
    const Derivatives derivatives = normal_derivatives(in, DType::kFloat64, 6);
    GradientTensors found = run_lsh_backward(in, run_lsh(in), derivatives);
    EXPECT_TRUE(matches(found.views(), gradient_truth_of(in, derivatives), DType::kFloat64));
    // Gradients of such rows are larger than all others by the factor of their keys.
    const reference::AttentionGradients truth = gradient_truth_of(in, derivatives);
    for (const std::int64_t row : {9, 10, 20}) {
      std::vector<double> is, should;
      for (std::int64_t d = 8 * row; d < 8 * row + 8; ++d) {
        is.push_back(found.query.get(d));
        should.push_back(truth.sum.query[d]);
      }
      EXPECT_TRUE(within_rel_l2(is, should, 1e-9)) << row;
    }
  }
}

TEST(LshBackward, ComputesWhatIsAskedFor) {
  for (const LshInputs& in : all_kinds(DType::kBFloat16)) {
    const Output result = run_lsh(in);
    const Derivatives derivatives = normal_derivatives(in, DType::kBFloat16, 7);
    GradientTensors all = run_lsh_backward(in, result, derivatives);
    for (const auto one : {&Gradients::query, &Gradients::key, &Gradients::value}) {
      GradientTensors again = run_lsh_backward(in, result, derivatives);
      again.query.fill(9);
      if (!in.shared) again.key.fill(9);
      again.value.fill(9);
      Gradients into;
      into.*one = again.views().*one;
      if (!is_given(into.*one)) continue;
      lsh_attention_backward(in.query, in.key_view(), in.value, {result.output, result.lse},
                             {derivatives.output, derivatives.lse}, into, in.lsh, in.options);
      EXPECT_EQ(reference::read_all(into.*one), reference::read_all(all.views().*one));
    }
  }
}

TEST(LshBackward, PlansWhatItDoes) {
  const LshInputs in = normal_lsh({1, 1000, 2, 32}, DType::kFloat32, 16);
  Execution execution;
  execution.threads = 2;
  const auto plan = [&] {
    return plan_lsh_attention_backward(in.query, {}, in.value, in.lsh, in.options, execution);
  };
  const LshPlan free = plan();
  EXPECT_EQ(free.threads, 2);
  EXPECT_EQ(free.num_chunks, 63);
  EXPECT_EQ(free.flop, 2.0 * 160 * 2 * 4 * 1000 * 32);
  const Output result = run_lsh(in);
  const Derivatives derivatives = normal_derivatives(in, DType::kFloat32, 8);
  const GradientTensors unlimited = run_lsh_backward(in, result, derivatives);
  execution.memory_limit = free.workspace_bytes;
  EXPECT_TRUE(same_bits(unlimited, run_lsh_backward(in, result, derivatives, execution)));
  execution.memory_limit = free.workspace_bytes - 1;
  EXPECT_EQ(plan().threads, 1);
  execution.memory_limit = 1000;
  EXPECT_TRUE(throws_error([&] { run_lsh_backward(in, result, derivatives, execution); },
                           ErrorCode::kOutOfMemory, {"lsh_attention_backward", "1000"}));
}

// 8 MiB a tensor.
TEST(LshBackward, CopiesALongListWhereMemoryIsNotShort) {
  LshInputs in = normal_lsh({1, 32768, 1, 64}, DType::kFloat32, 17);
  in.lsh.num_hashes = 1;
  Execution execution;
  execution.threads = 2;
  const auto plan = [&] {
    return plan_lsh_attention_backward(in.query, {}, in.value, in.lsh, in.options, execution);
  };
  const LshPlan free = plan();
  const Output result = run_lsh(in);
  const Derivatives derivatives = normal_derivatives(in, DType::kFloat32, 8);
  const GradientTensors expected = run_lsh_backward(in, result, derivatives, execution);
  execution.memory_limit = free.workspace_bytes - 1;
  const LshPlan less = plan();
  EXPECT_EQ(less.threads, 2);
  EXPECT_EQ(free.workspace_bytes - less.workspace_bytes, std::size_t{5} << 23);
  EXPECT_TRUE(same_bits(expected, run_lsh_backward(in, result, derivatives, execution)));
}

TEST(LshBackward, StopsOnRequest) {
  const LshInputs in = normal_lsh({1, 1000, 2, 32}, DType::kFloat32, 17);
  const Output result = run_lsh(in);
  std::stop_source stop;
  stop.request_stop();
  Execution execution;
  execution.stop = stop.get_token();
  EXPECT_TRUE(throws_error(
      [&] { run_lsh_backward(in, result, normal_derivatives(in, DType::kFloat32, 9), execution); },
      ErrorCode::kCancelled, {"stopped"}));
}

TEST(LshBackward, RefusesInWords) {
  const LshInputs in = normal_lsh({1, 100, 2, 8}, DType::kFloat32, 18);
  const Output result = run_lsh(in);
  const Derivatives derivatives = normal_derivatives(in, DType::kFloat32, 10);
  GradientTensors found = run_lsh_backward(in, result, derivatives);
  const auto refuses = [&](auto change, std::initializer_list<std::string> words) {
    ConstPartial partial{result.output, result.lse}, dresult{derivatives.output, {}};
    Gradients into = found.views();
    change(partial, dresult, into);
    return throws_error(
        [&] { lsh_attention_backward(in.query, {}, in.value, partial, dresult, into, in.lsh); },
        ErrorCode::kInvalidArgument, words);
  };
  Tensor key(DType::kFloat32, {1, 100, 2, 8});
  EXPECT_TRUE(refuses([&](auto&, auto&, Gradients& into) { into.key = key; },
                      {"lsh_attention_backward", "dkey", "shared"}));
  EXPECT_TRUE(refuses([](ConstPartial& partial, auto&, auto&) { partial.lse = {}; }, {"lse"}));
  EXPECT_TRUE(refuses([&](auto&, auto&, Gradients& into) { into.bias = key; }, {"dbias"}));
  EXPECT_TRUE(refuses([&](auto&, auto&, Gradients& into) { into.value = found.query; },
                      {"overlap", "dquery"}));
  Tensor narrow(DType::kFloat32, {1, 99, 2, 8});
  EXPECT_TRUE(refuses([&](auto&, ConstPartial& dresult, auto&) { dresult.output = narrow; },
                      {"doutput", "99", "100"}));
}

TEST(LshBackward, OfNothingIsNothing) {
  for (const std::vector<std::int64_t>& shape :
       {std::vector<std::int64_t>{0, 9, 2, 4}, {1, 0, 2, 4}, {1, 9, 0, 4}}) {
    const LshInputs in = normal_lsh(shape, DType::kFloat32, 19);
    EXPECT_NO_THROW(run_lsh_backward(in, run_lsh(in), normal_derivatives(in, DType::kFloat32, 1)));
  }
  LshInputs headless = separate_lsh(DType::kFloat32, 50, 50, 19);
  headless.query = Tensor(DType::kFloat32, {2, 50, 0, 24});
  const GradientTensors found = run_lsh_backward(headless, run_lsh(headless),
                                                 normal_derivatives(headless, DType::kFloat32, 1));
  EXPECT_EQ(found.key.values(), std::vector<double>(std::size_t{2} * 50 * 2 * 24, 0.0));
  EXPECT_EQ(found.value.values(), std::vector<double>(std::size_t{2} * 50 * 2 * 17, 0.0));
}

}  // namespace
}  // namespace longspan::test
