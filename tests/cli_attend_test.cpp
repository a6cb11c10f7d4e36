// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// `longspan attend` as a process: golden cases, forms of input and output, parts merged, the
// record.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "cli_testing.h"
#include "io/npy.h"
#include "support/compare.h"
#include "support/golden.h"

namespace longspan::test {
namespace {

std::vector<std::int64_t> shape_of(const ConstTensorView& view) {
  return {view.shape.begin(), view.shape.begin() + view.rank};
}

// Scores in the hundreds or thousands, where float32 itself is the limit of lse.
const std::map<std::string, double> kHardLse = {
    {"peaked_f32", 1e-5}, {"peaked_bf16", 1e-5}, {"huge_logits_f32", 3e-5}, {"f16_large", 5e-3}};

class CliGolden : public testing::TestWithParam<std::string> {};

TEST_P(CliGolden, Attend) {
  const GoldenCase golden = load_golden("exact", GetParam());
  std::string options = golden.metadata.at("options");
  if (const auto at = options.find("--backward"); at != std::string::npos) options.erase(at);
  const TemporaryFolder folder;
  std::vector<std::string> words = {
      "attend", std::string(LONGSPAN_GOLDEN_DIR) + "/exact/" + GetParam() + ".safetensors", "-o",
      folder / "result.safetensors", "--quiet"};
  for (const std::string& word : words_of(options)) words.push_back(word);
  const Outcome outcome = run(words);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;

  const GoldenCase result = load_golden(folder / "result.safetensors");
  const ConstTensorView query = golden.find("query"), output = result.find("output"),
                        lse = result.find("lse");
  EXPECT_EQ(output.dtype, query.dtype);
  EXPECT_EQ(lse.dtype, query.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32);
  EXPECT_EQ(shape_of(output), shape_of(golden.find("output")));
  EXPECT_EQ(shape_of(lse), shape_of(golden.find("lse")));
  Tolerance allowed = tolerance_of(query.dtype);
  if (kHardLse.contains(GetParam())) {
    allowed.lse_absolute = std::max(allowed.lse_absolute, kHardLse.at(GetParam()));
  }
  EXPECT_TRUE(within_rel_l2(reference::read_all(output), reference::read_all(golden.find("output")),
                            allowed.output_rel_l2));
  EXPECT_TRUE(within_elementwise(reference::read_all(lse), reference::read_all(golden.find("lse")),
                                 allowed.lse_absolute, allowed.lse_relative));
}

INSTANTIATE_TEST_SUITE_P(Cases, CliGolden, testing::ValuesIn(golden_names("exact")),
                         [](const auto& one) { return one.param; });

class CliAttend : public testing::Test {
 protected:
  void SetUp() override { write_input(input_); }

  Outcome attend(const std::string& options, const std::string& output = "out.safetensors") {
    std::vector<std::string> words = {"attend", input_, "-o", folder_ / output, "--quiet"};
    for (const std::string& word : words_of(options)) words.push_back(word);
    return run(words);
  }
  bool same(const std::string& a, const std::string& b, const std::string& options = "") {
    return run("compare " + (folder_ / a) + " " + (folder_ / b) + " " + options).exit_code == 0;
  }

  TemporaryFolder folder_;
  const std::string input_ = folder_ / "in.safetensors";
};

TEST_F(CliAttend, HalvesOfTheKeysMergeToTheWhole) {
  for (const std::string options :
       {"", "--causal --query-offset end", "--output-dtype f32 --window=5,-1 --query-offset=3"}) {
    ASSERT_EQ(attend(options + " --force", "all.safetensors").exit_code, 0);
    ASSERT_EQ(attend(options + " --keys 0:6 --force", "low.safetensors").exit_code, 0);
    ASSERT_EQ(attend(options + " --keys=6:13 --force", "high.safetensors").exit_code, 0);
    EXPECT_FALSE(same("low.safetensors", "all.safetensors"));
    const Outcome merged =
        run("merge " + (folder_ / "low.safetensors") + " " + (folder_ / "high.safetensors") +
            " -o " + (folder_ / "merged.safetensors") + " --force");
    ASSERT_EQ(merged.exit_code, 0) << merged.err;
    EXPECT_TRUE(same("merged.safetensors", "all.safetensors", "--rel-l2 1e-6"));
  }
}

TEST_F(CliAttend, NpyInAndOutEqualsSafetensors) {
  const std::vector<Tensor> tensors = normal_tensors();
  const std::vector<std::string> names = {folder_ / "q.npy", folder_ / "k.npy", folder_ / "v.npy"};
  for (std::size_t n = 0; n < 3; ++n) io::write_npy(names[n], tensors[n]);
  ASSERT_EQ(attend("").exit_code, 0);
  const Outcome outcome =
      run({"attend", names[0], names[1], names[2], "-o", folder_ / "out.npy", "--quiet"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(same("out.npy", "out.safetensors", "--tensor output --rtol 0 --atol 0"));
}

TEST_F(CliAttend, LayoutBhsdOfEveryRank) {
  for (const std::size_t rank : {4u, 3u, 2u}) {
    FileShape plain, swapped;
    for (auto* shape : {&plain.query, &plain.key, &plain.value}) {
      shape->erase(shape->begin(),
                   shape->end() - static_cast<std::ptrdiff_t>(std::max<std::size_t>(rank, 3)));
      if (rank == 2) shape->erase(shape->begin() + 1);
    }
    swapped = plain;
    std::vector<Tensor> tensors = normal_tensors(plain);
    std::vector<io::NamedTensor> named = {
        {"query", tensors[0]}, {"key", tensors[1]}, {"value", tensors[2]}};
    io::write_safetensors(input_, named);
    ASSERT_EQ(attend("--force", "plain.safetensors").exit_code, 0);
    for (io::NamedTensor& each : named) {
      const int axes = each.tensor.rank;
      if (axes > 2) each.tensor = transpose(each.tensor, axes - 3, axes - 2);
    }
    io::write_safetensors(input_, named);
    ASSERT_EQ(attend("--layout bhsd --force", "swapped.safetensors").exit_code, 0);

    const GoldenCase a = load_golden(folder_ / "plain.safetensors"),
                     b = load_golden(folder_ / "swapped.safetensors");
    ConstTensorView back = b.find("output");
    if (rank > 2) back = transpose(back, back.rank - 3, back.rank - 2);
    EXPECT_EQ(reference::read_all(a.find("output")), reference::read_all(back));
    EXPECT_EQ(reference::read_all(a.find("lse")), reference::read_all(b.find("lse")));
    EXPECT_EQ(a.find("lse").rank, static_cast<int>(rank) - 1);
  }
}

TEST_F(CliAttend, RenamedTensorsAndUnknownOnes) {
  const std::vector<Tensor> tensors = normal_tensors();
  const io::NamedTensor named[] = {
      {"q", tensors[0]}, {"k", tensors[1]}, {"v", tensors[2]}, {"query", tensors[2]}};
  ASSERT_EQ(attend("", "expected.safetensors").exit_code, 0);
  io::write_safetensors(input_, named);
  const Outcome outcome = attend("--query-name q --key-name=k --value-name v");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "longspan: warning: " + input_ + ": attend does not use 'query'\n");
  EXPECT_TRUE(same("out.safetensors", "expected.safetensors", "--rtol 0 --atol 0"));
}

TEST_F(CliAttend, QueryOffsetsOfTheFile) {
  Tensor offsets(DType::kInt32, {2});
  offsets.fill(4);
  write_input(input_, {}, {{"query_offsets", offsets}});
  ASSERT_EQ(attend("--causal", "tensor.safetensors").exit_code, 0);
  EXPECT_EQ(attend("--causal --query-offset 4", "both.safetensors").exit_code, 2);
  write_input(input_);
  ASSERT_EQ(attend("--causal --query-offset end", "option.safetensors").exit_code, 0);
  EXPECT_TRUE(same("tensor.safetensors", "option.safetensors", "--rtol 0 --atol 0"));
}

TEST_F(CliAttend, BytesDoNotDependOnThreads) {
  ASSERT_EQ(attend("--threads 1", "one.safetensors").exit_code, 0);
  ASSERT_EQ(attend("--threads 3 --memory-limit 1GiB", "three.safetensors").exit_code, 0);
  EXPECT_EQ(contents(folder_ / "one.safetensors"), contents(folder_ / "three.safetensors"));
}

TEST_F(CliAttend, OutputDtypeF32) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    FileShape shape;
    shape.dtype = dtype;
    write_input(input_, shape);
    ASSERT_EQ(attend("--output-dtype f32 --force").exit_code, 0);
    EXPECT_EQ(load_golden(folder_ / "out.safetensors").find("output").dtype, DType::kFloat32);
  }
}

TEST_F(CliAttend, MetadataHoldsTheEffectiveOptions) {
  ASSERT_EQ(attend("--causal --query-offset end --scale 0.25 --keys 1:7").exit_code, 0);
  const auto metadata = load_golden(folder_ / "out.safetensors").metadata;
  EXPECT_EQ(metadata.at("options"),
            "--method exact --layout bshd --causal --query-offset=end --scale=0.25 --softcap=0 "
            "--keys 1:7");
  EXPECT_EQ(metadata.at("version"), version());
  // They are options: given back, they give the same file.
  ASSERT_EQ(attend(metadata.at("options"), "again.safetensors").exit_code, 0);
  EXPECT_EQ(contents(folder_ / "out.safetensors"), contents(folder_ / "again.safetensors"));
}

TEST_F(CliAttend, JsonRecord) {
  const Outcome outcome = attend("--json --threads 1");
  ASSERT_EQ(outcome.exit_code, 0);
  const nlohmann::json record = outcome.json();
  EXPECT_EQ(record.at("schema"), 1);
  EXPECT_EQ(record.at("shapes").at("seqlen_k"), 13);
  EXPECT_EQ(record.at("shapes").at("num_heads_kv"), 2);
  EXPECT_EQ(record.at("threads"), 1);
  EXPECT_FALSE(record.at("kernel").get<std::string>().empty());
  for (const char* key :
       {"seconds", "gflops", "peak_bytes", "workspace_bytes", "tasks", "tiles_visited"}) {
    EXPECT_GT(record.at(key).get<double>(), 0) << key;
  }
  EXPECT_GE(record.at("predicted_peak_bytes"), record.at("workspace_bytes"));
}

TEST_F(CliAttend, DryRunPlansAndWritesNothing) {
  const Outcome outcome = run({"attend", input_, "--dry-run", "--json"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const nlohmann::json record = outcome.json();
  EXPECT_EQ(record.at("dry_run"), true);
  EXPECT_FALSE(record.contains("seconds"));
  EXPECT_GT(record.at("predicted_peak_bytes"), 0);
  EXPECT_EQ(attend("--dry-run").exit_code, 0);
  EXPECT_EQ(folder_.files(), 1u);
  EXPECT_EQ(attend("--dry-run --memory-limit 1").exit_code, 4);
}

TEST_F(CliAttend, PredictedMemoryIsPrintedUnlessQuiet) {
  const Outcome loud = run({"attend", input_, "-o", folder_ / "loud.safetensors"});
  EXPECT_NE(loud.err.find("predicted peak"), std::string::npos);
  EXPECT_EQ(attend("").err, "");
  EXPECT_EQ(std::count(loud.out.begin(), loud.out.end(), '\n'), 1) << loud.out;
}

}  // namespace
}  // namespace longspan::test
