// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The reference that everything else is measured against: its random numbers against published
// answers, its gradients against the golden files and against differences of its own forward pass.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "reference/philox_reference.h"
#include "support/compare.h"
#include "support/derivative.h"
#include "support/golden.h"

namespace longspan::test {
namespace {

using reference::philox4x32;
using reference::PhiloxCounter;
using reference::PhiloxKey;

nlohmann::json philox_answers() {
  std::ifstream file(std::string(LONGSPAN_GOLDEN_DIR) + "/philox.json");
  return nlohmann::json::parse(file);
}

template <std::size_t kWords>
std::array<std::uint32_t, kWords> words_in(const nlohmann::json& texts) {
  std::array<std::uint32_t, kWords> words;
  for (std::size_t n = 0; n < kWords; ++n) {
    words[n] = static_cast<std::uint32_t>(std::stoul(texts.at(n).get<std::string>(), nullptr, 16));
  }
  return words;
}

TEST(Philox, PublishedAnswers) {
  const nlohmann::json vectors = philox_answers().at("known_answers");
  ASSERT_EQ(vectors.size(), 6u);
  for (const nlohmann::json& vector : vectors) {
    EXPECT_EQ(philox4x32(words_in<4>(vector.at("counter")), words_in<2>(vector.at("key")),
                         vector.at("rounds").get<int>()),
              words_in<4>(vector.at("output")));
  }
}

TEST(Philox, ALongerRun) {
  const nlohmann::json derived = philox_answers().at("derived");
  std::array<std::uint64_t, 4> sum{};
  PhiloxCounter total{};
  for (std::uint32_t i = 0; i < 4096; ++i) {
    const PhiloxCounter block = philox4x32({i, 0, 0x12345678, 0}, {0xdeadbeef, 0x0badf00d});
    if (i == 0) {
      EXPECT_EQ(block, words_in<4>(derived.at("first")));
    }
    if (i == 4095) {
      EXPECT_EQ(block, words_in<4>(derived.at("last")));
    }
    for (std::size_t word = 0; word < 4; ++word) {
      sum[word] += block[word];
      total[word] ^= block[word];
    }
  }
  EXPECT_EQ(sum, (derived.at("sum").get<std::array<std::uint64_t, 4>>()));
  EXPECT_EQ(total, words_in<4>(derived.at("xor")));
}

TEST(DropoutPattern, IsTheCounterThatTheHeaderNames) {
  const Dropout dropout{0.3, 0x0badf00ddeadbeef};
  std::int64_t kept = 0;
  constexpr std::int64_t kKeys = 4096;
  for (std::int64_t key = 0; key < kKeys; ++key) {
    const PhiloxCounter block =
        philox4x32({static_cast<std::uint32_t>(key / 4), 7, 5, 2}, {0xdeadbeef, 0x0badf00d});
    const bool expected = block[static_cast<std::size_t>(key % 4)] >= 0.3 * 4294967296.0;
    ASSERT_EQ(reference::keeps(dropout, 2, 5, 7, key), expected);
    kept += expected ? 1 : 0;
    EXPECT_TRUE(reference::keeps({0, dropout.seed}, 2, 5, 7, key));
    EXPECT_FALSE(reference::keeps({1, dropout.seed}, 2, 5, 7, key));
  }
  EXPECT_NEAR(static_cast<double>(kept) / kKeys, 0.7, 4 * std::sqrt(0.21 / kKeys));
}

class ReferenceGolden : public testing::TestWithParam<std::string> {};

TEST_P(ReferenceGolden, Gradients) {
  const GoldenCase golden = load_golden("exact", GetParam());
  const GoldenOptions options = parse_options(golden);
  const auto seqlen_first = [&](const std::string& name) {
    const ConstTensorView view = golden.find(name);
    return options.heads_first ? transpose(view, view.rank - 3, view.rank - 2) : view;
  };
  const reference::AttentionGradients gradients =
      reference::Attention(seqlen_first("query"), seqlen_first("key"), seqlen_first("value"),
                           options.attention)
          .gradients(seqlen_first("doutput"), golden.find("dlse"));
  const auto expect = [&](const ConstTensorView& expected, const std::vector<double>& actual,
                          const std::vector<double>& magnitude) {
    EXPECT_TRUE(within_rel_l2(magnitude, magnitude, 0)) << "NaN or inf";
    const std::vector<double> truth = reference::read_all(expected);
    if (within_rel_l2(actual, truth, 1e-12)) return;
    // Zero in truth: what is left is the rounding of the terms.
    ASSERT_EQ(actual.size(), magnitude.size());
    ASSERT_EQ(actual.size(), truth.size());
    for (std::size_t n = 0; n < actual.size(); ++n) {
      EXPECT_LE(std::fabs(truth[n]), 1e-14 * magnitude[n]) << n;
      EXPECT_LE(std::fabs(actual[n]), 1e-14 * magnitude[n]) << n;
    }
  };
  const auto &sum = gradients.sum, &magnitude = gradients.magnitude;
  expect(seqlen_first("dquery"), sum.query, magnitude.query);
  expect(seqlen_first("dkey"), sum.key, magnitude.key);
  expect(seqlen_first("dvalue"), sum.value, magnitude.value);
  if (is_given(golden.find("dbias"))) expect(golden.find("dbias"), sum.bias, magnitude.bias);
  if (is_given(golden.find("dsinks"))) expect(golden.find("dsinks"), sum.sinks, magnitude.sinks);
}

INSTANTIATE_TEST_SUITE_P(Cases, ReferenceGolden, testing::ValuesIn(golden_names_with_gradients()),
                         [](const auto& one) { return one.param; });

class ReferenceDerivative : public testing::TestWithParam<std::string> {};

TEST_P(ReferenceDerivative, MeetsCentralDifferences) {
  const DerivativeCase one = derivative_case(GetParam());
  const reference::AttentionGradients gradients = gradient_truth_of(one.inputs, one.derivatives);
  const auto loss = [&] {
    const reference::AttentionResult result = truth_of(one.inputs);
    return loss_of(result.output, result.lse, one.derivatives);
  };
  for (const Variable& variable : variables_of(one)) {
    SCOPED_TRACE(variable.name);
    const std::vector<double> expected = central_differences(variable.tensor, loss);
    EXPECT_TRUE(within_elementwise(gradients.sum.*variable.reference, expected, kDerivativeAbsolute,
                                   kDerivativeRelative));
    // The terms bound their sum.
    const std::vector<double>& magnitude = gradients.magnitude.*variable.reference;
    for (std::size_t n = 0; n < magnitude.size(); ++n) {
      EXPECT_LE(std::fabs((gradients.sum.*variable.reference)[n]), magnitude[n] * (1 + 1e-12));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Options, ReferenceDerivative, testing::ValuesIn(derivative_case_names()),
                         [](const auto& one) { return one.param; });

TEST(ReferenceGradients, TheNaiveProgramIsNear) {
  for (const std::string& name : derivative_case_names()) {
    SCOPED_TRACE(name);
    const DerivativeCase one = derivative_case(name);
    const reference::Attention attention(one.inputs.query, one.inputs.key, one.inputs.value,
                                         one.inputs.options);
    const ConstTensorView doutput = one.derivatives.output, dlse = one.derivatives.lse;
    const reference::GradientSet truth = attention.gradients(doutput, dlse).sum;
    const reference::GradientSet naive =
        attention.gradients(doutput, dlse, reference::Precision::kFloat32).sum;
    const auto coarse = [](double x) { return std::round(256 * x) / 256; };
    const reference::GradientSet stored =
        attention.gradients(doutput, dlse, reference::Precision::kFloat32, coarse).sum;
    for (const Variable& variable : variables_of(one)) {
      EXPECT_TRUE(within_rel_l2(naive.*variable.reference, truth.*variable.reference, 5e-6));
    }
    EXPECT_TRUE(within_rel_l2(stored.value, truth.value, 1e-6)) << "needs no stored output";
    if (one.inputs.options.dropout.probability < 1) {
      EXPECT_FALSE(within_rel_l2(stored.query, truth.query, 1e-6)) << "D is taken from it";
    }
  }
}

TEST(ReferenceRounding, ScoresCountByTheirTermsAndSlopes) {
  Inputs inputs = normal_inputs(
      {.seqlen_q = 2, .seqlen_k = 5, .heads = 1, .heads_kv = 1, .head_dim = 4, .head_dim_v = 3},
      DType::kFloat64, 21);
  Random random(22);
  Tensor bias = inputs.keep(Tensor(DType::kFloat64, {2, 5}).fill_normal(random));
  inputs.options.bias = bias.view();
  inputs.options.scale = 0.5;
  inputs.options.dropout = {0.4, 3};
  const auto rows = [&] {
    const reference::Attention attention(inputs.query, inputs.key, inputs.value, inputs.options);
    return std::array{attention.row(0, 0, 0), attention.row(0, 0, 1)};
  };
  const auto truth = rows();
  for (std::size_t i = 0; i < 2; ++i) {
    double terms = 0;
    std::vector<double> slopes(3), squares(3);
    for (std::int64_t j = 0; j < 5; ++j) {
      const auto row = static_cast<std::int64_t>(i);
      const double added = bias.get({row, j});
      double sum = std::fabs(added), score = added;
      for (std::int64_t d = 0; d < 4; ++d) {
        const double term = 0.5 * inputs.query.get({0, row, 0, d}) * inputs.key.get({0, j, 0, d});
        sum += std::fabs(term);
        score += term;
      }
      terms = std::max(terms, sum);
      constexpr double kStep = 1e-5;
      bias.set({row, j}, added + kStep);
      const auto above = rows();
      bias.set({row, j}, added - kStep);
      const auto below = rows();
      bias.set({row, j}, added);
      const double factor = reference::keeps(inputs.options.dropout, 0, 0, row, j) ? 1 / 0.6 : 0.0;
      for (std::size_t d = 0; d < 3; ++d) {
        slopes[d] += std::fabs(above[i].output[d] - below[i].output[d]) / (2 * kStep);
        const double value = inputs.value.get({0, j, 0, static_cast<std::int64_t>(d)});
        squares[d] += std::pow(std::exp(score - truth[i].lse) * factor * value, 2);
      }
    }
    EXPECT_NEAR(truth[i].score_terms, terms, 1e-12);
    for (std::size_t d = 0; d < 3; ++d) {
      EXPECT_NEAR(truth[i].score_effect[d], terms * slopes[d], 1e-8);
      EXPECT_NEAR(truth[i].deviation[d], std::sqrt(squares[d]), 1e-12);
    }
  }
}

TEST(ReferenceRounding, ChanceIsBoundedByTheSumOfTheTerms) {
  for (const std::string& name : derivative_case_names()) {
    SCOPED_TRACE(name);
    const DerivativeCase one = derivative_case(name);
    const reference::AttentionGradients gradients = gradient_truth_of(one.inputs, one.derivatives);
    for (const Variable& variable : variables_of(one)) {
      const std::vector<double>& sum = gradients.magnitude.*variable.reference;
      const std::vector<double>& root = gradients.deviation.*variable.reference;
      ASSERT_EQ(root.size(), sum.size());
      for (std::size_t n = 0; n < sum.size(); ++n) {
        EXPECT_LE(root[n], sum[n] * (1 + 1e-12)) << n;
        EXPECT_EQ(root[n] > 0, sum[n] > 0) << n;
      }
    }
  }
}

}  // namespace
}  // namespace longspan::test
