// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The steps of LSH attention that `explain` records: the Reformer lab's own numbers, step by step,
// and the rounds of Hugging Face's layer and of the definition in Python.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "longspan/explain.h"
#include "support/compare.h"
#include "support/explained.h"
#include "support/golden.h"
#include "support/lsh_call.h"

namespace longspan::test {
namespace {

Tensor normal(DType dtype, const std::vector<std::int64_t>& shape, std::uint64_t seed) {
  Random random(seed);
  return Tensor(dtype, shape).fill_normal(random);
}

// Parts 3.3 and 3.4 of the lab, with the softmax and passed through: query and key are one, not
// normalised, and chunks see only themselves.
class ExplainLab : public testing::TestWithParam<bool> {
 protected:
  ExplainLab()
      : golden_(load_golden("lsh", GetParam() ? "lab_3_4_passthrough" : "lab_3_4_softmax")),
        buckets_(DType::kInt32, {2, 8}) {
    // The lab numbers the buckets of round 1 from 4 on.
    std::vector<double> numbers = golden_.numbers("buckets");
    for (std::size_t n = 8; n < 16; ++n) numbers[n] -= 4;
    buckets_.fill_values(numbers);
    LshOptions lsh = lab();
    lsh.wrap = Wrap::kNone;
    lsh.num_hashes = 2;
    lsh.num_buckets = {4};
    lsh.chunk_len = 2;
    lsh.chunks_before = 0;
    lsh.query_buckets = lsh.key_buckets = buckets_;
    AttentionOptions options;
    options.scale = 1;
    ExplainChoice choice;
    choice.passthrough = GetParam();
    record_ = explain_lsh_attention(golden_.find("q"), golden_.find("q"), golden_.find("v"), lsh,
                                    options, {}, choice);
  }

  // Steps of the chunks one after the other, as the lab stacks them.
  std::vector<double> chunks(const char* what) const {
    std::vector<double> all;
    for (int c = 0; c < 8; ++c) {
      const auto& values = step(record_, "head_0/chunk_" + std::to_string(c) + "/" + what).values;
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }
  void expect(const std::vector<double>& found, const char* lab_name) const {
    EXPECT_TRUE(within_elementwise(found, golden_.numbers(lab_name), 1e-14, 1e-14)) << lab_name;
  }

  GoldenCase golden_;
  Tensor buckets_;
  Explanation record_;
};

TEST_P(ExplainLab, EveryStepIsTheLabs) {
  expect(step(record_, "sorted_positions").values, "st");
  std::vector<double> places = step(record_, "places").values;
  for (std::size_t n = 8; n < 16; ++n) places[n] += 8;  // the lab sorts both rounds as one list
  expect(places, "undo_sort");
  expect(chunks("query_rows"), "rsq");
  expect(chunks("key_rows"), "rsq");
  expect(chunks("value_rows"), "vr");
  expect(chunks("scores"), "dots");
  expect(chunks("probabilities"), "dotlike");
  expect(chunks("lse"), "slogits");
  expect(chunks("output"), "so");
  expect(step(record_, "rounds/output").values, "o");
  expect(step(record_, "rounds/lse").values, "logits");
  expect(step(record_, "combine/output").values, "out");
  // Weights are float32, as in the lab.
  EXPECT_TRUE(
      within_rel_l2(step(record_, "combine/weights").values, golden_.numbers("probs"), 1e-6));
  for (double x : step(record_, "combine/missing").values) EXPECT_NEAR(x, 0, 2e-6);
  if (!GetParam()) expect(step(record_, "output").values, "out");
}

INSTANTIATE_TEST_SUITE_P(Softmax, ExplainLab, testing::Bool(), [](const auto& each) {
  return std::string(each.param ? "PassedThrough" : "WithSoftmax");
});

// Files that hold the partial of every round. Other ways to count duplicates share it out among
// rounds differently.
std::vector<std::string> names_with_rounds() {
  std::vector<std::string> names;
  for (const std::string& name : golden_names("lsh")) {
    const GoldenCase golden = load_golden("lsh", name);
    const bool has = golden.tensors.count("round_lse") != 0 &&
                     golden.tensors.count("query_key") != 0 &&
                     golden.metadata.count("options") != 0;
    if (!has || golden.metadata.count("warning") != 0) continue;
    if (name.find("log_count") != std::string::npos || name.rfind("lucidrains", 0) == 0) continue;
    const GoldenOptions options = parse_options(golden);
    const std::int64_t seqlen = golden.find("query_key").shape[1];
    if (options.lsh.dedup == Dedup::kLogCount || seqlen <= options.lsh.chunk_len) continue;
    names.push_back(name);
  }
  return names;
}

class ExplainRounds : public testing::TestWithParam<std::string> {};

TEST_P(ExplainRounds, AreThoseOfTheSource) {
  const GoldenCase golden = load_golden("lsh", GetParam());
  GoldenOptions options = parse_options(golden);
  const ConstTensorView vectors = golden.find("query_key");
  const bool narrow = vectors.dtype != DType::kFloat64;
  const double tolerance = narrow ? 1e-5 : 1e-11;
  const std::vector<double> lse = golden.numbers("round_lse"),
                            output = golden.numbers("round_output"),
                            whole = golden.numbers("output");
  const std::int64_t seqlen = vectors.shape[1], heads = vectors.shape[2],
                     dim = golden.find("value").shape[3],
                     rounds = golden.tensors.at("round_lse").entry().shape[2];
  std::int64_t compared = 0;
  for (std::int64_t b = 0; b < vectors.shape[0]; ++b) {
    ExplainChoice choice = everything();
    choice.batch = b;
    const Explanation record = explain_lsh_attention(vectors, {}, golden.find("value"), options.lsh,
                                                     options.attention, {}, choice);
    const ExplainStep& found_lse = step(record, "rounds/lse");  // [round, position, head]
    const ExplainStep& found = step(record, "rounds/output");
    ASSERT_EQ(found_lse.shape, (std::vector<std::int64_t>{rounds, seqlen, heads}));
    for (std::int64_t r = 0; r < rounds; ++r) {
      for (std::int64_t i = 0; i < seqlen; ++i) {
        for (std::int64_t h = 0; h < heads; ++h) {
          const auto theirs = static_cast<std::size_t>(((b * heads + h) * rounds + r) * seqlen + i);
          const auto ours = static_cast<std::size_t>((r * seqlen + i) * heads + h);
          // A row that sees only itself has lse near -1e5 there; here its own pair comes later.
          if (!(lse[theirs] > -1e4)) continue;
          ++compared;
          EXPECT_NEAR(found_lse.values[ours], lse[theirs], tolerance) << b << r << i << h;
          for (std::int64_t d = 0; d < dim; ++d) {
            EXPECT_NEAR(
                found.values[ours * static_cast<std::size_t>(dim) + static_cast<std::size_t>(d)],
                output[theirs * static_cast<std::size_t>(dim) + static_cast<std::size_t>(d)],
                tolerance);
          }
        }
      }
    }
    const std::size_t entry = static_cast<std::size_t>(seqlen * heads * dim);
    const std::vector<double> truth(whole.begin() + static_cast<std::ptrdiff_t>(entry) * b,
                                    whole.begin() + static_cast<std::ptrdiff_t>(entry) * (b + 1));
    EXPECT_TRUE(within_rel_l2(step(record, "output").values, truth, narrow ? 1e-5 : 5e-12));
    const std::vector<double>& difference = step(record, "difference").values;
    for (std::size_t n = 0; n < difference.size(); ++n) {
      if (std::isnan(truth[n])) continue;
      EXPECT_NEAR(difference[n], 0, narrow ? 1e-5 : 1e-12);
    }
  }
  const bool alone = GetParam() == "reference_alone";  // every row sees only itself
  EXPECT_EQ(compared == 0, alone);
}

INSTANTIATE_TEST_SUITE_P(Files, ExplainRounds, testing::ValuesIn(names_with_rounds()),
                         [](const auto& each) { return each.param; });

class ExplainHashing : public testing::Test {
 protected:
  ExplainHashing() {
    in_.query = normal(DType::kFloat64, {40, 2, 4}, 21);
    in_.value = normal(DType::kFloat64, {40, 2, 3}, 22);
    in_.lsh.num_hashes = 3;
    in_.lsh.num_buckets = {4};
    in_.lsh.chunk_len = 8;
  }
  Explanation explain(const ExplainChoice& choice) const {
    return explain_lsh_attention(in_.query, {}, in_.value, in_.lsh, in_.options, {}, choice);
  }
  LshInputs in_;
};

TEST_F(ExplainHashing, BucketsAreTheArgmaxOfWhatIsShown) {
  const Explanation record = explain(everything());
  const ExplainStep& rotated = step(record, "rotated");  // [head, position, round, column]
  const ExplainStep& buckets = step(record, "buckets");  // [head, round, position]
  ASSERT_EQ(rotated.shape, (std::vector<std::int64_t>{2, 40, 3, 2}));
  for (std::size_t h = 0; h < 2; ++h) {
    for (std::size_t i = 0; i < 40; ++i) {
      for (std::size_t r = 0; r < 3; ++r) {
        const double* xr = rotated.values.data() + ((h * 40 + i) * 3 + r) * 2;
        const double all[4] = {xr[0], xr[1], -xr[0], -xr[1]};
        EXPECT_EQ(buckets.values[(h * 3 + r) * 40 + i], std::max_element(all, all + 4) - all);
      }
    }
  }
}

TEST_F(ExplainHashing, ShowsTheChunksOfChosenRows) {
  ExplainChoice choice;
  choice.rows = {5, 7};
  choice.heads = {1, 2};
  const Explanation record = explain(choice);
  std::int64_t meetings = 0;
  for (const ExplainSection& section : record.sections) {
    for (const ExplainStep& each : section.steps) {
      if (each.name.find("/probabilities") == std::string::npos) continue;
      ++meetings;
      const auto keys = static_cast<std::size_t>(each.shape[1]);
      for (std::size_t q = 0; q < each.index[0].size(); ++q) {
        EXPECT_TRUE(each.index[0][q] == 5 || each.index[0][q] == 6);
        double sum = 0;
        for (std::size_t k = 0; k < keys; ++k) sum += each.values[q * keys + k];
        EXPECT_NEAR(sum, 1, 1e-12);
      }
    }
  }
  EXPECT_GE(meetings, 3);  // at least one chunk in each round
  EXPECT_LE(meetings, 6);
  EXPECT_EQ(step(record, "rounds/lse").shape, (std::vector<std::int64_t>{3, 2, 1}));
}

// Every pair that some round's window holds counts in exactly one round, and hidden_by says so.
TEST_F(ExplainHashing, DuplicatesCountOnce) {
  const Explanation record = explain(everything());
  std::vector<int> counted(2 * 40 * 40), elsewhere(2 * 40 * 40);
  for (const ExplainSection& section : record.sections) {
    for (const ExplainStep& each : section.steps) {
      if (each.name.find("/hidden_by") == std::string::npos) continue;
      const auto h = static_cast<std::size_t>(each.name[5] - '0');
      std::size_t n = 0;
      for (std::int64_t q : each.index[0]) {
        for (std::int64_t k : each.index[1]) {
          const auto pair =
              (h * 40 + static_cast<std::size_t>(q)) * 40 + static_cast<std::size_t>(k);
          counted[pair] += each.values[n] == 0;
          elsewhere[pair] += each.values[n] == 3;
          EXPECT_EQ(each.values[n] == 2, q == k);
          ++n;
        }
      }
    }
  }
  int several = 0;
  for (std::size_t pair = 0; pair < counted.size(); ++pair) {
    EXPECT_LE(counted[pair], 1);
    if (elsewhere[pair] == 0) continue;
    EXPECT_EQ(counted[pair], 1);
    ++several;
  }
  EXPECT_GT(several, 0);
}

TEST_F(ExplainHashing, WholeBucketsLocalWindowsAndSinksAddUp) {
  const Tensor sinks = normal(DType::kFloat64, {2}, 23);
  for (const bool whole : {false, true}) {
    for (const bool local : {false, true}) {
      LshInputs in = in_;
      in.lsh.whole_buckets = whole;
      if (local) in.lsh.local_window = {3, 0};
      const Explanation record =
          explain_lsh_attention(in.query, {}, in.value, in.lsh, in.options, {}, everything());
      EXPECT_EQ(step(record, "rounds/lse").shape[0], local ? 4 : 3);
      const Output result = run_lsh(in);
      EXPECT_TRUE(within_rel_l2(step(record, "output").values, result.output.values(), 1e-13));
      for (double x : step(record, "difference").values) EXPECT_NEAR(x, 0, 1e-13);
    }
  }
}

// Hugging Face's rows that see only themselves: what float32 loses with exp(lse_r - lse).
TEST(ExplainFloat32, UsualWeightsLoseWhereTheLseIsLarge) {
  Tensor buckets(DType::kInt32, {3, 8});
  buckets.fill_values(std::vector<double>(24, 0.0));
  Tensor vectors = normal(DType::kFloat64, {8, 4}, 3);
  const Tensor value = normal(DType::kFloat64, {8, 2}, 4);
  for (std::int64_t d = 0; d < 4; ++d) {  // scores near -1e5
    for (std::int64_t i = 0; i < 8; ++i)
      vectors.set({i, d}, 1e5 * (i < 4 ? 1 : -1) + vectors.get({i, d}));
  }
  LshOptions lsh;
  lsh.num_hashes = 3;
  lsh.num_buckets = {2};
  lsh.chunk_len = 4;
  lsh.dedup = Dedup::kNone;
  lsh.query_buckets = lsh.key_buckets = buckets;
  AttentionOptions options;
  options.scale = -1e-5 / 4;
  const Explanation record =
      explain_lsh_attention(vectors, vectors, value, lsh, options, {}, everything());
  const ExplainStep& missing = step(record, "combine/missing");  // [way, query, head]
  double ours = 0, usual = 0;
  for (std::size_t n = 0; n < 8; ++n) {
    ours = std::max(ours, std::fabs(missing.values[n]));
    usual = std::max(usual, std::fabs(missing.values[8 + n]));
  }
  EXPECT_LT(ours, 1e-6);
  EXPECT_GT(usual, 1e-4);
}

TEST(ExplainLshChoice, RefusesInWords) {
  const Tensor vectors = normal(DType::kFloat32, {300, 2, 64}, 5);
  const auto explain = [&](const LshOptions& lsh, const ExplainChoice& choice) {
    return [&vectors, lsh, choice] {
      explain_lsh_attention(vectors, {}, vectors, lsh, {}, {}, choice);
    };
  };
  const ErrorCode code = ErrorCode::kInvalidArgument;
  EXPECT_TRUE(throws_error(explain({}, {}), code, {"more than 40000 numbers", "rows 0 to 4"}));
  ExplainChoice choice;
  choice.chunks = {20, 30};
  EXPECT_TRUE(throws_error(explain({}, choice), code, {"chunks", "0 to 19", "20:30"}));
  LshOptions local;
  local.local_window = {2, 0};
  choice = {};
  choice.passthrough = true;
  EXPECT_TRUE(throws_error(explain(local, choice), code, {"passthrough", "local window"}));
}

}  // namespace
}  // namespace longspan::test
