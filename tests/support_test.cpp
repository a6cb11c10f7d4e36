// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The tests' own tools: comparisons must fail for zeros, NaN and swapped rows, gradients included;
// tensors must hold what was stored.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/backward.h"
#include "support/call.h"
#include "support/compare.h"
#include "support/golden.h"

namespace longspan::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

class ComparisonOf : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    inputs_ = normal_inputs({.batch = 1,
                             .seqlen_q = 9,
                             .seqlen_k = 300,
                             .heads = 2,
                             .heads_kv = 1,
                             .head_dim = 8,
                             .head_dim_v = 5},
                            GetParam(), 7);
    truth_ = truth_of(inputs_);
    result_ = make_output(inputs_, GetParam());
    result_.output.fill_values(truth_.output);
    result_.lse.fill_values(truth_.lse);
  }
  Inputs inputs_;
  reference::AttentionResult truth_;
  Output result_;
};

TEST_P(ComparisonOf, AcceptsTheRoundedTruth) { EXPECT_TRUE(matches_reference(result_, inputs_)); }

TEST_P(ComparisonOf, RefusesZeros) {
  result_.output.fill(0);
  EXPECT_FALSE(matches_reference(result_, inputs_));
}

TEST_P(ComparisonOf, RefusesAZeroLse) {
  result_.lse.fill(0);
  EXPECT_FALSE(matches_reference(result_, inputs_));
}

TEST_P(ComparisonOf, RefusesOneNan) {
  result_.output.set(4, kNan);
  EXPECT_FALSE(matches_reference(result_, inputs_));
}

TEST_P(ComparisonOf, RefusesNanEverywhere) {
  result_.output.fill(kNan);
  result_.lse.fill(kNan);
  EXPECT_FALSE(matches_reference(result_, inputs_));
}

TEST_P(ComparisonOf, RefusesSwappedRows) {
  for (int d = 0; d < 5; ++d) {
    const double first = result_.output.get({0, 0, 0, d});
    result_.output.set({0, 0, 0, d}, result_.output.get({0, 1, 0, d}));
    result_.output.set({0, 1, 0, d}, first);
  }
  EXPECT_FALSE(matches_reference(result_, inputs_));
}

TEST_P(ComparisonOf, RefusesOneWrongRow) {
  for (int d = 0; d < 5; ++d)
    result_.output.set({0, 8, 1, d}, 1.1 * result_.output.get({0, 8, 1, d}));
  EXPECT_FALSE(matches_reference(result_, inputs_));
}

TEST_P(ComparisonOf, RefusesAMissingKey) {
  Inputs shorter = inputs_;
  shorter.options.mask = key_range(0, 299);
  const reference::AttentionResult wrong = truth_of(shorter);
  result_.output.fill_values(wrong.output);
  result_.lse.fill_values(wrong.lse);
  EXPECT_FALSE(matches_reference(result_, inputs_));
}

INSTANTIATE_TEST_SUITE_P(DTypes, ComparisonOf,
                         testing::Values(DType::kFloat32, DType::kFloat64, DType::kFloat16,
                                         DType::kBFloat16),
                         [](const auto& one) { return std::string(longspan::name_of(one.param)); });

class GradientComparisonOf : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    inputs_ = normal_inputs({.batch = 1,
                             .seqlen_q = 9,
                             .seqlen_k = 300,
                             .heads = 2,
                             .heads_kv = 1,
                             .head_dim = 8,
                             .head_dim_v = 5},
                            GetParam(), 7);
    Random random(8);
    Tensor sinks = inputs_.keep(Tensor(DType::kFloat32, {2}).fill_normal(random));
    inputs_.options.bias = inputs_.keep(Tensor(DType::kFloat32, {9, 300}).fill(0.25)).view();
    inputs_.options.sinks = sinks.view();
    derivatives_ = normal_derivatives(inputs_, GetParam(), 9);
    truth_ = gradient_truth_of(inputs_, derivatives_).sum;
    gradients_ = gradients_from(truth_);
  }
  GradientTensors gradients_from(const reference::GradientSet& values) const {
    GradientTensors made = make_gradients(inputs_, GetParam());
    made.query.fill_values(values.query);
    made.key.fill_values(values.key);
    made.value.fill_values(values.value);
    made.bias.fill_values(values.bias);
    made.sinks.fill_values(values.sinks);
    return made;
  }
  testing::AssertionResult passes(const GradientTensors& gradients) const {
    return matches_reference(gradients, inputs_, derivatives_);
  }
  // The comparison after `change` to a copy of one gradient, for each of them.
  void refuses(const std::function<void(Tensor&)>& change) const {
    using Member = Tensor GradientTensors::*;
    for (const Member member :
         {&GradientTensors::query, &GradientTensors::key, &GradientTensors::value,
          &GradientTensors::bias, &GradientTensors::sinks}) {
      GradientTensors changed = gradients_from(truth_);
      change(changed.*member);
      EXPECT_FALSE(passes(changed));
    }
  }

  Inputs inputs_;
  Derivatives derivatives_;
  reference::GradientSet truth_;
  GradientTensors gradients_;
};

TEST_P(GradientComparisonOf, AcceptsTheRoundedTruth) { EXPECT_TRUE(passes(gradients_)); }

TEST_P(GradientComparisonOf, RefusesZeros) {
  refuses([](Tensor& gradient) { gradient.fill(0); });
}

TEST_P(GradientComparisonOf, RefusesNan) {
  refuses([](Tensor& gradient) { gradient.fill(kNan); });
  refuses([](Tensor& gradient) { gradient.set(1, kNan); });
}

TEST_P(GradientComparisonOf, RefusesAnotherScale) {
  refuses([](Tensor& gradient) {
    for (std::int64_t n = 0; n < gradient.size(); ++n) gradient.set(n, 1.05 * gradient.get(n));
  });
}

TEST_P(GradientComparisonOf, RefusesElementsOutOfPlace) {
  refuses([](Tensor& gradient) {
    std::vector<double> values = gradient.values();
    std::rotate(values.begin(), values.begin() + 1, values.end());
    gradient.fill_values(values);
  });
}

TEST_P(GradientComparisonOf, RefusesTheGradientsOfAnotherCall) {
  Derivatives no_lse = derivatives_;
  no_lse.lse = Tensor();
  EXPECT_FALSE(passes(gradients_from(gradient_truth_of(inputs_, no_lse).sum)));
  Inputs other = inputs_;
  other.options.mask = key_range(0, 299);
  EXPECT_FALSE(passes(gradients_from(gradient_truth_of(other, derivatives_).sum)));
  other = inputs_;
  other.options.dropout = {0.01, 5};
  EXPECT_FALSE(passes(gradients_from(gradient_truth_of(other, derivatives_).sum)));
}

INSTANTIATE_TEST_SUITE_P(DTypes, GradientComparisonOf,
                         testing::Values(DType::kFloat32, DType::kFloat64, DType::kFloat16,
                                         DType::kBFloat16),
                         [](const auto& one) { return std::string(longspan::name_of(one.param)); });

TEST(GradientComparison, ZeroInTruthIsMeasuredAgainstItsTerms) {
  const GradientTolerance tolerance = gradient_tolerance_of(DType::kFloat32, DType::kFloat32);
  Tensor actual(DType::kFloat32, {4});
  const std::vector<double> truth(4, 1e-17), terms(4, 2.0), none(4, 0.0);
  const auto naive = [&] { return truth; };
  EXPECT_TRUE(gradient_matches(actual.fill(1e-6), truth, terms, none, tolerance, naive));
  EXPECT_FALSE(gradient_matches(actual.fill(1e-4), truth, terms, none, tolerance, naive));
  EXPECT_FALSE(gradient_matches(actual.fill(kNan), truth, terms, none, tolerance, naive));
  EXPECT_FALSE(gradient_matches(actual.fill(1e-30), none, none, none, tolerance, [&] {
    return none;
  })) << "no terms at all";
  EXPECT_TRUE(gradient_matches(actual.fill(0), none, none, none, tolerance, [&] { return none; }));
}

TEST(GradientComparison, ErrorsOfTermsAddUpByChance) {
  const GradientTolerance tolerance = gradient_tolerance_of(DType::kBFloat16, DType::kBFloat16);
  Tensor actual(DType::kFloat32, {1});
  const std::vector<double> truth{0.04}, terms{6.0}, chance{0.5};  // of some 150 terms
  const auto naive = [&] { return truth; };
  EXPECT_TRUE(gradient_matches(actual.fill(0.0415), truth, terms, chance, tolerance, naive));
  EXPECT_FALSE(gradient_matches(actual.fill(0.0415), truth, terms, {0.1}, tolerance, naive));
  EXPECT_FALSE(gradient_matches(actual.fill(0.043), truth, terms, chance, tolerance, naive));
}

TEST(Comparison, TruthOfZeroIsOnlyMetByZero) {
  const std::vector<double> zeros(6, 0.0);
  EXPECT_TRUE(within_rel_l2(zeros, zeros, 1e-6));
  EXPECT_FALSE(within_rel_l2({0, 0, 1e-30, 0, 0, 0}, zeros, 1e-6));
  EXPECT_TRUE(within_absolute({0, 0, 1e-9, 0, 0, 0}, zeros, 1e-8));
  EXPECT_FALSE(within_absolute({0, 0, 1e-7, 0, 0, 0}, zeros, 1e-8));
}

TEST(Comparison, ScoresOfTensAreOffByTheirRounding) {
  Inputs inputs = normal_inputs(
      {.seqlen_q = 40, .seqlen_k = 50, .heads = 1, .heads_kv = 1, .head_dim = 64, .head_dim_v = 7},
      DType::kFloat32, 12);
  inputs.options.scale = 3;
  const reference::AttentionResult truth = truth_of(inputs);
  Output result = make_output(inputs, DType::kFloat32);
  result.lse.fill_values(truth.lse);
  const auto off_by = [&](double roundoffs) {
    std::vector<double> values = truth.output;
    for (std::size_t n = 0; n < values.size(); ++n) {
      values[n] += roundoffs * 0x1p-24 * truth.score_effect[n];
    }
    result.output.fill_values(values);
    return difference(values, truth.output).rel_l2;
  };
  EXPECT_GT(off_by(1.8), tolerance_of(DType::kFloat32).output_rel_l2);
  EXPECT_TRUE(matches_reference(result, inputs));
  off_by(6);
  EXPECT_FALSE(matches_reference(result, inputs));
  result.output.fill_values(truth.output);
  result.lse.set(5, result.lse.get({0, 0, 5}) * (1 + 1e-5));
  EXPECT_FALSE(matches_reference(result, inputs));

  inputs.options.scale = 1e7;  // whatever the rounding, zeros do not pass
  result.lse.fill_values(truth_of(inputs).lse);
  result.output.fill(0);
  EXPECT_FALSE(matches_reference(result, inputs));
}

TEST(Comparison, TruthThatRoundsToZeroIsOnlyMetByZero) {
  Inputs inputs = normal_inputs(
      {.seqlen_q = 3, .seqlen_k = 4, .heads = 1, .heads_kv = 1, .head_dim = 8, .head_dim_v = 5},
      DType::kFloat16, 3);
  inputs.options.sinks = inputs.keep(Tensor(DType::kFloat32, {1}).fill(40)).view();
  const reference::AttentionResult truth = truth_of(inputs);  // near 1e-17
  Output result = make_output(inputs, DType::kFloat16);
  result.output.fill(0);
  result.lse.fill_values(truth.lse);
  EXPECT_TRUE(matches_reference(result, inputs));
  result.output.set(2, 0.001);
  EXPECT_FALSE(matches_reference(result, inputs));
}

TEST(Comparison, SpecialsMeetTheirLike) {
  EXPECT_TRUE(within_elementwise({kNan, kInf, -kInf, 1}, {kNan, kInf, -kInf, 1}, 0, 0));
  EXPECT_FALSE(within_elementwise({kInf}, {-kInf}, 1, 1));
  EXPECT_FALSE(within_elementwise({kNan}, {1}, 1, 1));
  EXPECT_FALSE(within_elementwise({1}, {kNan}, 1, 1));
  EXPECT_FALSE(within_elementwise({1}, {kInf}, 1, 1));
  EXPECT_FALSE(within_rel_l2({kInf, 1}, {1, 1}, 1e30));
  EXPECT_FALSE(within_absolute({kNan, 1}, {1, 1}, 1e30));
}

TEST(Comparison, SizesMustAgree) {
  EXPECT_FALSE(within_rel_l2({1, 2}, {1, 2, 3}, 10));
  EXPECT_FALSE(within_elementwise({}, {1}, 10, 10));
  EXPECT_TRUE(within_rel_l2({}, {}, 0));
}

TEST(Rounding, NarrowTypes) {
  EXPECT_EQ(rounded_to(DType::kFloat16, 65504.0), 65504.0);
  EXPECT_EQ(rounded_to(DType::kFloat16, 65519.99), 65504.0);
  EXPECT_EQ(rounded_to(DType::kFloat16, 65520.0), kInf);
  EXPECT_EQ(rounded_to(DType::kFloat16, 1.0 + 0x1p-11), 1.0);               // tie to even
  EXPECT_EQ(rounded_to(DType::kFloat16, 1.0 + 3 * 0x1p-11), 1.0 + 0x1p-9);  // tie to even
  EXPECT_EQ(rounded_to(DType::kFloat16, 0x1p-24), 0x1p-24);
  EXPECT_EQ(rounded_to(DType::kFloat16, 0x1p-25), 0.0);
  EXPECT_EQ(rounded_to(DType::kFloat16, -0x1.8p-24), -0x1p-23);
  EXPECT_EQ(rounded_to(DType::kBFloat16, 1.0 + 0x1p-8), 1.0);
  EXPECT_EQ(rounded_to(DType::kBFloat16, 1.0 + 3 * 0x1p-8), 1.0 + 0x1p-6);
  EXPECT_EQ(rounded_to(DType::kBFloat16, -3.3895313892515355e38), -3.3895313892515355e38);
  EXPECT_EQ(rounded_to(DType::kBFloat16, 3.4e38), kInf);
  EXPECT_EQ(rounded_to(DType::kBFloat16, 0x1p-133), 0x1p-133);
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
    EXPECT_TRUE(std::isnan(rounded_to(dtype, kNan)));
    EXPECT_EQ(rounded_to(dtype, -kInf), -kInf);
    EXPECT_TRUE(std::signbit(rounded_to(dtype, -0.0)));
  }
}

TEST(Tensors, EveryLayoutHoldsItsValues) {
  for (int layout = 0; layout < kOutputLayouts; ++layout) {
    for (const std::vector<std::int64_t>& shape : std::vector<std::vector<std::int64_t>>{
             {2, 3, 4, 5}, {3, 4, 5}, {4, 5}, {5}, {2, 0, 4, 5}}) {
      for (const std::size_t misalignment : {0, 4, 12}) {
        Tensor tensor(DType::kFloat32, shape, static_cast<Layout>(layout), misalignment);
        for (std::int64_t n = 0; n < tensor.size(); ++n) tensor.set(n, static_cast<double>(n + 1));
        const std::vector<double> values = tensor.values();
        ASSERT_EQ(values.size(), static_cast<std::size_t>(tensor.size()));
        for (std::size_t n = 0; n < values.size(); ++n)
          ASSERT_EQ(values[n], static_cast<double>(n + 1));
        EXPECT_TRUE(tensor.surroundings_untouched()) << name_of(static_cast<Layout>(layout));
      }
    }
  }
}

TEST(Tensors, AStrayWriteIsSeen) {
  Tensor tensor(DType::kFloat32, {3, 5}, Layout::kPaddedRow);
  static_cast<float*>(tensor.view().data)[5] = 1;
  EXPECT_FALSE(tensor.surroundings_untouched());
}

TEST(Golden, OptionsAreReadInFull) {
  GoldenCase golden;
  golden.metadata["options"] =
      "--layout bhsd --causal --window 9,-1 --query-offset -8 --scale 0.3 --softcap 4.0 "
      "--key-chunk 3 --dropout 0.25 --seed 7 --backward";
  const GoldenOptions options = parse_options(golden);
  EXPECT_TRUE(options.heads_first);
  ASSERT_EQ(options.attention.mask.terms().size(), 2u);
  EXPECT_EQ(options.attention.mask.terms()[1].integers[0], 9);
  EXPECT_EQ(options.attention.mask.terms()[1].integers[1], -1);
  EXPECT_EQ(options.attention.query_offset.number, -8);
  EXPECT_EQ(options.attention.scale, 0.3);
  EXPECT_EQ(options.attention.softcap, 4.0);
  EXPECT_EQ(options.execution.key_chunk, 3);
  EXPECT_EQ(options.attention.dropout.probability, 0.25);
  EXPECT_EQ(options.attention.dropout.seed, 7u);
  golden.metadata["options"] = "--surprise";
  EXPECT_THROW(parse_options(golden), std::invalid_argument);
}

}  // namespace
}  // namespace longspan::test
