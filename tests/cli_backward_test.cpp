// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// `longspan attend --backward` and `--dropout` as a process: every golden case against the library,
// what is written, what is refused, the record.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "cli_testing.h"
#include "io/npy.h"
#include "support/backward.h"
#include "support/golden.h"

namespace longspan::test {
namespace {

std::vector<std::int64_t> shape_of(const ConstTensorView& view) {
  return {view.shape.begin(), view.shape.begin() + view.rank};
}

std::set<std::string> names_in(const GoldenCase& file) {
  std::set<std::string> names;
  for (const auto& [name, tensor] : file.tensors) names.insert(name);
  return names;
}

class CliBackwardGolden : public testing::TestWithParam<std::string> {};

// The same bits as from the library, which exact_backward_golden_test holds against the file.
TEST_P(CliBackwardGolden, WritesWhatTheLibraryGives) {
  const std::string path = std::string(LONGSPAN_GOLDEN_DIR) + "/exact/" + GetParam();
  const GoldenCase golden = load_golden(path + ".safetensors");
  const TemporaryFolder folder;
  std::vector<std::string> words = {"attend", path + ".safetensors", "-o", folder / "result",
                                    "--quiet"};
  for (const std::string& word : words_of(golden.metadata.at("options"))) words.push_back(word);
  const Outcome outcome = run(words);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const GoldenCase written = load_golden(folder / "result");

  const GoldenOptions options = parse_options(golden);
  const auto seqlen_first = [&](auto view) {
    return options.heads_first ? transpose(view, view.rank - 3, view.rank - 2) : view;
  };
  const ConstTensorView query = golden.find("query");
  const DType wide = accumulator_of(query.dtype);
  std::map<std::string, Tensor> expected;
  for (const char* name : {"output", "lse", "dquery", "dkey", "dvalue", "dbias", "dsinks"}) {
    const ConstTensorView like = golden.find(name);
    if (!is_given(like)) continue;
    const bool is_wide = std::set<std::string>{"lse", "dbias", "dsinks"}.contains(name);
    expected[name] = Tensor(is_wide ? wide : query.dtype, shape_of(like));
  }
  const auto view = [&](const std::string& name, bool has_layout = true) {
    if (!expected.contains(name)) return TensorView{};
    const TensorView stored = expected.at(name).view();
    return has_layout ? seqlen_first(stored) : stored;
  };
  constexpr bool kPlain = false;
  const Partial result{view("output"), view("lse", kPlain)};
  const ConstTensorView key = seqlen_first(golden.find("key")),
                        value = seqlen_first(golden.find("value"));
  attention(seqlen_first(query), key, value, result, options.attention);
  attention_backward(
      seqlen_first(query), key, value, result,
      {seqlen_first(golden.find("doutput")), golden.find("dlse")},
      {view("dquery"), view("dkey"), view("dvalue"), view("dbias", kPlain), view("dsinks", kPlain)},
      options.attention);

  EXPECT_EQ(written.tensors.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    const ConstTensorView found = written.find(name);
    ASSERT_TRUE(is_given(found)) << name;
    EXPECT_EQ(found.dtype, tensor.view().dtype) << name;
    EXPECT_EQ(shape_of(found), tensor.shape()) << name;
    Tensor stored(found.dtype, shape_of(found));
    stored.fill_values(reference::read_all(found));
    EXPECT_TRUE(same_bits(stored, tensor)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CliBackwardGolden, testing::ValuesIn(golden_names_with_gradients()),
                         [](const auto& one) { return one.param; });

class CliBackward : public testing::Test {
 protected:
  void SetUp() override { write(); }

  // The standard input with derivatives, of `derivative` type unless that is the input's own.
  void write(DType dtype = DType::kFloat32, std::optional<DType> derivative = {},
             const std::vector<io::NamedTensor>& more = {}) {
    FileShape shape;
    shape.dtype = dtype;
    Random random(2);
    Tensor doutput(derivative.value_or(dtype), {2, 9, 4, 5});
    Tensor dlse(accumulator_of(dtype), {2, 4, 9});
    std::vector<io::NamedTensor> named = more;
    named.push_back({"doutput", doutput.fill_normal(random).view()});
    named.push_back({"dlse", dlse.fill_normal(random).view()});
    write_input(input_, shape, named);
  }
  // The standard input with one tensor instead of the derivatives.
  void write_only(const std::string& name, Tensor tensor) {
    write_input(input_, {}, {{name, tensor.fill(0.5).view()}});
  }

  Outcome attend(const std::string& options, const std::string& output = "out.safetensors") {
    std::vector<std::string> words = {"attend", input_, "-o", folder_ / output, "--quiet"};
    for (const std::string& word : words_of(options)) words.push_back(word);
    return run(words);
  }
  void expect_refused(int exit_code, const std::string& options,
                      std::initializer_list<const char*> found) {
    const Outcome outcome = attend(options, "refused.safetensors");
    EXPECT_EQ(outcome.exit_code, exit_code) << options << ": " << outcome.err;
    for (const char* word : found)
      EXPECT_NE(outcome.err.find(word), std::string::npos) << word << " in " << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(folder_ / "refused.safetensors"));
  }
  GoldenCase written(const std::string& output = "out.safetensors") const {
    return load_golden(folder_ / output);
  }
  bool same_bytes(const std::string& a, const std::string& b) const {
    return contents(folder_ / a) == contents(folder_ / b);
  }

  TemporaryFolder folder_;
  const std::string input_ = folder_ / "in.safetensors";
};

TEST_F(CliBackward, GradientsOfWhatIsThere) {
  ASSERT_EQ(attend("--backward").exit_code, 0);
  EXPECT_EQ(names_in(written()),
            (std::set<std::string>{"output", "lse", "dquery", "dkey", "dvalue"}));
  Tensor bias(DType::kFloat16, {4, 1, 13}), sinks(DType::kBFloat16, {4});
  write(DType::kBFloat16, {}, {{"bias", bias.fill(0.5).view()}, {"sinks", sinks.fill(1).view()}});
  ASSERT_EQ(attend("--backward --force").exit_code, 0);
  const GoldenCase file = written();
  EXPECT_EQ(names_in(file), (std::set<std::string>{"output", "lse", "dquery", "dkey", "dvalue",
                                                   "dbias", "dsinks"}));
  EXPECT_EQ(file.find("dquery").dtype, DType::kBFloat16);
  EXPECT_EQ(file.find("dbias").dtype, DType::kFloat32);
  EXPECT_EQ(shape_of(file.find("dbias")), (std::vector<std::int64_t>{4, 1, 13}));
  EXPECT_EQ(file.find("dsinks").dtype, DType::kFloat32);
  ASSERT_EQ(attend("--force").exit_code, 0);
  EXPECT_EQ(names_in(written()), (std::set<std::string>{"output", "lse"}));
}

TEST_F(CliBackward, GradientsHaveTheOutputsType) {
  write(DType::kBFloat16, DType::kFloat32);
  ASSERT_EQ(attend("--backward --output-dtype f32").exit_code, 0);
  for (const char* name : {"output", "dquery", "dkey", "dvalue"})
    EXPECT_EQ(written().find(name).dtype, DType::kFloat32) << name;
  expect_refused(3, "--backward", {"doutput", "bfloat16", "float32"});
}

TEST_F(CliBackward, DlseMayBeLeftOut) {
  Tensor zero(DType::kFloat32, {2, 4, 9}), doutput(DType::kFloat32, {2, 9, 4, 5});
  doutput.fill(0.25);
  write_input(input_, {}, {{"doutput", doutput.view()}, {"dlse", zero.fill(0).view()}});
  ASSERT_EQ(attend("--backward", "zero").exit_code, 0);
  write_input(input_, {}, {{"doutput", doutput.view()}});
  ASSERT_EQ(attend("--backward", "none").exit_code, 0);
  EXPECT_TRUE(same_bytes("zero", "none"));
  write();
  ASSERT_EQ(attend("--backward", "other").exit_code, 0);
  EXPECT_FALSE(same_bytes("other", "none"));
}

TEST_F(CliBackward, RenamedDerivatives) {
  ASSERT_EQ(attend("--backward", "expected").exit_code, 0);
  const GoldenCase before = load_golden(input_);
  std::vector<io::NamedTensor> named;
  for (const auto& [name, tensor] : before.tensors)
    named.push_back({name == "doutput" ? "g" : name == "dlse" ? "h" : name, tensor.view()});
  io::write_safetensors(input_, named);
  const Outcome outcome = attend("--backward --doutput-name g --dlse-name h");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  std::vector<std::string> words = words_of("compare --rtol 0 --atol 0");
  words.insert(words.end(), {folder_ / "out.safetensors", folder_ / "expected"});
  EXPECT_EQ(run(words).exit_code, 0);
  expect_refused(2, "--doutput-name g", {"--backward"});
  expect_refused(3, "--backward --doutput-name g --dlse-name absent", {"'absent'"});
}

TEST_F(CliBackward, DerivativesAreNoUnknownTensors) {
  const Outcome outcome = attend("");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.err, "");
}

TEST_F(CliBackward, BytesDoNotDependOnThreads) {
  ASSERT_EQ(attend("--backward --threads 1", "one").exit_code, 0);
  ASSERT_EQ(attend("--backward --threads 3", "three").exit_code, 0);
  EXPECT_TRUE(same_bytes("one", "three"));
}

TEST_F(CliBackward, MetadataRepeatsTheRun) {
  const std::string options = "--causal --query-offset end --dropout 0.25 --seed 9 --backward";
  ASSERT_EQ(attend(options).exit_code, 0);
  const std::string effective = written().metadata.at("options");
  EXPECT_NE(effective.find("--dropout=0.25 --seed 9"), std::string::npos) << effective;
  EXPECT_NE(effective.find("--backward"), std::string::npos) << effective;
  ASSERT_EQ(attend(effective, "again").exit_code, 0);
  EXPECT_TRUE(same_bytes("out.safetensors", "again"));
}

TEST_F(CliBackward, Dropout) {
  ASSERT_EQ(attend("--backward", "none").exit_code, 0);
  ASSERT_EQ(attend("--backward --dropout 0 --seed 5", "zero").exit_code, 0);
  EXPECT_TRUE(same_bytes("none", "zero")) << "nothing is dropped, no bit changes";
  ASSERT_EQ(attend("--backward --dropout=0.5", "first").exit_code, 0);
  ASSERT_EQ(attend("--backward --dropout=0.5 --seed 0", "same").exit_code, 0);
  ASSERT_EQ(attend("--backward --dropout=0.5 --seed 1", "second").exit_code, 0);
  EXPECT_TRUE(same_bytes("first", "same")) << "the seed is 0";
  const auto values = [&](const char* file, const char* tensor) {
    return reference::read_all(written(file).find(tensor));
  };
  EXPECT_NE(values("first", "output"), values("second", "output"));
  EXPECT_NE(values("first", "dquery"), values("second", "dquery"));
  EXPECT_EQ(values("first", "lse"), values("none", "lse"));
  ASSERT_EQ(attend("--backward --dropout 1", "all").exit_code, 0);
  for (const char* tensor : {"output", "dvalue"})
    for (const double x : values("all", tensor)) EXPECT_EQ(x, 0.0) << tensor;
  for (const char* wrong : {"--dropout 1.5", "--dropout=-0.1", "--dropout nan", "--dropout x",
                            "--seed=-1", "--seed 1.5"}) {
    expect_refused(2, wrong, {"expected"});
  }
}

TEST_F(CliBackward, WhatIsMissingOrDoesNotFit) {
  write_input(input_);
  expect_refused(3, "--backward", {"doutput", "found none"});
  write_only("doutput", Tensor(DType::kFloat32, {2, 9, 4, 8}));
  expect_refused(3, "--backward", {"doutput", "[2, 9, 4, 5]", "[2, 9, 4, 8]"});
  expect_refused(3, "--backward --dry-run", {"doutput", "[2, 9, 4, 8]"});
  write_only("doutput", Tensor(DType::kFloat32, {9, 4, 5}));
  expect_refused(3, "--backward", {"doutput", "[9, 4, 5]"});
  write_only("doutput", Tensor(DType::kFloat64, {2, 9, 4, 5}));
  expect_refused(3, "--backward", {"doutput", "float32", "float64"});
  Tensor doutput(DType::kFloat32, {2, 9, 4, 5}), dlse(DType::kFloat32, {2, 9, 4});
  write_input(input_, {}, {{"doutput", doutput.fill(1).view()}, {"dlse", dlse.fill(1).view()}});
  expect_refused(3, "--backward", {"dlse", "[2, 4, 9]", "[2, 9, 4]"});
}

TEST_F(CliBackward, FilesThatCannotHoldIt) {
  const std::vector<Tensor> tensors = normal_tensors();
  const std::vector<std::string> names = {folder_ / "q.npy", folder_ / "k.npy", folder_ / "v.npy"};
  for (std::size_t n = 0; n < 3; ++n) io::write_npy(names[n], tensors[n]);
  const Outcome outcome =
      run({"attend", names[0], names[1], names[2], "-o", folder_ / "out", "--backward", "--quiet"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_NE(outcome.err.find("--backward"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find(".npy"), std::string::npos) << outcome.err;
  EXPECT_EQ(attend("--backward", "out.npy").exit_code, 2) << "it would lose the gradients";
}

TEST_F(CliBackward, JsonRecord) {
  const Outcome outcome = attend("--json --backward --threads 1");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const nlohmann::json record = outcome.json();
  const nlohmann::json& backward = record.at("backward");
  for (const char* key : {"seconds", "gflops", "flop", "tasks", "tiles_visited", "workspace_bytes",
                          "query_chunk", "key_chunk", "threads"}) {
    EXPECT_GT(record.at(key).get<double>(), 0) << key;
    EXPECT_GT(backward.at(key).get<double>(), 0) << key;
  }
  EXPECT_EQ(backward.at("flop").get<double>() / record.at("flop").get<double>(),
            (3 * 8 + 2 * 5) / (8 + 5.0));
  EXPECT_GE(record.at("workspace_bytes"), backward.at("workspace_bytes"));
  EXPECT_FALSE(attend("--json", "forward").json().contains("backward"));
}

TEST_F(CliBackward, DryRunPlansBoth) {
  const nlohmann::json forward = run({"attend", input_, "--dry-run", "--json"}).json();
  const Outcome outcome = run({"attend", input_, "--dry-run", "--json", "--backward"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const nlohmann::json record = outcome.json();
  EXPECT_FALSE(record.at("backward").contains("seconds"));
  EXPECT_GT(record.at("input_bytes"), forward.at("input_bytes")) << "doutput and dlse";
  EXPECT_GT(record.at("output_bytes"), forward.at("output_bytes")) << "the gradients";
  EXPECT_GT(record.at("predicted_peak_bytes"), forward.at("predicted_peak_bytes"));
  EXPECT_EQ(record.at("workspace_bytes"),
            std::max(forward.at("workspace_bytes"), record.at("backward").at("workspace_bytes")));
  const Outcome text = run({"attend", input_, "--dry-run", "--backward"});
  EXPECT_NE(text.out.find("backward"), std::string::npos) << text.out;
  EXPECT_EQ(folder_.files(), 1u);
}

// A plan that passes must not be refused when half of the work is done.
TEST_F(CliBackward, WhatFitsInADryRunFitsInTheRun) {
  Tensor bias(DType::kFloat32, {9, 13});
  write(DType::kFloat32, {}, {{"bias", bias.fill(0.5).view()}});
  int refused = 0;
  for (std::int64_t limit = 1 << 20; limit > 1000; limit = limit * 9 / 10) {
    const std::string options = "--backward --memory-limit " + std::to_string(limit);
    const int planned = attend(options + " --dry-run").exit_code;
    EXPECT_EQ(attend(options + " --force").exit_code, planned) << limit;
    refused += planned == 4 ? 1 : 0;
  }
  EXPECT_GT(refused, 0);
}

TEST_F(CliBackward, ALimitThatIsTooSmallNamesOneThatFitsBoth) {
  const Outcome refused = attend("--backward --memory-limit 1");
  EXPECT_EQ(refused.exit_code, 4);
  const std::size_t at = refused.err.find("--memory-limit ");
  ASSERT_NE(at, std::string::npos) << refused.err;
  const std::string fitting = words_of(refused.err.substr(at)).at(1);
  EXPECT_EQ(attend("--backward --memory-limit " + fitting).exit_code, 0);
}

}  // namespace
}  // namespace longspan::test
