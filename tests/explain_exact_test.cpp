// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The steps of exact attention that `explain` records: against the partials of the paper's
// algorithm run in JAX, the public summaries of the same chunks, and literal products.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "longspan/explain.h"
#include "support/call.h"
#include "support/compare.h"
#include "support/explained.h"
#include "support/golden.h"

namespace longspan::test {
namespace {

constexpr double kHidden = -std::numeric_limits<double>::infinity();

std::string chunk(std::int64_t c, const char* what) {
  return "chunk_" + std::to_string(c) + "/" + what;
}

class ExplainPaper : public testing::TestWithParam<std::string> {};

TEST_P(ExplainPaper, EveryChunkIsTheOneOfTheAlgorithm) {
  const GoldenCase golden = load_golden("paper", GetParam());
  const GoldenOptions options = parse_options(golden);
  const bool wide = golden.find("query").dtype == DType::kFloat64;
  const bool peaked = GetParam() == "peaked_f32";
  const double tight = wide ? 1e-13 : peaked ? 2e-5 : 3e-6;
  const Explanation record =
      explain_attention(golden.find("query"), golden.find("key"), golden.find("value"),
                        options.attention, options.execution, everything());
  const auto chunks = golden.find("chunk_max").shape[0];
  std::vector<double> maxima, sums;
  for (std::int64_t c = 0; c < chunks; ++c) {
    SCOPED_TRACE(c);
    const auto part = [&](const char* name) { return first_axis(golden, name, c); };
    EXPECT_TRUE(within_elementwise(step(record, chunk(c, "max")).values, part("chunk_max"),
                                   wide ? 1e-13 : 1e-5, 1e-6));
    EXPECT_TRUE(within_rel_l2(step(record, chunk(c, "sum")).values, part("chunk_sum"), tight));
    EXPECT_TRUE(
        within_rel_l2(step(record, chunk(c, "numerator")).values, part("chunk_numerator"), tight));
  }
  EXPECT_TRUE(
      within_rel_l2(step(record, "two_pass/chunk_sum").values, golden.numbers("chunk_sum"), tight));
  EXPECT_TRUE(within_rel_l2(step(record, "output").values, golden.numbers("expected_output"),
                            wide ? 1e-13 : 2e-6));
  EXPECT_TRUE(within_rel_l2(step(record, "plain/output").values, golden.numbers("expected_output"),
                            wide ? 1e-13 : 1e-6));
  EXPECT_TRUE(within_elementwise(step(record, "lse").values, golden.numbers("expected_lse"),
                                 wide ? 1e-13 : 1e-5, 1e-6));
}

INSTANTIATE_TEST_SUITE_P(Golden, ExplainPaper, testing::ValuesIn(golden_names("paper")),
                         [](const auto& each) { return each.param; });

// Grouped heads, a mask that hides a whole chunk from some rows, and every floating type.
class ExplainExact : public testing::TestWithParam<DType> {
 protected:
  ExplainExact() : inputs_(normal_inputs({1, 7, 11, 4, 2, 5, 3}, GetParam(), 17)) {
    inputs_.options.mask = causal();
    inputs_.options.query_offset = 0;
    execution_.key_chunk = kChunk;
    record_ = explain_attention(inputs_.query, inputs_.key, inputs_.value, inputs_.options,
                                execution_, everything());
  }
  double scale() const { return 1 / std::sqrt(5.0); }

  static constexpr std::int64_t kChunk = 4;
  Inputs inputs_;
  Execution execution_;
  Explanation record_;
};

TEST_P(ExplainExact, ScoresAreLiteralProducts) {
  const double tolerance = GetParam() == DType::kFloat64 ? 1e-14 : 1e-6;
  for (std::int64_t c = 0; c < 3; ++c) {
    const ExplainStep& scores = step(record_, chunk(c, "scores"));
    const ExplainStep& weights = step(record_, chunk(c, "weights"));
    ASSERT_EQ(scores.shape,
              (std::vector<std::int64_t>{7, 4, std::min<std::int64_t>(4, 11 - 4 * c)}));
    std::size_t n = 0;
    for (std::int64_t q = 0; q < 7; ++q) {
      for (std::int64_t h = 0; h < 4; ++h) {
        for (std::int64_t k = 4 * c; k < std::min<std::int64_t>(4 * c + 4, 11); ++k, ++n) {
          double product = 0;
          for (std::int64_t d = 0; d < 5; ++d) {
            product += inputs_.query.get({0, q, h, d}) * inputs_.key.get({0, k, h / 2, d});
          }
          if (k > q) {
            EXPECT_EQ(scores.values[n], kHidden);
            EXPECT_EQ(weights.values[n], 0);
          } else {
            EXPECT_NEAR(scores.values[n], scale() * product, tolerance);
            EXPECT_GT(weights.values[n], 0);
          }
        }
      }
    }
  }
}

TEST_P(ExplainExact, ChunksAreThePublicSummaries) {
  const double tolerance = GetParam() == DType::kFloat64 ? 1e-14 : 1e-6;
  for (std::int64_t c = 0; c < 3; ++c) {
    SCOPED_TRACE(c);
    Inputs part = inputs_;
    part.options.mask =
        part.options.mask & key_range(kChunk * c, std::min<std::int64_t>(kChunk * (c + 1), 11));
    const Summary summary = run_summary(part, execution_);
    EXPECT_TRUE(within_elementwise(step(record_, chunk(c, "max")).values, summary.max.values(),
                                   tolerance, tolerance));
    EXPECT_TRUE(
        within_rel_l2(step(record_, chunk(c, "sum")).values, summary.sum.values(), tolerance));
    EXPECT_TRUE(within_rel_l2(step(record_, chunk(c, "numerator")).values,
                              summary.numerator.values(), tolerance));
  }
}

TEST_P(ExplainExact, RunningFormTwoPassesAndCallAgree) {
  const double tolerance = GetParam() == DType::kFloat64 ? 1e-14 : 1e-6;
  const auto last = [&](const char* name) { return step(record_, chunk(2, name)).values; };
  EXPECT_TRUE(within_elementwise(last("max_after"), step(record_, "two_pass/global_max").values,
                                 tolerance, tolerance));
  EXPECT_TRUE(within_rel_l2(last("sum_after"), step(record_, "two_pass/sum").values, tolerance));
  EXPECT_TRUE(within_rel_l2(last("numerator_after"), step(record_, "two_pass/numerator").values,
                            tolerance));
  const Output result = run_as(accumulator_of(GetParam()), inputs_);
  EXPECT_TRUE(
      within_rel_l2(step(record_, "output").values, result.output.values(), 10 * tolerance));
  EXPECT_TRUE(within_elementwise(step(record_, "lse").values, result.lse.values(), 10 * tolerance,
                                 tolerance));
  EXPECT_TRUE(
      within_rel_l2(step(record_, "plain/output").values, result.output.values(), 10 * tolerance));
}

// sum_after = factor_before sum_before + factor sum, with the numbers that stand in the record.
TEST_P(ExplainExact, TheMergeCanBeDoneByHand) {
  for (std::int64_t c = 0; c < 3; ++c) {
    const auto of = [&](const char* name) { return step(record_, chunk(c, name)).values; };
    const auto before = of("sum_before"), factor_before = of("factor_before"), sum = of("sum"),
               factor = of("factor"), after = of("sum_after");
    for (std::size_t n = 0; n < after.size(); ++n) {
      EXPECT_NEAR(after[n], factor_before[n] * before[n] + factor[n] * sum[n], 1e-6);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, ExplainExact,
                         testing::Values(DType::kFloat64, DType::kFloat32, DType::kFloat16,
                                         DType::kBFloat16),
                         [](const auto& each) { return std::string(name_of(each.param)); });

TEST(ExplainExactChoice, ShowsWhatIsChosen) {
  const Inputs in = normal_inputs({2, 9, 40, 3, 3, 4, 2}, DType::kFloat32, 3);
  ExplainChoice choice;
  choice.batch = 1;
  choice.rows = {4, 6};
  choice.heads = {1, 2};
  choice.chunks = {2, 3};
  const Explanation record =
      explain_attention(in.query, in.key, in.value, in.options, {}, choice);  // chunks of 10
  EXPECT_EQ(record.find("chunk_1/scores"), nullptr);
  const ExplainStep& scores = step(record, "chunk_2/scores");
  EXPECT_EQ(scores.shape, (std::vector<std::int64_t>{2, 1, 10}));
  EXPECT_EQ(scores.index[0], (std::vector<std::int64_t>{4, 5}));
  EXPECT_EQ(scores.index[2].front(), 20);
  double product = 0;
  for (std::int64_t d = 0; d < 4; ++d)
    product += in.query.get({1, 5, 1, d}) * in.key.get({1, 23, 1, d});
  EXPECT_NEAR(scores.values[13], product / 2, 1e-6);
}

TEST(ExplainExactChoice, RefusesInWords) {
  const Inputs in = normal_inputs({1, 500, 500, 2, 2, 16, 16}, DType::kFloat32, 4);
  const auto explain = [&](const AttentionOptions& options, const ExplainChoice& choice) {
    return [&in, options, choice] {
      explain_attention(in.query, in.key, in.value, options, {}, choice);
    };
  };
  EXPECT_TRUE(throws_error(explain({}, {}), ErrorCode::kInvalidArgument,
                           {"more than 40000 numbers", "rows 0 to 4"}));
  ExplainChoice choice;
  choice.rows = {500, 600};
  EXPECT_TRUE(throws_error(explain({}, choice), ErrorCode::kInvalidArgument,
                           {"rows", "0 to 499", "500:600"}));
  choice.rows = {0, 1};
  choice.batch = 1;
  EXPECT_TRUE(throws_error(explain({}, choice), ErrorCode::kInvalidArgument,
                           {"batch", "1 entries", "found 1"}));
  AttentionOptions dropout;
  dropout.dropout.probability = 0.5;
  EXPECT_TRUE(throws_error(explain(dropout, {}), ErrorCode::kInvalidArgument, {"dropout", "0.5"}));
}

TEST(ExplainExactChoice, RefusesWhatIsEmpty) {
  for (const Shape& shape : {Shape{1, 0, 5, 2, 2, 4, 4}, Shape{1, 5, 0, 2, 2, 4, 4},
                             Shape{1, 5, 5, 0, 0, 4, 4}, Shape{0, 5, 5, 2, 2, 4, 4}}) {
    const Inputs in = normal_inputs(shape, DType::kFloat32, 6);
    EXPECT_TRUE(
        throws_error([&] { explain_attention(in.query, in.key, in.value, in.options, {}, {}); },
                     ErrorCode::kInvalidArgument,
                     {shape.batch == 0 ? "0 entries" : "some queries, keys and heads"}));
  }
}

// A hidden value that is NaN makes the engine repeat a block; what is recorded stays right.
TEST(ExplainExactChoice, HiddenNaNIsRecordedOnce) {
  Inputs in = normal_inputs({1, 3, 8, 1, 1, 4, 2}, DType::kFloat32, 5);
  in.value.set({0, 7, 0, 0}, std::numeric_limits<double>::quiet_NaN());
  in.options.mask = causal();
  in.options.query_offset = 4;
  Execution execution;
  execution.key_chunk = 8;
  const Explanation record =
      explain_attention(in.query, in.key, in.value, in.options, execution, {});
  const ExplainStep& weights = step(record, "chunk_0/weights");
  const ExplainStep& sum = step(record, "chunk_0/sum");
  for (std::size_t q = 0; q < 3; ++q) {
    double total = 0;
    for (std::size_t k = 0; k < 8; ++k) total += weights.values[q * 8 + k];
    EXPECT_NEAR(total, sum.values[q], 1e-5);
    EXPECT_EQ(weights.values[q * 8 + 7], 0);
  }
  for (double x : step(record, "output").values) EXPECT_TRUE(std::isfinite(x));
}

}  // namespace
}  // namespace longspan::test
