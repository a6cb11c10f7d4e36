// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What attention refuses, with which code and which words; and the empty tensors that it accepts.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <thread>

#include "support/call.h"

namespace longspan::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr Shape kShape{.batch = 2,
                       .seqlen_q = 6,
                       .seqlen_k = 9,
                       .heads = 4,
                       .heads_kv = 2,
                       .head_dim = 8,
                       .head_dim_v = 5};

class ExactErrors : public testing::Test {
 protected:
  // attention and plan_attention refuse the same calls with the same words.
  testing::AssertionResult refused(std::initializer_list<std::string> words,
                                   ErrorCode code = ErrorCode::kInvalidArgument) {
    const auto by_plan = throws_error(
        [&] { plan_attention(in_.query, in_.key, in_.value, in_.options, execution_); }, code,
        words);
    if (!by_plan) return testing::AssertionFailure() << "plan_attention: " << by_plan.message();
    return throws_error([&] { call(); }, code, words);
  }
  testing::AssertionResult call_refused(std::initializer_list<std::string> words) {
    return throws_error([&] { call(); }, ErrorCode::kInvalidArgument, words);
  }
  void call() {
    attention(in_.query, in_.key, in_.value, {out_.output, out_.lse}, in_.options, execution_);
  }

  Inputs in_ = normal_inputs(kShape, DType::kFloat32, 51);
  Output out_ = make_output(in_, DType::kFloat32);
  Execution execution_;
};

TEST_F(ExactErrors, TheFixtureItselfIsAccepted) { EXPECT_NO_THROW(call()); }

TEST_F(ExactErrors, HeadCountsThatDoNotDivide) {
  in_.key = Tensor(DType::kFloat32, {2, 9, 3, 8}).fill(0);
  in_.value = Tensor(DType::kFloat32, {2, 9, 3, 5}).fill(0);
  EXPECT_TRUE(refused({"num_heads", "4", "3"}));
}

TEST_F(ExactErrors, NoKeyHeadForQueryHeads) {
  in_.key = Tensor(DType::kFloat32, {2, 9, 0, 8});
  in_.value = Tensor(DType::kFloat32, {2, 9, 0, 5});
  EXPECT_TRUE(refused({"4", "0"}));
}

TEST_F(ExactErrors, ShapesThatDoNotFit) {
  const Tensor value = in_.value, key = in_.key;
  in_.value = Tensor(DType::kFloat32, {2, 10, 2, 5}).fill(0);
  EXPECT_TRUE(refused({"seqlen", "9", "10"}));
  in_.value = Tensor(DType::kFloat32, {2, 9, 1, 5}).fill(0);
  EXPECT_TRUE(refused({"2", "1"}));
  in_.value = Tensor(DType::kFloat32, {3, 9, 2, 5}).fill(0);
  EXPECT_TRUE(refused({"batch", "2", "3"}));
  in_.value = value;
  in_.key = Tensor(DType::kFloat32, {2, 9, 2, 7}).fill(0);
  EXPECT_TRUE(refused({"head_dim", "8", "7"}));
  in_.key = Tensor(DType::kFloat32, {1, 9, 2, 8}).fill(0);
  EXPECT_TRUE(refused({"batch", "2", "1"}));
}

TEST_F(ExactErrors, RanksThatDiffer) {
  in_.key = Tensor(DType::kFloat32, {9, 2, 8}).fill(0);
  EXPECT_TRUE(refused({"rank", "4", "3"}));
  in_.query = in_.key = in_.value = Tensor(DType::kFloat32, {9}).fill(0);
  EXPECT_TRUE(refused({"rank", "1"}));
}

TEST_F(ExactErrors, AbsentTensors) {
  in_.value = Tensor();
  EXPECT_TRUE(refused({"value"}));
}

TEST_F(ExactErrors, DTypesThatDiffer) {
  in_.key = Tensor(DType::kBFloat16, {2, 9, 2, 8}).fill(0);
  EXPECT_TRUE(refused({"float32", "bfloat16"}));
  in_.query = in_.key = in_.value = Tensor(DType::kInt32, {2, 9, 2, 8}).fill(0);
  EXPECT_TRUE(refused({"int32"}));
}

TEST_F(ExactErrors, EmptyHeadDims) {
  in_.query = Tensor(DType::kFloat32, {2, 6, 4, 0});
  in_.key = Tensor(DType::kFloat32, {2, 9, 2, 0});
  EXPECT_TRUE(refused({"head_dim", "0"}));
  in_ = normal_inputs(kShape, DType::kFloat32, 51);
  in_.value = Tensor(DType::kFloat32, {2, 9, 2, 0});
  EXPECT_TRUE(refused({"head_dim_v", "0"}));
}

TEST_F(ExactErrors, SizesThatOverflow) {
  constexpr std::int64_t kHuge = std::int64_t{1} << 40;
  ConstTensorView query = in_.query, key = in_.key, value = in_.value;
  TensorView output = out_.output, lse = out_.lse;
  query.shape = {kHuge, kHuge, 4, 8};
  key.shape = value.shape = {kHuge, kHuge, 2, 8};
  query.strides = key.strides = value.strides = {0, 0, 0, 1};
  output.shape = query.shape;
  lse.shape = {kHuge, 4, kHuge};
  EXPECT_TRUE(throws_error(
      [&] {
        attention(query, key, value, {output, lse});
      },
      ErrorCode::kInvalidArgument, {std::to_string(kHuge)}));
  EXPECT_TRUE(throws_error([&] { plan_attention(query, key, value); }, ErrorCode::kInvalidArgument,
                           {std::to_string(kHuge)}));
  query.shape = {2, -1, 4, 8};
  EXPECT_TRUE(throws_error([&] { plan_attention(query, in_.key, in_.value); },
                           ErrorCode::kInvalidArgument, {"-1"}));
}

TEST_F(ExactErrors, ScaleAndSoftcap) {
  for (const double scale : {kNan, kInf, -kInf}) {
    in_.options.scale = scale;
    EXPECT_TRUE(refused({"scale", "finite"}));
  }
  in_.options.scale.reset();
  for (const double softcap : {-1.0, kNan, kInf}) {
    in_.options.softcap = softcap;
    EXPECT_TRUE(refused({"softcap"})) << softcap;
  }
}

TEST_F(ExactErrors, TheOffsetMustBeSaid) {
  for (const Mask& mask : {causal(), window(2, 2), prefix(3)}) {
    in_.options.mask = mask;
    EXPECT_TRUE(refused({"6", "9", "0", "end"}));
  }
  in_.options.mask = Mask();
  in_.options.alibi_slopes = in_.keep(Tensor(DType::kFloat32, {4}).fill(0.5)).view();
  EXPECT_TRUE(refused({"6", "9", "0", "end"}));
  for (const QueryOffset& offset : {QueryOffset(0), QueryOffset::end()}) {
    in_.options.query_offset = offset;
    EXPECT_NO_THROW(call());
  }
}

TEST_F(ExactErrors, OffsetsByBatch) {
  in_.options.mask = causal();
  in_.options.query_offset = QueryOffset::for_batch(in_.keep(integers({1, 2, 3})).view());
  EXPECT_TRUE(refused({"2", "3"}));
  in_.options.query_offset =
      QueryOffset::for_batch(in_.keep(Tensor(DType::kFloat32, {2}).fill(0)).view());
  EXPECT_TRUE(refused({"float32"}));
}

TEST_F(ExactErrors, KeyLengthsOutsideOfTheTensor) {
  in_.options.mask = key_lengths(in_.keep(integers({9, 10})).view());
  EXPECT_TRUE(refused({"10", "9"}));
  in_.options.mask = key_lengths(in_.keep(integers({9, -1})).view());
  EXPECT_TRUE(refused({"-1"}));
  in_.options.mask = key_lengths(in_.keep(integers({9, 9, 9})).view());
  EXPECT_TRUE(refused({"3", "2"}));
}

TEST_F(ExactErrors, Documents) {
  EXPECT_TRUE((in_.options.mask =
                   documents(in_.keep(integers({0, 6})).view(), in_.keep(integers({0, 9})).view()),
               refused({"batch", "2", "1"})));
  Shape packed = kShape;
  packed.batch = 1;
  in_ = normal_inputs(packed, DType::kFloat32, 51);
  out_ = make_output(in_, DType::kFloat32);
  const ConstTensorView good_k = in_.keep(integers({0, 5, 9})).view();
  const auto with_q = [&](const std::vector<std::int64_t>& boundaries) {
    in_.options.mask = documents(in_.keep(integers(boundaries)).view(), good_k);
  };
  with_q({0, 4, 6});
  EXPECT_NO_THROW(call());
  with_q({0, 5, 4});
  EXPECT_TRUE(refused({"cu_seqlens_q", "5", "4"}));
  with_q({1, 4, 6});
  EXPECT_TRUE(refused({"cu_seqlens_q", "0", "1"}));
  with_q({0, 4, 7});
  EXPECT_TRUE(refused({"cu_seqlens_q", "6", "7"}));
  with_q({0, 2, 4, 6});
  EXPECT_TRUE(refused({"4", "3"}));
}

TEST_F(ExactErrors, KeyRangeOutsideOfTheTensor) {
  in_.options.mask = key_range(0, 10);
  EXPECT_TRUE(refused({"10", "9"}));
  in_.options.mask = key_range(5, 4);
  EXPECT_TRUE(refused({"5", "4"}));
  in_.options.mask = key_range(-1, 4);
  EXPECT_TRUE(refused({"-1"}));
}

TEST_F(ExactErrors, TensorsThatDoNotBroadcast) {
  in_.options.mask = dense(in_.keep(Tensor(DType::kBool, {6, 8}).fill(1)).view());
  EXPECT_TRUE(refused({"[6, 8]", "[2, 4, 6, 9]"}));
  in_.options.mask = dense(in_.keep(Tensor(DType::kFloat32, {6, 9}).fill(1)).view());
  EXPECT_TRUE(refused({"float32", "bool"}));
  in_.options.mask = Mask();
  in_.options.bias = in_.keep(Tensor(DType::kFloat32, {3, 1, 1}).fill(1)).view();
  EXPECT_TRUE(refused({"bias", "[3, 1, 1]", "[2, 4, 6, 9]"}));
  in_.options.bias = in_.keep(Tensor(DType::kInt32, {6, 9}).fill(1)).view();
  EXPECT_TRUE(refused({"bias", "int32"}));
}

TEST_F(ExactErrors, SlopesAndSinks) {
  in_.options.query_offset = QueryOffset::end();
  in_.options.alibi_slopes = in_.keep(Tensor(DType::kFloat32, {3}).fill(1)).view();
  EXPECT_TRUE(refused({"alibi_slopes", "3", "4"}));
  in_.options.alibi_slopes = in_.keep(Tensor(DType::kInt64, {4}).fill(1)).view();
  EXPECT_TRUE(refused({"alibi_slopes", "int64"}));
  in_.options.alibi_slopes = {};
  in_.options.sinks = in_.keep(Tensor(DType::kFloat32, {2}).fill(1)).view();
  EXPECT_TRUE(refused({"sinks", "2", "4"}));
}

TEST_F(ExactErrors, OutputsOfAnotherShapeOrType) {
  const Output good = out_;
  out_.output = Tensor(DType::kFloat32, {2, 6, 4, 8});
  EXPECT_TRUE(call_refused({"output", "[2, 6, 4, 8]", "[2, 6, 4, 5]"}));
  out_.output = Tensor(DType::kFloat16, {2, 6, 4, 5});
  EXPECT_TRUE(call_refused({"output", "float16", "float32"}));
  out_ = good;
  out_.lse = Tensor(DType::kFloat32, {2, 6, 4});
  EXPECT_TRUE(call_refused({"lse", "[2, 6, 4]", "[2, 4, 6]"}));
  out_.lse = Tensor(DType::kFloat64, {2, 4, 6});
  EXPECT_TRUE(call_refused({"lse", "float64", "float32"}));
  out_.lse = Tensor();
  EXPECT_NO_THROW(call()) << "lse may be absent";
  out_.output = Tensor();
  EXPECT_TRUE(call_refused({"output"}));
}

TEST_F(ExactErrors, OutputsThatOverlap) {
  Tensor same(DType::kFloat32, {2, 6, 4, 8});
  in_.query = same.fill(1);
  in_.value = Tensor(DType::kFloat32, {2, 9, 2, 8}).fill(1);
  out_.output = same;
  EXPECT_TRUE(call_refused({"output", "query", "overlap"}));
  out_ = make_output(in_, DType::kFloat32);
  TensorView lse = out_.lse;
  lse.data = out_.output.view().data;
  EXPECT_TRUE(throws_error(
      [&] {
        attention(in_.query, in_.key, in_.value, {out_.output, lse});
      },
      ErrorCode::kInvalidArgument, {"lse", "overlap"}));
  in_.options.bias = tensor(out_.output.view().data, DType::kFloat32, {9});
  EXPECT_TRUE(call_refused({"output", "bias", "overlap"}));
  in_.options.bias = {};
  in_.options.mask = dense(tensor(out_.output.view().data, DType::kBool, {9}));
  EXPECT_TRUE(call_refused({"output", "mask", "overlap"}));
  in_.options.mask = {};
  TensorView folded = out_.output;
  folded.strides[1] = 0;
  EXPECT_TRUE(throws_error(
      [&] {
        attention(in_.query, in_.key, in_.value, {folded, out_.lse});
      },
      ErrorCode::kInvalidArgument, {"output"}))
      << "an output that overlaps itself";
}

TEST_F(ExactErrors, Kernels) {
  execution_.kernel = "abacus";
  EXPECT_TRUE(refused({"abacus"}, ErrorCode::kUnsupported));
  for (const KernelInfo& kernel : kernels()) {
    if (kernel.usable) continue;
    execution_.kernel = kernel.name;
    EXPECT_TRUE(refused({kernel.name}, ErrorCode::kUnsupported)) << "never a fall-back";
  }
}

TEST_F(ExactErrors, NegativeThreadsAndChunks) {
  execution_.threads = -1;
  EXPECT_TRUE(refused({"threads", "-1"}));
  execution_ = {};
  execution_.query_chunk = -2;
  EXPECT_TRUE(refused({"query_chunk", "-2"}));
  execution_ = {};
  execution_.key_chunk = -3;
  EXPECT_TRUE(refused({"key_chunk", "-3"}));
}

TEST_F(ExactErrors, TooLittleMemory) {
  execution_.memory_limit = 1;
  EXPECT_TRUE(refused({"1"}, ErrorCode::kOutOfMemory));
}

TEST_F(ExactErrors, StoppedBeforeTheStart) {
  std::stop_source stop;
  stop.request_stop();
  execution_.stop = stop.get_token();
  EXPECT_TRUE(throws_error([&] { call(); }, ErrorCode::kCancelled, {}));
}

TEST_F(ExactErrors, StoppedWhileItRuns) {
  std::stop_source stop;
  execution_.stop = stop.get_token();
  std::atomic<int> asked{0};
  in_.options.mask = predicate([&](std::int64_t, std::int64_t, std::int64_t, std::int64_t) {
    if (++asked == 3) stop.request_stop();
    return true;
  });
  Shape longer = kShape;
  longer.seqlen_q = 64;
  longer.seqlen_k = 5000;
  const AttentionOptions options = in_.options;
  in_ = normal_inputs(longer, DType::kFloat32, 52);
  in_.options = options;
  out_ = make_output(in_, DType::kFloat32);
  EXPECT_TRUE(throws_error([&] { call(); }, ErrorCode::kCancelled, {}));
  EXPECT_LT(asked.load(), 2 * 4 * 64 * 5000) << "it went on to the end";
}

TEST_F(ExactErrors, AnExceptionOfThePredicateArrives) {
  for (const int threads : {1, 3}) {
    execution_.threads = threads;
    in_.options.mask =
        predicate([](std::int64_t, std::int64_t, std::int64_t, std::int64_t key) -> bool {
          if (key == 7) throw std::out_of_range("key seven");
          return true;
        });
    EXPECT_THROW(call(), std::out_of_range);
  }
  in_.options.mask = Mask();
  EXPECT_NO_THROW(call()) << "the library works on after it";
}

TEST_F(ExactErrors, ProgressEndsComplete) {
  Progress progress;
  execution_.progress = &progress;
  call();
  EXPECT_GT(progress.total.load(), 0);
  EXPECT_EQ(progress.done.load(), progress.total.load());
}

TEST(ExactEmpty, EveryExtentButTheDimsMayBeZero) {
  for (const std::string& kernel : usable_kernels()) {
    for (const Shape& shape :
         {Shape{.batch = 0, .seqlen_q = 3, .seqlen_k = 4, .head_dim = 8, .head_dim_v = 5},
          Shape{.seqlen_q = 0, .seqlen_k = 4, .head_dim = 8, .head_dim_v = 5},
          Shape{.seqlen_q = 3, .seqlen_k = 0, .head_dim = 8, .head_dim_v = 5},
          Shape{.seqlen_q = 0, .seqlen_k = 0, .head_dim = 8, .head_dim_v = 5},
          Shape{.seqlen_q = 3,
          .seqlen_k = 4,
          .heads = 0,
          .heads_kv = 0,
          .head_dim = 8,
          .head_dim_v = 5},
          Shape{.seqlen_q = 3,
          .seqlen_k = 4,
          .heads = 0,
          .heads_kv = 2,
          .head_dim = 8,
          .head_dim_v = 5}}) {
      Inputs inputs = normal_inputs(shape, DType::kFloat32, 53);
      inputs.options.query_offset = 0;
      inputs.options.mask = causal();
      Output result = make_output(inputs, DType::kFloat32);
      result.output.fill(kNan);
      result.lse.fill(kNan);
      ASSERT_NO_THROW(attention(inputs.query, inputs.key, inputs.value, {result.output, result.lse},
                                inputs.options, on(kernel)));
      for (const double x : result.output.values()) EXPECT_EQ(x, 0.0);
      for (const double x : result.lse.values()) EXPECT_EQ(x, -kInf);
      EXPECT_NO_THROW(
          plan_attention(inputs.query, inputs.key, inputs.value, inputs.options, on(kernel)));
      EXPECT_NO_THROW(run_summary(inputs, on(kernel)));
    }
  }
}

TEST(ExactEmpty, NullDataOfEmptyTensors) {
  const ConstTensorView none = tensor(static_cast<const float*>(nullptr), {0, 8});
  EXPECT_NO_THROW(attention(
      none, none, none,
      {tensor(static_cast<float*>(nullptr), {0, 8}), tensor(static_cast<float*>(nullptr), {0})}));
}

TEST(Kernels, AreListedWithOneChosen) {
  int chosen = 0;
  for (const KernelInfo& kernel : kernels()) {
    EXPECT_FALSE(kernel.name.empty());
    EXPECT_TRUE(kernel.usable || !kernel.chosen);
    EXPECT_EQ(kernel.reason.empty(), kernel.chosen) << kernel.name << ": " << kernel.reason;
    chosen += kernel.chosen ? 1 : 0;
  }
  EXPECT_EQ(chosen, 1);
  EXPECT_GE(available_threads(), 1);
}

TEST(Kernels, ThePlanNamesTheOneAskedFor) {
  const Inputs inputs = normal_inputs(kShape, DType::kFloat32, 54);
  for (const std::string& kernel : usable_kernels()) {
    const AttentionPlan plan =
        plan_attention(inputs.query, inputs.key, inputs.value, {}, on(kernel));
    EXPECT_EQ(plan.kernel, kernel);
  }
}

}  // namespace
}  // namespace longspan::test
