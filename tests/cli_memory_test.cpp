// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What `longspan attend` says of its memory against what it takes, and the environment variables of
// the library as the program sees them.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>

#include "cli_testing.h"
#include "longspan/execution.h"

namespace longspan::test {
namespace {

constexpr double kMiB = 1 << 20;

struct MemoryCase {
  const char* name;
  FileShape shape;
  const char* options;
};

const MemoryCase kMemoryCases[] = {
    {"f32_64MiB",
     {{1, 64, 1, 64}, {1, 131072, 1, 64}, {1, 131072, 1, 64}, DType::kFloat32},
     "--threads 2"},
    {"f32_long_output",
     {{1, 65536, 1, 64}, {1, 64, 1, 64}, {1, 64, 1, 64}, DType::kFloat32},
     "--threads 1"},
    {"bf16_causal",
     {{1, 2048, 4, 64}, {1, 2048, 2, 64}, {1, 2048, 2, 64}, DType::kBFloat16},
     "--causal --threads 3"},
    {"limited",
     {{2, 1024, 8, 64}, {2, 1024, 8, 64}, {2, 1024, 8, 64}, DType::kFloat32},
     "--memory-limit 64MiB --threads 2"},
    {"many_heads",
     {{1, 64, 512, 16}, {1, 64, 512, 16}, {1, 64, 512, 16}, DType::kFloat32},
     "--threads 2"},
    {"f64_few_queries",
     {{1, 3, 2, 32}, {1, 20000, 2, 32}, {1, 20000, 2, 32}, DType::kFloat64},
     "--threads 4"},
    {"f32_backward",
     {{1, 65536, 1, 64}, {1, 65536, 1, 64}, {1, 65536, 1, 64}, DType::kFloat32},
     "--backward --window 64,64 --threads 2"},
    {"bf16_backward",
     {{1, 16384, 4, 64}, {1, 16384, 2, 64}, {1, 16384, 2, 64}, DType::kBFloat16},
     "--backward --window 64,0 --dropout 0.5 --threads 3"},
    {"limited_backward",
     {{2, 512, 8, 64}, {2, 512, 8, 64}, {2, 512, 8, 64}, DType::kFloat16},
     "--backward --memory-limit 8MiB --threads 2"},
};

class CliMemory : public testing::TestWithParam<MemoryCase> {};

TEST_P(CliMemory, PredictedIsEnoughAndNotFarFromMeasured) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's memory is not the program's";
  const TemporaryFolder folder;
  const std::string input = folder / "in.safetensors";
  const FileShape& shape = GetParam().shape;
  std::vector<std::int64_t> output = shape.query;
  output.back() = shape.value.back();
  Tensor doutput(shape.dtype, output);  // read with --backward alone
  write_input(input, shape, {{"doutput", doutput.fill(1).view()}});
  std::vector<std::string> words = {"attend", input, "-o", folder / "out", "--quiet", "--json"};
  for (const std::string& word : words_of(GetParam().options)) words.push_back(word);
  const Outcome outcome = run(words);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const nlohmann::json record = outcome.json();
  const double predicted = record.at("predicted_peak_bytes");
  const double measured = record.at("peak_bytes");
  const double tensors =
      record.at("input_bytes").get<double>() + record.at("output_bytes").get<double>();
  EXPECT_GE(measured, tensors) << "what is measured holds at least the tensors";
  EXPECT_GE(predicted, measured) << measured / kMiB << " MiB measured";
  EXPECT_LE(predicted, 2 * measured + 16 * kMiB) << measured / kMiB << " MiB measured";
}

INSTANTIATE_TEST_SUITE_P(Shapes, CliMemory, testing::ValuesIn(kMemoryCases),
                         [](const auto& one) { return std::string(one.param.name); });

class ScopedVariable {
 public:
  ScopedVariable(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name)) before_ = old;
    ::setenv(name, value.c_str(), 1);
  }
  ~ScopedVariable() {
    if (before_) {
      ::setenv(name_, before_->c_str(), 1);
    } else {
      ::unsetenv(name_);
    }
  }
  ScopedVariable(const ScopedVariable&) = delete;
  ScopedVariable& operator=(const ScopedVariable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

class CliEnvironment : public testing::Test {
 protected:
  void SetUp() override { write_input(input_); }
  Outcome attend(const std::string& output, const std::string& options = "") {
    std::vector<std::string> words = {"attend", input_, "-o", folder_ / output, "--quiet"};
    for (const std::string& word : words_of(options)) words.push_back(word);
    return run(words);
  }

  TemporaryFolder folder_;
  const std::string input_ = folder_ / "in.safetensors";
};

TEST_F(CliEnvironment, LimitsAreKeptAndTooSmallOnesRefused) {
  const Outcome free = attend("free", "--json --threads 2");
  ASSERT_EQ(free.exit_code, 0) << free.err;
  const std::int64_t least = 1024;
  for (std::int64_t limit = free.json().at("workspace_bytes"); limit >= least; limit /= 2) {
    const std::string output = "limit" + std::to_string(limit);
    const Outcome outcome =
        attend(output, "--json --threads 2 --memory-limit " + std::to_string(limit));
    if (outcome.exit_code == 0) {
      EXPECT_LE(outcome.json().at("workspace_bytes"), limit);
      EXPECT_EQ(contents(folder_ / output), contents(folder_ / "free"));
    } else {
      EXPECT_EQ(outcome.exit_code, 4);
      EXPECT_NE(outcome.err.find("--memory-limit"), std::string::npos) << outcome.err;
      EXPECT_FALSE(std::filesystem::exists(folder_ / output));
    }
  }
  EXPECT_EQ(attend("refused", "--memory-limit 1").exit_code, 4);
}

TEST_F(CliEnvironment, LogIsOneLineACall) {
  const Outcome silent = attend("silent");
  ASSERT_EQ(silent.exit_code, 0);
  EXPECT_EQ(silent.err, "");
  {
    const ScopedVariable log("LONGSPAN_LOG", "1");
    const Outcome outcome = attend("logged");
    ASSERT_EQ(outcome.exit_code, 0);
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_TRUE(outcome.err.starts_with("longspan: ")) << outcome.err;
    EXPECT_TRUE(outcome.err.ends_with(" s\n")) << outcome.err;
    EXPECT_NE(outcome.err.find("threads"), std::string::npos) << outcome.err;
    EXPECT_EQ(attend("dry", "--dry-run").err, "") << "nothing was called";
  }
  for (const char* other : {"", "0", "10", "yes"}) {
    const ScopedVariable log("LONGSPAN_LOG", other);
    EXPECT_EQ(attend("other", "--force").err, "") << other;
  }
  EXPECT_EQ(contents(folder_ / "silent"), contents(folder_ / "logged"));
}

TEST_F(CliEnvironment, KernelIsTheOneThatWasAskedFor) {
  int usable = 0;
  for (const KernelInfo& kernel : kernels()) {
    const ScopedVariable variable("LONGSPAN_KERNEL", kernel.name);
    const Outcome outcome = attend(kernel.name, "--json");
    if (kernel.usable) {
      ++usable;
      ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
      EXPECT_EQ(outcome.json().at("kernel"), kernel.name);
    } else {
      EXPECT_EQ(outcome.exit_code, 2) << "never a fall-back";
      EXPECT_NE(outcome.err.find(kernel.name), std::string::npos) << outcome.err;
    }
  }
  EXPECT_GE(usable, 1);
}

TEST_F(CliEnvironment, AnUnknownKernelIsRefusedInWords) {
  ASSERT_EQ(attend("kept").exit_code, 0);
  const std::string before = contents(folder_ / "kept");
  const ScopedVariable variable("LONGSPAN_KERNEL", "nonsense");
  for (const char* output : {"none", "kept"}) {
    const Outcome outcome = attend(output, "--force");
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.err.find("LONGSPAN_KERNEL"), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("nonsense"), std::string::npos) << outcome.err;
    for (const KernelInfo& kernel : kernels()) {
      if (!kernel.usable) continue;
      EXPECT_NE(outcome.err.find(kernel.name), std::string::npos) << outcome.err;
    }
  }
  EXPECT_EQ(contents(folder_ / "kept"), before);
  EXPECT_EQ(folder_.files(), 2u) << "the input and the kept output, nothing else";
}

}  // namespace
}  // namespace longspan::test
