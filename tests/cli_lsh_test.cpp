// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// `longspan attend --method lsh` as a process: golden cases, separate query and key, its record,
// what does not go with the method.
#include <gtest/gtest.h>

#include "cli_testing.h"
#include "longspan/lsh_attention.h"
#include "support/compare.h"
#include "support/golden.h"
#include "support/lsh_call.h"

namespace longspan::test {
namespace {

// Files whose options say all of it.
std::vector<std::string> names() {
  std::vector<std::string> all = golden_names("lsh");
  std::erase_if(all, [](const std::string& name) {
    return name.rfind("hf_", 0) != 0 && name.rfind("reference_", 0) != 0;
  });
  return all;
}

class CliLshGolden : public testing::TestWithParam<std::string> {};

TEST_P(CliLshGolden, Attend) {
  const GoldenCase golden = load_golden("lsh", GetParam());
  const std::string options = golden.metadata.at("options");
  const TemporaryFolder folder;
  std::vector<std::string> words = {
      "attend", std::string(LONGSPAN_GOLDEN_DIR) + "/lsh/" + GetParam() + ".safetensors", "-o",
      folder / "result.safetensors", "--quiet"};
  for (const std::string& word : words_of(options)) words.push_back(word);
  const Outcome outcome = run(words);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const GoldenCase result = load_golden(folder / "result.safetensors");
  const bool float64 = golden.find("query_key").dtype == DType::kFloat64;
  EXPECT_TRUE(
      within_rel_l2(result.numbers("output"), golden.numbers("output"), float64 ? 5e-12 : 2e-6));
  if (golden.tensors.count("lse") != 0) {
    EXPECT_TRUE(within_elementwise(result.numbers("lse"), golden.numbers("lse"),
                                   float64 ? 5e-12 : 2e-6, float64 ? 1e-13 : 1e-6));
  }
  const bool backward = options.find("--backward") != std::string::npos;
  EXPECT_EQ(result.tensors.count("dquery_key"), backward ? 1u : 0u);
  EXPECT_EQ(result.tensors.count("dkey"), 0u);
  if (!backward) return;
  const double tolerance = float64 ? 5e-12 : 1e-5;
  EXPECT_TRUE(within_rel_l2(result.numbers("dquery_key"), golden.numbers("dquery_key"), tolerance));
  EXPECT_TRUE(within_rel_l2(result.numbers("dvalue"), golden.numbers("dvalue"), tolerance));
}

INSTANTIATE_TEST_SUITE_P(Files, CliLshGolden, testing::ValuesIn(names()),
                         [](const auto& one) { return one.param; });

class CliLsh : public testing::Test {
 protected:
  Outcome attend(const std::string& options) {
    std::vector<std::string> words = {"attend",  input_,   "-o", folder_ / "out.safetensors",
                                      "--quiet", "--force"};
    for (const std::string& word : words_of(options)) words.push_back(word);
    return run(words);
  }
  void write(const std::vector<io::NamedTensor>& tensors) {
    io::write_safetensors(input_, tensors);
  }

  TemporaryFolder folder_;
  const std::string input_ = folder_ / "in.safetensors";
  Random random_{31};
};

TEST_F(CliLsh, SeparateQueryAndKeyWithEveryOption) {
  LshInputs in;
  in.shared = false;
  in.query = Tensor(DType::kFloat32, {1, 90, 4, 8}).fill_normal(random_);
  in.key = Tensor(DType::kFloat32, {1, 110, 2, 8}).fill_normal(random_);
  in.value = Tensor(DType::kFloat32, {1, 110, 2, 8}).fill_normal(random_);
  in.options.mask = causal();
  in.options.query_offset = QueryOffset::end();
  in.options.scale = 0.5;
  in.lsh.num_hashes = 3;
  in.lsh.num_buckets = {4, 2};
  in.lsh.chunk_len = 16;
  in.lsh.chunks_before = 2;
  in.lsh.chunks_after = 1;
  in.lsh.dedup = Dedup::kNone;
  in.lsh.seed = 9;
  in.lsh.local_window = {{3, 0}};
  write({{"query", in.query}, {"key", in.key}, {"value", in.value}});
  const Outcome outcome = attend(
      "--method lsh --causal --query-offset end --scale 0.5 --num-hashes 3 --num-buckets 4,2 "
      "--chunk-len 16 --chunks-before 2 --chunks-after 1 --dedup none --seed 9 --local-window 3,0 "
      "--json");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const Output expected = run_lsh(in);
  const GoldenCase result = load_golden(folder_ / "out.safetensors");
  EXPECT_EQ(result.numbers("output"), expected.output.values());
  EXPECT_EQ(result.numbers("lse"), expected.lse.values());
  const auto record = outcome.json();
  EXPECT_EQ(record["method"], "lsh");
  const std::string options = record["options"];
  for (const char* said : {"--method lsh", "--num-hashes 3", "--num-buckets 4,2", "--chunk-len 16",
                           "--dedup none", "--local-window=3,0", "--seed 9"}) {
    EXPECT_NE(options.find(said), std::string::npos) << said << " in " << options;
  }
}

TEST_F(CliLsh, AnOptionOverridesItsPartOfAPreset) {
  const Tensor query = Tensor(DType::kFloat32, {1, 90, 2, 8}).fill_normal(random_);
  const Tensor value = Tensor(DType::kFloat32, {1, 90, 2, 8}).fill_normal(random_);
  write({{"query_key", query}, {"value", value}});
  const std::string chunks = "--method lsh --num-buckets 4 --chunk-len 16 --json ";
  const std::string preset = attend(chunks + "--preset lab").json()["options"];
  EXPECT_NE(preset.find("--wrap all"), std::string::npos) << preset;
  const std::string changed = attend(chunks + "--wrap none --preset lab").json()["options"];
  EXPECT_NE(changed.find("--wrap none"), std::string::npos) << changed;
  EXPECT_NE(changed.find("--dedup none"), std::string::npos) << changed;
}

// What the program chose is in the record, and given back it repeats the run.
TEST_F(CliLsh, OptionsRepeatTheRun) {
  const Tensor query = Tensor(DType::kFloat32, {1, 300, 2, 8}).fill_normal(random_);
  write({{"it's the query", query}, {"query_key", query}, {"k", query}, {"value", query}});
  const std::string output = folder_ / "out.safetensors", again = folder_ / "again.safetensors";
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{"--method", "lsh", "--chunk-len", "16"},
        {"--query-name", "it's the query", "--key-name=k", "--causal"}}) {
    std::vector<std::string> words = {"attend", input_, "-o", output, "--quiet", "--force"};
    words.insert(words.end(), more.begin(), more.end());
    ASSERT_EQ(run(words).exit_code, 0) << run(words).err;
    const std::string options = load_golden(output).metadata.at("options");
    const Outcome repeated =
        run_script("\"$0\" attend " + input_ + " --quiet --force -o " + again + " " + options);
    ASSERT_EQ(repeated.exit_code, 0) << repeated.err;
    EXPECT_EQ(contents(output), contents(again)) << options;
    EXPECT_EQ(options.find("--num-buckets 32") != std::string::npos, more[0] == "--method");
  }
}

TEST_F(CliLsh, RefusesWhatDoesNotGoTogether) {
  const Tensor query = Tensor(DType::kFloat32, {1, 9, 2, 8}).fill_normal(random_);
  write({{"query_key", query}, {"value", query}});
  const auto expect = [&](int code, const std::string& options, const std::string& word) {
    const Outcome outcome = attend(options);
    EXPECT_EQ(outcome.exit_code, code) << options << ": " << outcome.err;
    EXPECT_NE(outcome.err.find(word), std::string::npos) << outcome.err;
  };
  expect(0, "--method lsh", "");
  expect(3, "", "query");
  expect(2, "--chunk-len 64", "--method lsh");
  expect(2, "--whole-buckets", "--method lsh");
  expect(2, "--preset lab", "--method lsh");
  expect(3, "--method lsh --backward", "doutput");
  expect(2, "--method lsh --dropout 0.5", "--dropout");
  expect(2, "--method lsh --scale 0.5", "--scale");
  expect(2, "--method lsh --key-chunk 64", "--key-chunk");
  expect(2, "--method lsh --num-buckets 3", "--num-buckets");
  expect(2, "--method lsh --chunk-len 0", "--chunk-len");
  expect(2, "--method lsh --dedup all", "--dedup");
  expect(2, "--method lsh --preset trax", "--preset");
  expect(2, "--method lsh --local-window=-2,0", "--local-window");
  expect(2, "--method lsh --num-hashes 3000000000", "--num-hashes");
  expect(2, "--method lsh --chunks-before 3000000000", "--chunks-before");
  expect(2, "--method lsh --chunks-after 3000000000", "--chunks-after");
  expect(2, "--method lsh --num-buckets 2147483648", "--num-buckets");
  expect(2, "--method lsh --num-buckets 65536,65536", "--num-buckets");
  expect(2, "--method lsh --whole-buckets --wrap all", "hint: add --wrap none");
  expect(2, "--method lsh --whole-buckets --preset hf-reformer", "hint: add --wrap none");
  expect(0, "--method lsh --whole-buckets --preset hf-reformer --wrap none", "");
  write({{"query", query}, {"key", query}, {"value", query}});
  expect(2, "--method lsh --wrap round", "hint: add --wrap none");
  expect(2, "--method lsh --preset lab", "hint: add --wrap none");
  expect(0, "--method lsh --preset lab --wrap none", "");
}

}  // namespace
}  // namespace longspan::test
