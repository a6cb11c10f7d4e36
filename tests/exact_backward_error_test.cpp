// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What attention_backward refuses, with which code and which words; and the empty tensors that it
// accepts.
#include <gtest/gtest.h>

#include <atomic>
#include <limits>

#include "support/backward.h"

namespace longspan::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr Shape kShape{.batch = 2,
                       .seqlen_q = 6,
                       .seqlen_k = 9,
                       .heads = 4,
                       .heads_kv = 2,
                       .head_dim = 8,
                       .head_dim_v = 5};

class ExactBackwardErrors : public testing::Test {
 protected:
  void SetUp() override { start(kShape); }

  void start(const Shape& shape, DType dtype = DType::kFloat32) {
    const Inputs before = in_;
    in_ = normal_inputs(shape, dtype, 61);
    in_.options = before.options;
    in_.kept = before.kept;
    result_ = run(in_);
    derivatives_ = normal_derivatives(in_, dtype, 62);
    into_ = make_gradients(in_, dtype);
  }
  // With a bias and sinks.
  void start_with_terms() {
    in_.options.bias = in_.keep(Tensor(DType::kFloat32, {4, 1, 9}).fill(0.5)).view();
    in_.options.sinks = in_.keep(Tensor(DType::kFloat32, {4}).fill(0.5)).view();
    start(kShape);
  }

  void call() { call(into_.views()); }
  void call(const Gradients& into) {
    attention_backward(in_.query, in_.key, in_.value, {result_.output, result_.lse},
                       {derivatives_.output, derivatives_.lse}, into, in_.options, execution_);
  }
  testing::AssertionResult refused(std::initializer_list<std::string> words,
                                   ErrorCode code = ErrorCode::kInvalidArgument) {
    return throws_error([&] { call(); }, code, words);
  }

  Inputs in_;
  Output result_;
  Derivatives derivatives_;
  GradientTensors into_;
  Execution execution_;
};

TEST_F(ExactBackwardErrors, TheFixtureItselfIsAccepted) {
  EXPECT_NO_THROW(call());
  EXPECT_TRUE(matches_reference(into_, in_, derivatives_));
  start_with_terms();
  EXPECT_NO_THROW(call());
  EXPECT_TRUE(matches_reference(into_, in_, derivatives_));
}

TEST_F(ExactBackwardErrors, InputsThatDoNotFit) {  // as attention() says it
  in_.key = Tensor(DType::kFloat32, {2, 9, 3, 8}).fill(0);
  in_.value = Tensor(DType::kFloat32, {2, 9, 3, 5}).fill(0);
  EXPECT_TRUE(refused({"num_heads", "4", "3"}));
  in_.value = Tensor(DType::kFloat32, {2, 10, 3, 5}).fill(0);
  EXPECT_TRUE(refused({"seqlen", "9", "10"}));
  in_.value = Tensor();
  EXPECT_TRUE(refused({"value"}));
}

TEST_F(ExactBackwardErrors, OptionsThatDoNotFit) {
  in_.options.mask = causal();
  EXPECT_TRUE(refused({"6", "9", "0", "end"}));
  in_.options.mask = key_range(0, 10);
  EXPECT_TRUE(refused({"10", "9"}));
  in_.options.mask = Mask();
  in_.options.scale = kNan;
  EXPECT_TRUE(refused({"scale", "finite"}));
  in_.options.scale.reset();
  for (const double probability : {-0.1, 1.1, kNan}) {
    in_.options.dropout.probability = probability;
    EXPECT_TRUE(refused({"dropout", "0", "1"})) << probability;
  }
}

TEST_F(ExactBackwardErrors, TheResultMustBeThere) {
  const Output good = result_;
  result_.lse = Tensor();
  EXPECT_TRUE(refused({"lse"})) << "attention() may leave it out, its gradient needs it";
  result_ = good;
  result_.output = Tensor();
  EXPECT_TRUE(refused({"output"}));
}

TEST_F(ExactBackwardErrors, ResultsOfAnotherShapeOrType) {
  const Output good = result_;
  result_.output = Tensor(DType::kFloat32, {2, 6, 4, 8}).fill(0);
  EXPECT_TRUE(refused({"output", "[2, 6, 4, 8]", "[2, 6, 4, 5]"}));
  result_.output = Tensor(DType::kInt32, {2, 6, 4, 5}).fill(0);
  EXPECT_TRUE(refused({"output", "int32", "float32"}));
  result_ = good;
  result_.lse = Tensor(DType::kFloat32, {2, 6, 4}).fill(0);
  EXPECT_TRUE(refused({"lse", "[2, 6, 4]", "[2, 4, 6]"}));
  result_.lse = Tensor(DType::kFloat64, {2, 4, 6}).fill(0);
  EXPECT_TRUE(refused({"lse", "float64", "float32"}));
}

TEST_F(ExactBackwardErrors, DerivativesOfAnotherShapeOrType) {
  const Derivatives good = derivatives_;
  derivatives_.output = Tensor();
  EXPECT_TRUE(refused({"doutput"}));
  derivatives_.output = Tensor(DType::kFloat32, {2, 6, 4, 8}).fill(0);
  EXPECT_TRUE(refused({"doutput", "[2, 6, 4, 8]", "[2, 6, 4, 5]"}));
  derivatives_.output = Tensor(DType::kInt32, {2, 6, 4, 5}).fill(0);
  EXPECT_TRUE(refused({"doutput", "int32", "float32"}));
  derivatives_ = good;
  derivatives_.lse = Tensor(DType::kFloat32, {2, 6, 4}).fill(0);
  EXPECT_TRUE(refused({"dlse", "[2, 6, 4]", "[2, 4, 6]"}));
  derivatives_.lse = Tensor(DType::kFloat64, {2, 4, 6}).fill(0);
  EXPECT_TRUE(refused({"dlse", "float64", "float32"}));
  derivatives_.lse = Tensor();
  EXPECT_NO_THROW(call()) << "dlse may be absent";
}

TEST_F(ExactBackwardErrors, GradientsOfAnotherShapeOrType) {
  start_with_terms();
  const GradientTensors good = into_;
  const auto expect = [&](Tensor GradientTensors::*member, const char* name,
                          const std::vector<std::int64_t>& wrong, const std::string& found,
                          const std::string& expected) {
    into_.*member = Tensor(DType::kFloat32, wrong);
    EXPECT_TRUE(refused({name, found, expected}));
    into_.*member = Tensor(DType::kInt32, (good.*member).shape());
    EXPECT_TRUE(refused({name, "int32", "float32"}));
    into_ = good;
  };
  expect(&GradientTensors::query, "dquery", {2, 6, 4, 5}, "[2, 6, 4, 5]", "[2, 6, 4, 8]");
  expect(&GradientTensors::key, "dkey", {2, 9, 4, 8}, "[2, 9, 4, 8]", "[2, 9, 2, 8]");
  expect(&GradientTensors::value, "dvalue", {9, 2, 5}, "[9, 2, 5]", "[2, 9, 2, 5]");
  expect(&GradientTensors::bias, "dbias", {4, 6, 9}, "[4, 6, 9]", "[4, 1, 9]");
  expect(&GradientTensors::sinks, "dsinks", {2}, "[2]", "[4]");
  into_.bias = Tensor(DType::kFloat64, {4, 1, 9});
  EXPECT_TRUE(refused({"dbias", "float64", "float32"}));
  into_ = good;
  into_.sinks = Tensor(DType::kFloat64, {4});
  EXPECT_TRUE(refused({"dsinks", "float64", "float32"}));
  into_ = good;
  into_.query = Tensor(DType::kFloat16, {2, 6, 4, 8});
  EXPECT_TRUE(refused({"dquery", "float16", "float32"}));
}

TEST_F(ExactBackwardErrors, GradientsOfWhatIsNotThere) {
  into_.bias = Tensor(DType::kFloat32, {9});
  EXPECT_TRUE(refused({"dbias", "bias"}));
  into_.bias = Tensor();
  into_.sinks = Tensor(DType::kFloat32, {4});
  EXPECT_TRUE(refused({"dsinks", "sinks"}));
}

TEST_F(ExactBackwardErrors, EveryGradientMayBeLeftOut) {
  start_with_terms();
  call();
  const GradientTensors all = into_;
  using Member = Tensor GradientTensors::*;
  const Member members[] = {&GradientTensors::query, &GradientTensors::key, &GradientTensors::value,
                            &GradientTensors::bias, &GradientTensors::sinks};
  for (const Member only : members) {
    into_ = GradientTensors();
    into_.*only = Tensor((all.*only).view().dtype, (all.*only).shape()).fill(kNan);
    EXPECT_NO_THROW(call());
    EXPECT_TRUE(matches_reference(into_, in_, derivatives_));
  }
  EXPECT_NO_THROW(call(Gradients{})) << "nothing to do";
}

TEST_F(ExactBackwardErrors, GradientsThatOverlap) {
  const auto overlaps = [&](const char* name, const char* other, const Gradients& into) {
    return throws_error([&] { call(into); }, ErrorCode::kInvalidArgument, {name, other, "overlap"});
  };
  Gradients into = into_.views();
  into.query.data = in_.query.view().data;
  EXPECT_TRUE(overlaps("dquery", "query", into)) << "an input";
  into = into_.views();
  into.value.data = in_.value.view().data;
  EXPECT_TRUE(overlaps("dvalue", "value", into));
  into = into_.views();
  into.value = derivatives_.output.view();
  into.value.shape[1] = 9, into.value.shape[2] = 2;
  EXPECT_TRUE(overlaps("dvalue", "doutput", into)) << "what it is computed from";
  into = into_.views();
  into.value = result_.output.view();
  into.value.shape[1] = 9, into.value.shape[2] = 2;
  EXPECT_TRUE(overlaps("dvalue", "output", into));
  into = into_.views();
  into.value.data = into.key.data;
  EXPECT_TRUE(overlaps("dvalue", "dkey", into)) << "another gradient";
  into = into_.views();
  into.key.strides[1] = 0;
  EXPECT_TRUE(throws_error([&] { call(into); }, ErrorCode::kInvalidArgument, {"dkey"})) << "itself";
}

TEST_F(ExactBackwardErrors, NoData) {
  Gradients into = into_.views();
  into.key.data = nullptr;  // a tensor with a shape is given
  EXPECT_TRUE(throws_error([&] { call(into); }, ErrorCode::kInvalidArgument, {"dkey", "null"}));
}

TEST_F(ExactBackwardErrors, Execution) {
  execution_.kernel = "abacus";
  EXPECT_TRUE(refused({"abacus"}, ErrorCode::kUnsupported));
  execution_ = {};
  execution_.threads = -1;
  EXPECT_TRUE(refused({"threads", "-1"}));
  execution_ = {};
  execution_.memory_limit = 1;
  EXPECT_TRUE(refused({"1"}, ErrorCode::kOutOfMemory));
  execution_ = {};
  execution_.query_chunk = execution_.key_chunk = INT64_MAX;
  EXPECT_NO_THROW(call()) << "larger than the tensors is no error";
}

TEST_F(ExactBackwardErrors, StoppedBeforeTheStart) {
  std::stop_source stop;
  stop.request_stop();
  execution_.stop = stop.get_token();
  EXPECT_TRUE(throws_error([&] { call(); }, ErrorCode::kCancelled, {}));
}

TEST_F(ExactBackwardErrors, StoppedWhileItRuns) {
  Shape longer = kShape;
  longer.seqlen_q = 64;
  longer.seqlen_k = 5000;
  start(longer);
  std::stop_source stop;
  execution_.stop = stop.get_token();
  std::atomic<int> asked{0};
  in_.options.mask = predicate([&](std::int64_t, std::int64_t, std::int64_t, std::int64_t) {
    if (++asked == 3) stop.request_stop();
    return true;
  });
  EXPECT_TRUE(throws_error([&] { call(); }, ErrorCode::kCancelled, {}));
  EXPECT_LT(asked.load(), 2 * 4 * 64 * 5000) << "it went on to the end";
}

TEST_F(ExactBackwardErrors, AnExceptionOfThePredicateArrives) {
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

TEST_F(ExactBackwardErrors, ProgressEndsComplete) {
  Progress progress;
  execution_.progress = &progress;
  call();
  EXPECT_GT(progress.total.load(), 0);
  EXPECT_EQ(progress.done.load(), progress.total.load());
}

TEST_F(ExactBackwardErrors, ProgressCountsTheTilesThatAreMet) {
  Progress progress;
  execution_.progress = &progress;
  execution_.key_chunk = 5;
  in_.options.query_offset = 0;
  in_.options.mask = causal();
  call();
  EXPECT_GT(progress.total.load(), 0);
  EXPECT_EQ(progress.done.load(), progress.total.load());
}

TEST(ExactBackwardEmpty, EveryExtentButTheDimsMayBeZero) {
  for (const std::string& kernel : usable_kernels()) {
    for (const Shape& shape :
         {Shape{.batch = 0, .seqlen_q = 3, .seqlen_k = 4, .head_dim = 8, .head_dim_v = 5},
          Shape{.seqlen_q = 0, .seqlen_k = 4, .head_dim = 8, .head_dim_v = 5},
          Shape{.seqlen_q = 3, .seqlen_k = 0, .head_dim = 8, .head_dim_v = 5},
          Shape{.seqlen_q = 0, .seqlen_k = 0, .head_dim = 8, .head_dim_v = 5},
          Shape{.seqlen_q = 3,
          .seqlen_k = 4,
          .heads = 0,
          .heads_kv = 2,
          .head_dim = 8,
          .head_dim_v = 5}}) {
      Inputs in = normal_inputs(shape, DType::kFloat32, 63);
      in.options.query_offset = 0;
      in.options.mask = causal();
      in.options.bias = in.keep(Tensor(DType::kFloat32, {1, 1}).fill(0.5)).view();
      GradientTensors gradients;
      ASSERT_NO_THROW(gradients =
                          run_backward(in, run(in, on(kernel)),
                                       normal_derivatives(in, DType::kFloat32, 64), on(kernel)));
      for (const Tensor* gradient :
           {&gradients.query, &gradients.key, &gradients.value, &gradients.bias}) {
        for (const double x : gradient->values()) EXPECT_EQ(x, 0.0);
      }
    }
  }
}

TEST(ExactBackwardEmpty, NullDataOfEmptyTensors) {
  const ConstTensorView none = tensor(static_cast<const float*>(nullptr), {0, 8});
  const ConstTensorView no_lse = tensor(static_cast<const float*>(nullptr), {0});
  const TensorView into = tensor(static_cast<float*>(nullptr), {0, 8});
  EXPECT_NO_THROW(attention_backward(none, none, none, {none, no_lse}, {none, no_lse},
                                     {into, into, into, {}, {}}));
}

}  // namespace
}  // namespace longspan::test
