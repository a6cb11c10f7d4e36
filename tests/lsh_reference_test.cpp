// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The reference of LSH attention against the golden files: runs of Hugging Face's and
// reformer-pytorch's layers, the lab, and the definition in Python.
#include "reference/lsh_reference.h"

#include <gtest/gtest.h>

#include <iostream>

#include "support/call.h"
#include "support/compare.h"
#include "support/golden.h"

namespace longspan::test {
namespace {

using reference::LshAttention;
using reference::LshGradientResult;
using reference::LshResult;

bool starts_with(const std::string& text, const char* start) { return text.rfind(start, 0) == 0; }
bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

// Files of another kind than (query_key, value, buckets) -> attention have tests of their own.
std::vector<std::string> attention_names() {
  std::vector<std::string> names = golden_names("lsh");
  std::erase_if(names, [](const std::string& name) {
    return starts_with(name, "lab_") && name != "lab_3_5_lsh_self_attention";
  });
  return names;
}

std::vector<std::string> names_with(const char* tensor) {
  std::vector<std::string> names = attention_names();
  std::erase_if(names, [&](const std::string& name) {
    return load_golden("lsh", name).tensors.count(tensor) == 0;
  });
  return names;
}

// Why a file is not to be matched; empty when it is.
std::string refusal_of(const GoldenCase& golden) {
  if (golden.metadata.count("warning") != 0) return golden.metadata.at("warning");
  if (contains(golden.name, "same_bucket")) {
    return "attention inside the bucket only is not offered";
  }
  return {};
}

struct LshGolden : testing::TestWithParam<std::string> {
  GoldenCase golden = load_golden("lsh", GetParam());
  GoldenOptions options = parse_options(golden);

  // Files say what lies outside of their options.
  void SetUp() override {
    if (const std::string why = refusal_of(golden); !why.empty()) {
      GTEST_SKIP() << GetParam() << " is not matched: " << why;
    }
    if (starts_with(golden.name, "lucidrains")) {
      options.lsh.self_rule = lucidrains().self_rule;
      options.lsh.self_score = lucidrains().self_score;
    }
  }
  ConstTensorView buckets() const {
    return golden.find(is_given(golden.find("buckets")) ? "buckets" : "expected_buckets");
  }
  double tolerance() const { return contains(golden.name, "discounted") ? 1e-8 : 5e-12; }

  void expect(const char* name, const std::vector<double>& actual) const {
    if (golden.tensors.count(name) == 0) return;
    SCOPED_TRACE(name);
    EXPECT_TRUE(within_rel_l2(actual, golden.numbers(name), tolerance()));
  }
  std::int64_t number(const char* key) const { return std::stoll(golden.metadata.at(key)); }
};

TEST_P(LshGolden, Forward) {
  LshAttention attention(golden.find("query_key"), golden.find("value"), buckets(), options.lsh,
                         options.attention);
  const LshResult result = attention.all();
  expect("output", result.output);
  expect("lse", result.lse);
  if (starts_with(golden.name, "reference_")) {
    EXPECT_EQ(result.pairs_found, number("pairs_seen"));
    EXPECT_EQ(result.pairs_found_again, number("pairs_seen_more_than_once"));
  }
  if (starts_with(golden.name, "lab_")) {
    attention.short_is_plain = false;
    const LshResult all_rounds = attention.all();
    expect("lab_lse", all_rounds.lse);
    expect("round_output", all_rounds.round_output);
    expect("round_lse", all_rounds.round_lse);
    return;
  }
  expect("round_output", result.round_output);
  expect("round_lse", result.round_lse);
}

using LshGoldenGradients = LshGolden;

TEST_P(LshGoldenGradients, OfQueryKeyAndValue) {
  const LshGradientResult result = LshAttention(golden.find("query_key"), golden.find("value"),
                                                buckets(), options.lsh, options.attention)
                                       .gradients(golden.find("doutput"), {});
  expect("dvalue", result.sum.value);
  if (golden.name == "reference_alone" || golden.name == "reference_seqlen_1") {
    // Zero in truth: a row that sees one key.
    EXPECT_TRUE(within_absolute(result.sum.query, golden.numbers("dquery_key"), 1e-14));
    return;
  }
  expect("dquery_key", result.sum.query);
}

using LshGoldenOrder = LshGolden;

TEST_P(LshGoldenOrder, SortedPositions) {
  const std::vector<double> all = reference::read_all(buckets());
  const std::vector<double> expected = golden.numbers("sorted_positions");
  const std::int64_t seqlen = buckets().shape[3];
  ASSERT_EQ(all.size(), expected.size());
  for (auto begin = all.begin(), order = expected.begin(); begin != all.end();
       begin += seqlen, order += seqlen) {
    const std::vector<std::int64_t> one(begin, begin + seqlen);
    const std::vector<std::int64_t> sorted = reference::sorted_by_bucket(one);
    ASSERT_TRUE(std::equal(sorted.begin(), sorted.end(), order)) << begin - all.begin();
  }
}

struct LshGoldenHash : LshGolden {
  void SetUp() override {}  // every file can be matched here
};

TEST_P(LshGoldenHash, Buckets) {
  const reference::Hashed hashed = reference::hash_buckets(
      golden.find("query_key"), options.lsh.rotations, options.lsh.num_buckets);
  std::int64_t buckets = 1, padding = 0;
  for (const std::int64_t factor : options.lsh.num_buckets) buckets *= factor;
  const std::vector<double> expected = golden.numbers("expected_buckets");
  ASSERT_EQ(expected.size(), hashed.buckets.size());
  for (std::size_t n = 0; n < expected.size(); ++n) {
    if (expected[n] == static_cast<double>(buckets)) {
      ++padding;
      continue;
    }
    ASSERT_EQ(static_cast<double>(hashed.buckets[n]), expected[n]) << n;
    EXPECT_GT(hashed.gaps[n], 0);
  }
  EXPECT_EQ(padding > 0, golden.tensors.count("mask") + golden.tensors.count("key_lengths") > 0);
}

const auto kName = [](const auto& one) { return one.param; };
INSTANTIATE_TEST_SUITE_P(Files, LshGolden, testing::ValuesIn(attention_names()), kName);
INSTANTIATE_TEST_SUITE_P(Files, LshGoldenGradients, testing::ValuesIn(names_with("dquery_key")),
                         kName);
INSTANTIATE_TEST_SUITE_P(Files, LshGoldenOrder, testing::ValuesIn(names_with("sorted_positions")),
                         kName);
INSTANTIATE_TEST_SUITE_P(Files, LshGoldenHash, testing::ValuesIn(names_with("expected_buckets")),
                         kName);

TEST(LshGoldenFiles, AreAllThere) {
  const std::vector<std::string> names = golden_names("lsh");
  EXPECT_EQ(names.size(), 83u);
  EXPECT_EQ(attention_names().size(), 78u);
  std::vector<std::string> skipped;
  for (const std::string& name : attention_names()) {
    if (!refusal_of(load_golden("lsh", name)).empty()) skipped.push_back(name);
  }
  EXPECT_EQ(
      skipped,
      (std::vector<std::string>{
          "lucidrains_causal_across_discounted", "lucidrains_causal_same_bucket_discounted",
          "lucidrains_causal_same_bucket_duplicates", "lucidrains_full_across_discounted",
          "lucidrains_full_same_bucket_discounted", "lucidrains_full_same_bucket_duplicates"}));
}

// Parts 2.2 and 2.3 of the lab: exact attention.
TEST(LshLab, ExactAttention) {
  for (const char* name : {"lab_2_2_simple_attend", "lab_2_3_self_attention"}) {
    SCOPED_TRACE(name);
    const GoldenCase golden = load_golden("lsh", name);
    const auto truth =
        reference::Attention(golden.find("query"), golden.find("key"), golden.find("value"), {})
            .all();
    EXPECT_TRUE(within_rel_l2(truth.output, golden.numbers("output"), 1e-13));
    EXPECT_TRUE(within_rel_l2(truth.lse, golden.numbers("lse"), 1e-13));
  }
}

// Part 3.4, dotandv: plain dot products inside chunks of 2 rows, rounds merged. Queries that are
// given apart from the same keys stand in their own chunks.
TEST(LshLab, DotAndV) {
  const GoldenCase golden = load_golden("lsh", "lab_3_4_softmax");
  LshOptions lsh;
  lsh.chunk_len = 2;
  lsh.chunks_before = 0;
  lsh.dedup = Dedup::kNone;
  AttentionOptions options;
  options.scale = 1.0;
  ConstTensorView buckets = golden.find("buckets");  // [16]: round 1 counts on from round 0
  buckets.rank = 2;
  buckets.shape = {2, 8, 0, 0};
  buckets.strides = {8, 1, 0, 0};
  const LshResult result = LshAttention(golden.find("q"), golden.find("q"), golden.find("v"),
                                        buckets, buckets, lsh, options)
                               .all();
  EXPECT_TRUE(within_rel_l2(result.round_lse, golden.numbers("logits_rounds"), 1e-14));
  EXPECT_TRUE(within_rel_l2(result.round_output, golden.numbers("o_rounds"), 1e-14));
  EXPECT_TRUE(within_rel_l2(result.output, golden.numbers("out"), 1e-14));
}

}  // namespace
}  // namespace longspan::test
