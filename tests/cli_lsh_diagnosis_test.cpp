// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// `longspan attend --method lsh` with --diagnose and --save-buckets as a process.
#include <gtest/gtest.h>

#include "cli_testing.h"
#include "longspan/lsh_diagnostics.h"
#include "support/golden.h"
#include "support/lsh_call.h"

namespace longspan::test {
namespace {

class CliLshDiagnosis : public testing::Test {
 protected:
  Outcome attend(const std::string& options) {
    std::vector<std::string> words = {"attend", input_, "--quiet", "--force"};
    for (const std::string& word : words_of(options)) words.push_back(word);
    return run(words);
  }
  std::string to(const char* name) const { return " -o " + (folder_ / name); }
  void write(const std::vector<io::NamedTensor>& tensors) {
    io::write_safetensors(input_, tensors);
  }
  LshInputs separate_inputs() {
    LshInputs in;
    in.shared = false;
    in.query = Tensor(DType::kFloat32, {1, 90, 4, 8}).fill_normal(random_, 2.0);
    in.key = Tensor(DType::kFloat32, {1, 110, 2, 8}).fill_normal(random_);
    in.value = Tensor(DType::kFloat32, {1, 110, 2, 8}).fill_normal(random_);
    in.options.mask = causal();
    in.options.query_offset = QueryOffset::end();
    in.lsh.num_hashes = 3;
    in.lsh.chunk_len = 16;
    in.lsh.seed = 9;
    write({{"query", in.query}, {"key", in.key}, {"value", in.value}});
    return in;
  }

  static constexpr const char* kSeparate =
      "--method lsh --causal --query-offset end --num-hashes 3 --chunk-len 16 --seed 9";
  TemporaryFolder folder_;
  const std::string input_ = folder_ / "in.safetensors";
  Random random_{37};
};

void expect_estimate(const nlohmann::json& record, const Estimate& expected) {
  EXPECT_EQ(record["value"], expected.value);
  EXPECT_EQ(record["low"], expected.low);
  EXPECT_EQ(record["high"], expected.high);
}

TEST_F(CliLshDiagnosis, RecordIsWhatTheLibrarySays) {
  const LshInputs in = separate_inputs();
  const Outcome outcome = attend(std::string(kSeparate) + " --diagnose --json" + to("out"));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const LshDiagnostics expected =
      diagnose_lsh(in.query, in.key, in.value, run_lsh(in).output, in.lsh, in.options);
  const auto found = outcome.json()["diagnosis"];
  EXPECT_EQ(found["rows"], 256);
  expect_estimate(found["recalled_mass"], expected.recalled_mass);
  expect_estimate(found["recalled_pairs"], expected.recalled_pairs);
  expect_estimate(found["output_error"], expected.output_error);
  expect_estimate(found["cut_pairs"], expected.cut_pairs);
  expect_estimate(found["finds_per_pair"], expected.finds_per_pair);
  ASSERT_EQ(found["bucket_sizes"].size(), 3U);
  for (std::size_t round = 0; round < 3; ++round) {
    const auto& sizes = found["bucket_sizes"][round];
    EXPECT_EQ(sizes["smallest"], expected.bucket_sizes[round].smallest);
    EXPECT_EQ(sizes["mean"], expected.bucket_sizes[round].mean);
    EXPECT_EQ(sizes["largest"], expected.bucket_sizes[round].largest);
    EXPECT_EQ(sizes["empty"], expected.bucket_sizes[round].empty);
    EXPECT_EQ(sizes["over_chunk"], expected.bucket_sizes[round].over_chunk);
  }
}

TEST_F(CliLshDiagnosis, TextForPeople) {
  const Tensor query = Tensor(DType::kFloat32, {1, 12, 2, 8}).fill_normal(random_);
  write({{"query_key", query}, {"value", query}});
  const Outcome outcome = attend("--method lsh --diagnose" + to("out"));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* said : {"24 rows", "recalled mass  1  (1 .. 1)", "output error", "round 0"}) {
    EXPECT_NE(outcome.out.find(said), std::string::npos) << said << " in " << outcome.out;
  }
  EXPECT_EQ(attend("--method lsh --json" + to("out")).json().count("diagnosis"), 0U);
}

TEST_F(CliLshDiagnosis, NothingToLookAtIsNan) {
  const Tensor query(DType::kFloat32, {1, 0, 2, 8});
  write({{"query_key", query}, {"value", query}});
  const auto record = attend("--method lsh --diagnose --json" + to("out")).json()["diagnosis"];
  EXPECT_EQ(record["rows"], 0);
  EXPECT_EQ(record["recalled_mass"]["value"], "nan");
}

TEST_F(CliLshDiagnosis, ADryRunCountsItsMemoryAndDiagnosesNothing) {
  separate_inputs();
  const auto plain = attend(std::string(kSeparate) + " --dry-run --json").json();
  const auto record = attend(std::string(kSeparate) + " --dry-run --diagnose --json").json();
  EXPECT_EQ(record.count("diagnosis"), 0U);
  EXPECT_GE(record["workspace_bytes"], plain["workspace_bytes"]);
  EXPECT_EQ(attend(std::string(kSeparate) + " --diagnose --memory-limit 1kB" + to("out")).exit_code,
            4);
}

TEST_F(CliLshDiagnosis, SavedBucketsAreThoseOfHashVectors) {
  const LshInputs in = separate_inputs();
  const Outcome outcome = attend(std::string(kSeparate) + " --save-buckets --json" + to("out"));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const std::string options = outcome.json()["options"];
  EXPECT_NE(options.find("--save-buckets"), std::string::npos);
  Tensor queries(DType::kInt32, {1, 4, 3, 90}), keys(DType::kInt32, {1, 2, 3, 110});
  hash_vectors(in.query, in.key, queries, keys, in.lsh, in.options.mask);
  const GoldenCase result = load_golden(folder_ / "out");
  EXPECT_EQ(result.find("query_buckets").dtype, DType::kInt32);
  EXPECT_EQ(shape_string(result.find("query_buckets")), "[1, 4, 3, 90]");
  EXPECT_EQ(result.numbers("query_buckets"), queries.values());
  EXPECT_EQ(result.numbers("key_buckets"), keys.values());
  EXPECT_EQ(result.tensors.count("buckets"), 0U);
}

// What is saved can be given in place of hashing, padding and all; here in a file of rank 3.
TEST_F(CliLshDiagnosis, SavedBucketsComeBack) {
  const Tensor query = Tensor(DType::kFloat32, {100, 2, 8}).fill_normal(random_);
  const Tensor lengths = integers({80});
  write({{"query_key", query}, {"value", query}, {"key_lengths", lengths}});
  const std::string options = "--method lsh --chunk-len 16 --num-buckets 8 ";
  ASSERT_EQ(attend(options + "--save-buckets" + to("first")).exit_code, 0);
  const GoldenCase first = load_golden(folder_ / "first");
  EXPECT_EQ(shape_string(first.find("buckets")), "[2, 4, 100]");
  EXPECT_EQ(first.numbers("buckets")[80], 8);
  Tensor buckets(DType::kInt32, {2, 4, 100});
  buckets.fill_values(first.numbers("buckets"));
  write({{"query_key", query}, {"value", query}, {"key_lengths", lengths}, {"buckets", buckets}});
  ASSERT_EQ(attend(options + "--seed 5" + to("second")).exit_code, 0);
  EXPECT_EQ(load_golden(folder_ / "second").numbers("output"), first.numbers("output"));
}

TEST_F(CliLshDiagnosis, RefusesWhatDoesNotGoTogether) {
  separate_inputs();
  const auto expect = [&](const std::string& options, const std::string& word) {
    const Outcome outcome = attend(options);
    EXPECT_EQ(outcome.exit_code, 2) << options << ": " << outcome.err;
    EXPECT_NE(outcome.err.find(word), std::string::npos) << outcome.err;
  };
  expect("--diagnose" + to("out"), "--diagnose: expected --method lsh");
  expect("--save-buckets" + to("out"), "--save-buckets: expected --method lsh");
  expect(std::string(kSeparate) + " --save-buckets" + to("out.npy"), "safetensors");
}

}  // namespace
}  // namespace longspan::test
