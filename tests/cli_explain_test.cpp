// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// `longspan explain` as a process: that it ends with what `attend` writes, its examples, its page,
// and hostile input.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "cli_testing.h"
#include "longspan/tensor.h"
#include "support/compare.h"
#include "support/golden.h"

namespace longspan::test {
namespace {

using Json = nlohmann::json;

// "-inf" and the like stand as strings.
void flatten(const Json& values, std::vector<double>& into) {
  if (values.is_array()) {
    for (const Json& each : values) flatten(each, into);
  } else {
    into.push_back(values.is_string() ? std::stod(values.get<std::string>())
                                      : values.get<double>());
  }
}

const Json& step(const Json& record, const std::string& name) {
  for (const Json& each : record.at("steps")) {
    if (each.at("name") == name) return each;
  }
  throw std::invalid_argument("the record has no step " + name);
}
std::vector<double> numbers(const Json& record, const std::string& name) {
  std::vector<double> all;
  flatten(step(record, name).at("values"), all);
  return all;
}

class CliExplain : public testing::Test {
 protected:
  CliExplain() {
    setenv("NO_COLOR", "1", 1);
    FileShape shape;
    shape.query = shape.key = shape.value = {24, 2, 8};
    write_input(input_, shape);
  }
  // The output of attend, and the step `output` of the record.
  void expect_same_end(const std::string& options) {
    SCOPED_TRACE(options);
    const std::string result = folder_ / "result.safetensors";
    ASSERT_EQ(run("attend " + input_ + " -o " + result + " --force --quiet " + options).exit_code,
              0);
    const Outcome explained = run("explain " + input_ + " --json " + options);
    ASSERT_EQ(explained.exit_code, 0) << explained.err;
    const Json record = explained.json();
    EXPECT_EQ(record.at("schema"), 1);
    for (const Json& each : record.at("steps")) {
      for (const char* field : {"name", "also", "axes", "shape", "values", "why"}) {
        EXPECT_TRUE(each.contains(field)) << field;
      }
      EXPECT_EQ(each.at("axes").size(), each.at("shape").size());
      EXPECT_NE(each.at("why"), "") << each.at("name");
    }
    const GoldenCase attended = load_golden(result);
    EXPECT_TRUE(within_rel_l2(numbers(record, "output"), attended.numbers("output"), 1e-6));
    EXPECT_TRUE(within_elementwise(numbers(record, "lse"), attended.numbers("lse"), 2e-6, 1e-6));
  }

  TemporaryFolder folder_;
  const std::string input_ = folder_ / "in.safetensors";
};

TEST_F(CliExplain, EndsWithWhatAttendWrites) {
  expect_same_end("--key-chunk 7");
  expect_same_end("--causal --softcap 3 --scale 0.5 --key-chunk 5");
  expect_same_end("--window=3,2 --keys 4:20");
  expect_same_end("--method lsh --num-hashes 2 --num-buckets 4 --chunk-len 8 --causal");
  expect_same_end("--method lsh --num-hashes 2 --num-buckets 4 --whole-buckets");
}

TEST_F(CliExplain, TextIsReadable) {
  for (const char* options : {"", "--method lsh", "--method lsh --preset lab",
                              "--method lsh --preset lab --passthrough"}) {
    const Outcome outcome = run(std::string("explain ") + options);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    std::istringstream lines(outcome.out);
    for (std::string line; std::getline(lines, line);) {
      EXPECT_LE(line.size(), 80u) << line;
      EXPECT_EQ(line.find('\x1B'), std::string::npos);
    }
    EXPECT_NE(outcome.out.find("output"), std::string::npos);
  }
}

// The lab's printed numbers: 6, 24 and 54 passed through, logits of 0.69, 3.69, 12.69 and 27.69.
TEST_F(CliExplain, TheLabsOwnNumbers) {
  const Json passed = run("explain --method lsh --preset lab --passthrough --json").json();
  const std::vector<double> out = numbers(passed, "combine/output");
  for (std::size_t n = 0; n < 8; ++n) {
    const double expected[] = {0, 6, 24, 54};
    EXPECT_NEAR(out[n * 5], expected[n % 4], 1e-12);
  }
  const Json softmax = run("explain --method lsh --preset lab --json").json();
  const std::vector<double> logits = numbers(softmax, "rounds/lse");
  for (std::size_t n = 0; n < 16; ++n) {
    const double expected[] = {0.6931472, 3.6931472, 12.693148, 27.693148};
    EXPECT_NEAR(logits[n], expected[n % 4], 1e-6);
  }
  const auto& sorted = step(softmax, "sorted_positions").at("values");
  EXPECT_EQ(sorted.dump(), "[[[0,4,1,5,2,6,3,7],[0,4,1,5,2,6,3,7]]]");
}

TEST_F(CliExplain, PagesAreWholeOrNotThere) {
  const std::string page = folder_ / "page.html";
  const Outcome written = run("explain " + input_ + " --rows 0:3 --html " + page);
  ASSERT_EQ(written.exit_code, 0) << written.err;
  const std::string text = contents(page);
  EXPECT_NE(text.find("<svg"), std::string::npos);
  EXPECT_EQ(text.find("<script"), std::string::npos);
  EXPECT_NE(text.find("</html>"), std::string::npos);
  // An older page survives: without --force, and where the call fails.
  EXPECT_EQ(run("explain --html " + page).exit_code, 2);
  EXPECT_EQ(run("explain " + input_ + " --rows 99:100 --force --html " + page).exit_code, 2);
  EXPECT_EQ(contents(page), text);
  EXPECT_EQ(run("explain --force --html " + page).exit_code, 0);
  EXPECT_NE(contents(page), text);
  EXPECT_EQ(run("explain --html " + (folder_ / "none/page.html")).exit_code, 1);
}

TEST_F(CliExplain, WhatAFileSaysOfItselfDoesNoHarm) {
  const Tensor vectors(DType::kFloat32, {4, 8});
  const std::string hostile = folder_ / "hostile.safetensors";
  const std::vector<io::NamedTensor> tensors = {
      {"query", vectors.view()}, {"key", vectors.view()}, {"value", vectors.view()}};
  io::write_safetensors(hostile, tensors,
                        {{"what", "<script>alert(1)</script>\x1B[31m & \"red\"\n\x07"}});
  const Outcome text = run("explain " + hostile);
  ASSERT_EQ(text.exit_code, 0) << text.err;
  EXPECT_EQ(text.out.find('\x1B'), std::string::npos);
  EXPECT_EQ(text.out.find('\x07'), std::string::npos);
  EXPECT_NE(text.out.find("alert(1)"), std::string::npos);
  const std::string page = folder_ / "page.html";
  ASSERT_EQ(run("explain " + hostile + " --html " + page).exit_code, 0);
  EXPECT_EQ(contents(page).find("<script"), std::string::npos);
  EXPECT_NE(contents(page).find("&lt;script&gt;"), std::string::npos);
  EXPECT_EQ(run("explain " + hostile + " --json").json().at("schema"), 1);
}

TEST_F(CliExplain, LargeInputsAreRefusedAtOnce) {
  FileShape shape;
  shape.query = shape.key = shape.value = {3000, 4, 32};
  const std::string large = folder_ / "large.safetensors";
  write_input(large, shape);
  for (const char* method : {"exact", "lsh"}) {
    const Outcome outcome = run("explain " + large + " --method " + method);
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.err.find("more than 40000 numbers"), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("--rows"), std::string::npos) << outcome.err;
    const std::string chosen = " --rows 100:102 --heads 0:1";
    EXPECT_EQ(run("explain " + large + " --chunks 0:1 --method " + method + chosen).exit_code, 0);
  }
}

}  // namespace
}  // namespace longspan::test
