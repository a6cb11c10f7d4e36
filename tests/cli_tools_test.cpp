// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// `merge`, `compare`, `inspect`, `doctor`, `bench`, help and version as processes.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cli_testing.h"
#include "io/npy.h"
#include "support/golden.h"

namespace longspan::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

class CliTools : public testing::Test {
 protected:
  void write(const std::string& name, const std::vector<io::NamedTensor>& tensors) {
    io::write_safetensors(folder_ / name, tensors);
  }
  Tensor numbers(const std::vector<double>& values, DType dtype = DType::kFloat32) {
    return Tensor(dtype, {static_cast<std::int64_t>(values.size())}).fill_values(values);
  }
  Outcome compare(const std::string& options = "") {
    return run("compare " + (folder_ / "a.safetensors") + " " + (folder_ / "b.safetensors") + " " +
               options);
  }
  int compare_values(const std::vector<double>& a, const std::vector<double>& b,
                     const std::string& options = "") {
    write("a.safetensors", {{"x", numbers(a)}});
    write("b.safetensors", {{"x", numbers(b)}});
    return compare(options).exit_code;
  }

  TemporaryFolder folder_;
};

TEST_F(CliTools, CompareTolerances) {
  EXPECT_EQ(compare_values({1, 2, 3}, {1, 2, 3}, "--rtol 0 --atol 0"), 0);
  EXPECT_EQ(compare_values({1, 2, 3.1}, {1, 2, 3}), 1);
  EXPECT_EQ(compare_values({1, 2, 3.1}, {1, 2, 3}, "--atol 0.2"), 0);
  EXPECT_EQ(compare_values({1, 2, 3.1}, {1, 2, 3}, "--rtol 0.04"), 0);
  EXPECT_EQ(compare_values({1, 2, 3.1}, {1, 2, 3}, "--rel-l2 0.02"), 1);
  EXPECT_EQ(compare_values({1, 2, 3.1}, {1, 2, 3}, "--rel-l2 0.03"), 0);
  EXPECT_EQ(compare_values({0, 0}, {1e-3, 1e-3}, "--rel-l2 0.5"), 1);
  EXPECT_EQ(compare_values({1e-30, 0}, {0, 0}, "--rel-l2 0.5"), 1);
  EXPECT_EQ(compare_values({}, {}), 0);
}

TEST_F(CliTools, CompareOfIntegersIsExact) {
  constexpr std::int64_t kLarge = (std::int64_t{1} << 60) + 1;  // which no double is
  const auto write_number = [&](const std::string& name, std::int64_t number) {
    Tensor tensor(DType::kInt64, {1});
    *static_cast<std::int64_t*>(tensor.view().data) = number;
    write(name, {{"x", tensor}});
  };
  write_number("a.safetensors", kLarge);
  for (const std::int64_t other : {kLarge - 1, kLarge, -kLarge}) {
    write_number("b.safetensors", other);
    const Outcome outcome = compare("--rtol 0 --atol 0 --json");
    EXPECT_EQ(outcome.exit_code, other == kLarge ? 0 : 1) << other;
    EXPECT_EQ(outcome.json().at("tensors").at(0).at("a"), kLarge);
    EXPECT_EQ(outcome.json().at("tensors").at(0).at("b"), other);
    EXPECT_NE(compare("--rtol 0 --atol 0").out.find(std::to_string(other)), std::string::npos);
  }
  EXPECT_EQ(compare("--rtol 2").exit_code, 0);
}

TEST_F(CliTools, CompareNamesTensors) {
  write("a.safetensors", {{"x", numbers({1})}, {"", numbers({1})}});
  write("b.safetensors", {{"x", numbers({1})}, {"", numbers({1})}});
  EXPECT_NE(compare().out.find("ok   '' [1]"), std::string::npos) << compare().out;
  const std::string files = (folder_ / "a.safetensors") + " " + (folder_ / "b.safetensors");
  EXPECT_EQ(run("compare --tensor x " + files).exit_code, 0) << "an option before the files";
  EXPECT_EQ(run("compare --tensor x --tensor x=x " + files).exit_code, 0);
}

TEST_F(CliTools, CompareSpecialValues) {
  for (const std::string options : {"", "--rtol 1 --atol 1e300", "--rel-l2 1e300"}) {
    EXPECT_EQ(compare_values({kNan, kInf, -kInf, 1}, {kNan, kInf, -kInf, 1}, options), 0)
        << options;
    EXPECT_EQ(compare_values({kNan, 1}, {1, 1}, options), 1) << options;
    EXPECT_EQ(compare_values({1, 1}, {kNan, 1}, options), 1) << options;
    EXPECT_EQ(compare_values({kInf, 1}, {-kInf, 1}, options), 1) << options;
    EXPECT_EQ(compare_values({1, 1}, {kInf, 1}, options), 1) << options;
  }
}

TEST_F(CliTools, CompareReport) {
  write("a.safetensors",
        {{"x", Tensor(DType::kFloat64, {2, 2}).fill_values({3, 4, 0, 1})}, {"only", numbers({1})}});
  write("b.safetensors",
        {{"x", Tensor(DType::kFloat16, {2, 2}).fill_values({3, 4, 0, 3})}, {"y", numbers({1})}});
  const Outcome outcome = compare("--json");
  EXPECT_EQ(outcome.exit_code, 1);
  const nlohmann::json record = outcome.json();
  EXPECT_EQ(record.at("within"), false);
  EXPECT_EQ(record.at("only_a"), nlohmann::json({"only"}));
  EXPECT_EQ(record.at("only_b"), nlohmann::json({"y"}));
  const nlohmann::json x = record.at("tensors").at(0);
  EXPECT_EQ(x.at("max_abs"), 2.0);
  EXPECT_EQ(x.at("rms"), 1.0);
  EXPECT_DOUBLE_EQ(x.at("rel_l2"), 2 / std::sqrt(34.0));
  EXPECT_EQ(x.at("worst_index"), nlohmann::json({1, 1}));
  EXPECT_EQ(x.at("a"), 1.0);
  EXPECT_EQ(x.at("b"), 3.0);
  EXPECT_EQ(compare("--tensor only=y").exit_code, 0);
  EXPECT_EQ(compare("--tensor only=y --tensor x").exit_code, 1);
  EXPECT_EQ(compare("--tensor y").exit_code, 3);
}

TEST_F(CliTools,
       CompareInChunks) {  // more elements than one chunk holds, the difference in the last
  std::vector<double> values((1 << 18) + 5, 0.5);
  write("a.safetensors", {{"x", numbers(values)}});
  values.back() = 0.75;
  write("b.safetensors", {{"x", numbers(values)}});
  const nlohmann::json x = compare("--json").json().at("tensors").at(0);
  EXPECT_EQ(x.at("worst_index"), nlohmann::json({(1 << 18) + 4}));
  EXPECT_EQ(x.at("max_abs"), 0.25);
}

TEST_F(CliTools, InspectStatistics) {
  write("a.safetensors", {{"x", numbers({kNan, -2, 6, kInf, -kInf}, DType::kBFloat16)},
                          {"none", numbers({})},
                          {"ids", Tensor(DType::kInt64, {1, 2}).fill_values({-3, 5})}});
  const Outcome outcome = run("inspect --json " + (folder_ / "a.safetensors"));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const nlohmann::json record = outcome.json();
  for (const nlohmann::json& tensor : record.at("tensors")) {
    if (tensor.at("name") == "x") {
      EXPECT_EQ(tensor.at("dtype"), "BF16");
      EXPECT_EQ(tensor.at("shape"), nlohmann::json({5}));
      EXPECT_EQ(tensor.at("min"), -2.0);
      EXPECT_EQ(tensor.at("max"), 6.0);
      EXPECT_EQ(tensor.at("mean"), 2.0);
      EXPECT_EQ(tensor.at("nan"), 1);
      EXPECT_EQ(tensor.at("inf"), 2);
    } else if (tensor.at("name") == "none") {
      EXPECT_TRUE(tensor.at("min").is_null());
    } else {
      EXPECT_EQ(tensor.at("mean"), 1.0);
    }
  }
  const Outcome text = run("inspect " + (folder_ / "a.safetensors"));
  EXPECT_NE(text.out.find("BF16"), std::string::npos);
  io::write_npy(folder_ / "x.npy", numbers({1, 2}));
  EXPECT_EQ(run("inspect --json " + (folder_ / "x.npy")).json().at("tensors").at(0).at("max"), 2.0);
}

TEST_F(CliTools, MergeOfManyPartsAndTypes) {
  // ln 1, ln 2, ln 1 with outputs 1, 4, 7: (1 + 8 + 7) / 4; an empty part adds nothing, whatever
  // its output.
  std::string line = "merge";
  const std::vector<std::pair<double, double>> parts = {
      {1, 0}, {4, std::log(2.0)}, {kNan, -kInf}, {7, 0}};
  for (std::size_t n = 0; n < parts.size(); ++n) {
    const std::string name = "part" + std::to_string(n) + ".safetensors";
    const DType dtype = n == 0 ? DType::kFloat16 : DType::kFloat32;
    write(name, {{"output", Tensor(dtype, {1, 1}).fill(parts[n].first)},
                 {"lse", Tensor(DType::kFloat32, {1}).fill(parts[n].second)}});
    line += " " + (folder_ / name);
  }
  const Outcome outcome = run(line + " --json -o " + (folder_ / "all.safetensors"));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.json().at("parts"), 4);
  EXPECT_EQ(outcome.err.find("merge: predicted peak"), 0u) << outcome.err;
  const GoldenCase merged = load_golden(folder_ / "all.safetensors");
  EXPECT_EQ(merged.find("output").dtype, DType::kFloat32);
  EXPECT_EQ(*static_cast<const float*>(merged.find("output").data), 4.0F);
  EXPECT_FLOAT_EQ(*static_cast<const float*>(merged.find("lse").data), std::log(4.0F));
  EXPECT_EQ(run(line + " -o " + (folder_ / "all.safetensors")).exit_code, 2);
}

TEST_F(CliTools, MergeOfOnePartChangesNoBitInEitherLayout) {
  for (const std::string layout : {"bshd", "bhsd"}) {
    Random random(3);
    write("part.safetensors",
          {{"output", Tensor(DType::kBFloat16, {2, 3, 3, 5}).fill_normal(random)},
           {"lse", Tensor(DType::kFloat32, {2, 3, 3}).fill_normal(random)}});
    const Outcome outcome = run("merge " + (folder_ / "part.safetensors") + " --force --layout " +
                                layout + " -o " + (folder_ / "all.safetensors"));
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(run("compare --rtol 0 --atol 0 " + (folder_ / "part.safetensors") + " " +
                  (folder_ / "all.safetensors"))
                  .exit_code,
              0);
  }
}

TEST_F(CliTools, MergeRefusesPartsThatDoNotFit) {
  write("a.safetensors", {{"output", Tensor(DType::kFloat32, {2, 3}).fill(1)},
                          {"lse", Tensor(DType::kFloat32, {2}).fill(0)}});
  write("b.safetensors", {{"output", Tensor(DType::kFloat32, {3, 3}).fill(1)},
                          {"lse", Tensor(DType::kFloat32, {3}).fill(0)}});
  const Outcome outcome = run("merge " + (folder_ / "a.safetensors") + " " +
                              (folder_ / "b.safetensors") + " -o " + (folder_ / "all.safetensors"));
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_NE(outcome.err.find("[2, 3]"), std::string::npos) << outcome.err;
  EXPECT_EQ(folder_.files(), 2u);
  // A part that does not fit together by itself is named.
  const std::string part = folder_ / "c.safetensors";
  const auto expect_named = [&](const std::vector<io::NamedTensor>& tensors) {
    write("c.safetensors", tensors);
    const Outcome refused = run("merge " + part + " -o " + (folder_ / "all.safetensors"));
    EXPECT_EQ(refused.exit_code, 3);
    EXPECT_EQ(refused.err.find("longspan: " + part + ": "), 0u) << refused.err;
  };
  const Tensor vector(DType::kFloat32, {3}), pairs(DType::kFloat32, {3, 2}),
      heads(DType::kFloat32, {3, 2, 4}), integers(DType::kInt32, {3});
  expect_named({{"output", pairs}, {"lse", pairs}});
  expect_named({{"output", heads}, {"lse", pairs}});  // [2, 3] in the layout bshd
  expect_named({{"output", vector}, {"lse", vector}});
  expect_named({{"output", pairs}, {"lse", integers}});
  write("c.safetensors", {{"output", heads}, {"lse", pairs}});
  EXPECT_EQ(run("merge --layout bhsd " + part + " -o " + (folder_ / "all.safetensors")).exit_code,
            0);
}

TEST_F(CliTools, Doctor) {
  const Outcome outcome = run("doctor --json");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.out;
  const nlohmann::json record = outcome.json();
  EXPECT_EQ(record.at("healthy"), true);
  EXPECT_FALSE(record.at("kernels").empty());
  for (const nlohmann::json& kernel : record.at("kernels")) {
    EXPECT_TRUE(kernel.at("chosen") == true || !kernel.at("reason").get<std::string>().empty())
        << kernel;
  }
  EXPECT_FALSE(record.at("self_test").empty());
  EXPECT_GE(record.at("threads").at("used"), 1);
  EXPECT_GT(record.at("memory").at("total"), 0);
  EXPECT_NE(run("doctor").out.find("all is well"), std::string::npos);
  const Outcome refused = run_script("LONGSPAN_KERNEL=nonsense \"$0\" doctor --json");
  EXPECT_EQ(refused.exit_code, 1) << "attention by it is refused";
  EXPECT_EQ(refused.json().at("healthy"), false);
  EXPECT_NE(run_script("LONGSPAN_KERNEL=nonsense \"$0\" doctor").out.find("LONGSPAN_KERNEL asks"),
            std::string::npos);
}

TEST_F(CliTools, BenchExpandsToAllCombinations) {
  const std::string line =
      "bench --seqlen 16:64:x2 --heads 2,4 --heads-kv 2 --head-dim 8 --causal=0,1 --window none "
      "--window 5,0 --dtype f32,bf16 --repeat 2 --warm-up 0 --quiet -o json";
  const Outcome outcome = run(line);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  const nlohmann::json records = outcome.json().at("records");
  EXPECT_EQ(records.size(), 3u * 2 * 2 * 2 * 2);
  for (const nlohmann::json& record : records) {
    EXPECT_EQ(record.at("schema"), 1);
    EXPECT_EQ(record.at("version"), version());
    EXPECT_GT(record.at("seconds_median"), 0);
    EXPECT_LE(record.at("seconds_min"), record.at("seconds_median"));
    EXPECT_GT(record.at("gflops"), 0);
    for (const char* key : {"cpu", "kernel", "threads", "spread", "output_rel_l2"})
      EXPECT_TRUE(record.contains(key));
  }
}

TEST_F(CliTools, BenchFormats) {
  const std::string line = "bench --seqlen 8,16 --head-dim 8 --heads 1 --repeat 1 --quiet -o ";
  const auto lines = [](const std::string& text) {
    return std::count(text.begin(), text.end(), '\n');
  };
  EXPECT_EQ(lines(run(line + "csv").out), 3);
  EXPECT_EQ(lines(run(line + "md").out), 2 + 2 + 2);
  const std::string jsonl = run(line + "jsonl").out;
  EXPECT_EQ(lines(jsonl), 2);
  EXPECT_EQ(nlohmann::json::parse(jsonl.substr(0, jsonl.find('\n'))).at("seqlen_k"), 8);
  EXPECT_EQ(run("bench --seqlen 33 --seqlen-q 1 --heads 1 --repeat 1 --causal --quiet -o jsonl")
                .json()
                .at("seqlen_q"),
            1);
}

TEST_F(CliTools, BenchSaysItsMemory) {
  const std::string line = "bench --window 3,0 --seqlen 64 --heads 1 --repeat 1 -o jsonl";
  const Outcome outcome = run(line);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("predicted peak"), std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find("workspace 0 B"), std::string::npos) << outcome.err;
  EXPECT_GT(outcome.json().at("workspace_bytes"), 0);
  EXPECT_NE(run(line + " stray").err.find("found 'stray'"), std::string::npos);
  EXPECT_NE(run("bench --window 3,0 stray").err.find("found 'stray'"), std::string::npos)
      << "it is no second window";
}

TEST_F(CliTools, HelpAndVersion) {
  EXPECT_EQ(run("--version").out, std::string("longspan ") + version() + "\n");
  const std::string help = run("--help").out;
  EXPECT_EQ(run("help").out, help);
  for (const char* command : {"attend", "merge", "compare", "inspect", "doctor", "bench"}) {
    EXPECT_NE(help.find(command), std::string::npos);
    const Outcome outcome = run(std::string("help ") + command);
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_NE(outcome.out.find("Examples:"), std::string::npos) << command;
    EXPECT_EQ(run(std::string(command) + " --help").out, outcome.out);
  }
}

// The examples of the help texts run, with small sizes instead of what takes long.
TEST_F(CliTools, ExamplesRun) {
  FileShape shape;
  shape.query = shape.key = shape.value = {16, 2, 8};
  Tensor doutput(DType::kFloat32, {16, 2, 8});
  write_input(folder_ / "input.safetensors", shape, {{"doutput", doutput.fill(1).view()}});
  const std::vector<Tensor> tensors = normal_tensors(shape);
  const char* names[] = {"query.npy", "key.npy", "value.npy"};
  for (std::size_t n = 0; n < 3; ++n) io::write_npy(folder_ / names[n], tensors[n]);
  std::filesystem::current_path(folder_.path());
  ASSERT_EQ(run("attend input.safetensors -o expected.safetensors --causal --quiet").exit_code, 0);
  for (const char* command : {"attend", "merge", "compare", "inspect", "explain"}) {
    std::istringstream lines(run(std::string("help ") + command).out);
    for (std::string text; std::getline(lines, text);) {
      std::vector<std::string> words = words_of(text);
      if (words.size() < 2 || words[0] != "longspan") continue;
      words.erase(words.begin());
      for (std::string& word : words) {
        if (word == "0:4096") word = "0:8";
        if (word == "4096:8192") word = "8:16";
        if (word == "output=expected_output") word = "output";
        if (word == "a.safetensors" || word == "b.safetensors") word = "expected.safetensors";
      }
      const Outcome outcome = run(words);
      EXPECT_EQ(outcome.exit_code, 0) << text << "\n" << outcome.err;
    }
  }
  std::filesystem::current_path("/");
}

}  // namespace
}  // namespace longspan::test
