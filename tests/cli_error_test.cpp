// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Exit codes and words of every class of error, and what is left at OUTPUT.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <thread>

#include "cli_testing.h"

namespace longspan::test {
namespace {

// A file of zeros with holes for data: large to compute, small to make.
void write_large_input(const std::string& path, std::int64_t seqlen) {
  constexpr std::int64_t kHeads = 4, kDim = 32;
  const std::int64_t query = seqlen * kHeads * kDim * 4, key = seqlen * kDim * 4;
  const auto entry = [&](const char* name, std::int64_t heads, std::int64_t begin,
                         std::int64_t end) {
    return nlohmann::json{
        {name,
         {{"dtype", "F32"}, {"shape", {seqlen, heads, kDim}}, {"data_offsets", {begin, end}}}}};
  };
  nlohmann::json header = entry("query", kHeads, 0, query);
  header.update(entry("key", 1, query, query + key));
  header.update(entry("value", 1, query + key, query + 2 * key));
  const std::string text = header.dump();
  const std::uint64_t length = text.size();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof length);
  file << text << std::flush;
  std::filesystem::resize_file(
      path, sizeof length + length + static_cast<std::uint64_t>(query + 2 * key));
}

class CliError : public testing::Test {
 protected:
  void SetUp() override { write_input(input_); }

  // IN and OUT stand for the input and for a new file.
  Outcome run_line(std::string line) {
    for (const auto& [word, path] : {std::pair{"IN", input_}, {"OUT", output_}}) {
      for (std::size_t at = 0; (at = line.find(word, at)) != std::string::npos; at += path.size()) {
        line.replace(at, std::strlen(word), path);
      }
    }
    return run(line);
  }

  // One line that begins with "longspan: " and holds `words`, at most a hint after it, and the same
  // as JSON.
  void expect(int exit_code, const std::string& line, const std::string& words) {
    SCOPED_TRACE(line);
    const Outcome outcome = run_line(line);
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
    EXPECT_EQ(outcome.err.find("longspan: "), 0u) << outcome.err;
    EXPECT_NE(outcome.err.find(words), std::string::npos) << outcome.err;
    const auto lines = std::count(outcome.err.begin(), outcome.err.end(), '\n');
    EXPECT_TRUE(lines == 1 || (lines == 2 && outcome.err.find("\nhint: ") != std::string::npos))
        << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_FALSE(std::filesystem::exists(output_));

    const nlohmann::json record = run_line(line + " --json").json();
    EXPECT_EQ(record.at("schema"), 1);
    EXPECT_EQ(record.at("error").at("code"), exit_code);
    EXPECT_NE(record.at("error").at("message").get<std::string>().find(words), std::string::npos)
        << record;
  }

  TemporaryFolder folder_;
  const std::string input_ = folder_ / "in.safetensors";
  const std::string output_ = folder_ / "out.safetensors";
};

TEST_F(CliError, Usage) {
  expect(2, "", "expected a command");
  expect(2, "atend IN -o OUT", "'atend'");
  expect(2, "attend IN -o OUT --cuasal", "unknown option --cuasal");
  expect(2, "explain IN --rows 3:2", "0 <= A < B");
  expect(2, "explain IN --backward", "unknown option --backward");
  expect(2, "explain --passthrough", "--method lsh");
  expect(2, "explain IN IN", "explain: INPUT: expected one");
  expect(2, "explain IN --rows 90:91", "rows must choose some of 0 to");
  expect(2, "explain IN --batch 2", "--batch: expected one of 0 to 1, found 2");
  expect(2, "explain IN --num-hashes 2", "explain: --num-hashes: expected --method lsh");
  expect(2, "attend IN -o OUT --scale", "--scale");
  EXPECT_EQ(run_line("attend IN -o OUT --scale")
                .err.find("longspan: attend: --scale: expected a value, found none\n"),
            0u);
  expect(2, "attend IN -o OUT --scale 1 --scale 2", "--scale: expected once, found 2 times");
  expect(2, "attend IN -o OUT --causal=banana", "--causal: expected no value, found 'banana'");
  expect(2, "attend -o OUT", "found 0 files");
  expect(2, "attend IN", "OUTPUT");
  expect(2, "attend IN IN -o OUT", "found 2 files");
  expect(2, "attend q.npy -o OUT", "1 of them .npy");
  expect(2, "attend q.npy k.npy v.npy --query-name q -o OUT", ".safetensors INPUT");
  for (const char* option :
       {"--scale nan",        "--scale inf",        "--scale 1,5",      "--softcap=-1",
        "--window 3",         "--window=-2,0",      "--window 1,2,3",   "--query-offset start",
        "--keys 5:2",         "--keys=-1:2",        "--keys 0:14",      "--threads 0",
        "--threads 1.5",      "--query-chunk 0",    "--key-chunk=-3",   "--layout hsbd",
        "--output-dtype f16", "--memory-limit 12x", "--memory-limit 0", "--method dense"}) {
    expect(2, std::string("attend IN -o OUT ") + option, "expected");
  }
  expect(2, "inspect", "FILE");
  expect(2, "compare IN", "two files");
  expect(2, "compare IN IN --rel-l2 1e-3 --atol 1", "both");
  expect(2, "merge -o OUT", "PART");
  expect(2, "merge IN", "OUTPUT");
  expect(2, "doctor extra", "extra");
  expect(2, "bench --seqlen 8:4", "--seqlen");
  expect(2, "bench --seqlen 1:100000", "at most 10000 integers");
  expect(2, "bench --heads 3 --heads-kv 2 --seqlen 8", "--heads-kv");
  expect(2, "bench --kernel none-such", "--kernel");
}

TEST_F(CliError, EveryWordIsUnderstoodOrRefused) {
  expect(2, "--bogus inspect IN", "'--bogus'");
  EXPECT_EQ(run_line("--json inspect IN").json().at("error").at("code"), 2);
  expect(2, "nonsense inspect IN", "'nonsense'");
  expect(2, "inspect IN doctor", "'doctor'");
  expect(2, "inspect IN help", "'help'");
  // Files may be called as commands and options are.
  std::filesystem::current_path(folder_.path());
  for (const char* name : {"merge", "help", "--json"}) {
    std::filesystem::copy_file(input_, name);
    EXPECT_EQ(run({"inspect", "--", name}).exit_code, 0) << name;
    EXPECT_NE(run({"inspect", "--", name}).out.find("dtype"), std::string::npos) << name;
  }
  EXPECT_NE(run("inspect merge").out.find("dtype"), std::string::npos);
  std::filesystem::current_path("/");
}

TEST_F(CliError, TheOffsetMustBeSaidWhenLengthsDiffer) {
  expect(2, "attend IN -o OUT --causal", "--query-offset");
  expect(2, "attend IN -o OUT --window 3,0", "--query-offset");
  Tensor slopes(DType::kFloat32, {4});
  slopes.fill(0.5);
  write_input(input_, {}, {{"alibi_slopes", slopes}});
  expect(2, "attend IN -o OUT", "alibi_slopes");
  EXPECT_EQ(run_line("attend IN -o OUT --quiet --causal --query-offset=-2").exit_code, 0);
}

TEST_F(CliError, BadInput) {
  expect(3, "attend missing.safetensors -o OUT", "missing.safetensors");
  expect(3, "attend a.npy b.npy c.npy -o OUT", "a.npy");
  expect(3, "inspect missing.safetensors", "missing.safetensors");
  expect(3, "compare IN missing.safetensors", "missing.safetensors");
  expect(3, "compare IN IN --tensor bias", "'bias'");
  expect(3, "compare IN IN --tensor query=key", "shapes");
  for (const char* name : {"a.npy", "b.npy"}) {
    Tensor tensor(DType::kFloat32, {name[0] == 'a' ? 1 : 2});
    io::write_npy(folder_ / name, tensor.fill(0));
  }
  expect(3, "compare " + (folder_ / "a.npy") + " " + (folder_ / "b.npy"), "compare: npy: shapes");
  expect(3, "merge IN -o OUT", "'output'");
  expect(3, "attend IN -o OUT --bias-name b", "'b'");
  io::put(input_, "this is no safetensors file");
  expect(3, "attend IN -o OUT", input_);

  const auto expect_shape = [&](const FileShape& shape, const std::string& words) {
    write_input(input_, shape);
    expect(3, "attend IN -o OUT", words);
  };
  FileShape shape;
  shape.key.back() = 7;
  expect_shape(shape, "head_dim");
  shape = {};
  shape.value[1] = 12;
  expect_shape(shape, "seqlen");
  shape = {};
  shape.query.back() = shape.key.back() = 0;
  expect_shape(shape, "at least 1");
  shape = {};
  shape.value.back() = 0;
  expect_shape(shape, "at least 1");
  shape = {};
  shape.key = {13, 2, 8};
  expect_shape(shape, "rank");
  shape.query = shape.key = shape.value = {4};
  expect_shape(shape, "rank");
  shape = {};
  shape.dtype = DType::kInt32;
  write_input(input_, shape);
  EXPECT_EQ(run_line("attend IN -o OUT").exit_code, 3);

  const std::vector<Tensor> tensors = normal_tensors();
  const io::NamedTensor lsh[] = {{"query_key", tensors[0]}, {"value", tensors[2]}};
  io::write_safetensors(input_, lsh);
  expect(3, "attend IN -o OUT", "'query'");

  shape = {};
  shape.query[0] = shape.key[0] = shape.value[0] = 0;
  write_input(input_, shape);
  expect(3, "explain IN --query-offset 0", "expected some batch entries");
  EXPECT_EQ(run_line("explain IN --query-offset 0").err.find("--rows"), std::string::npos);
}

TEST_F(CliError, Memory) {
  expect(4, "attend IN -o OUT --memory-limit 1", "memory");
  expect(4, "bench --seqlen 1000000000 --heads 64 --quiet", "memory");
  write_large_input(input_, std::int64_t{1} << 31);
  expect(4, "attend IN -o OUT", "attend: memory: predicted peak");
  expect(4, "explain IN --rows 0:1", "explain: memory: predicted peak");
  write_input(input_);
  const Outcome refused = run_line("attend IN -o OUT --memory-limit 1");
  const std::size_t at = refused.err.find("--memory-limit ");
  ASSERT_NE(at, std::string::npos) << refused.err;
  const std::string fitting = words_of(refused.err.substr(at)).at(1);
  EXPECT_EQ(run_line("attend IN -o OUT --quiet --memory-limit " + fitting).exit_code, 0);
}

TEST_F(CliError, AnOlderOutputSurvives) {
  io::put(output_, "older");
  EXPECT_EQ(run_line("attend IN -o OUT").exit_code, 2);
  EXPECT_EQ(contents(output_), "older");
  EXPECT_EQ(run_line("attend IN -o OUT --force --memory-limit 1").exit_code, 4);
  EXPECT_EQ(run_line("attend missing.safetensors -o OUT --force").exit_code, 3);
  EXPECT_EQ(run_line("merge IN -o OUT").exit_code, 2);
  EXPECT_EQ(run_line("merge IN -o OUT --force").exit_code, 3);
  EXPECT_EQ(contents(output_), "older");
  EXPECT_EQ(run_line("attend IN -o OUT --force --quiet").exit_code, 0);
  EXPECT_NE(contents(output_), "older");
  EXPECT_EQ(folder_.files(), 2u);
}

TEST_F(CliError, NpyHasNoBfloat16) {
  FileShape shape;
  shape.dtype = DType::kBFloat16;
  write_input(input_, shape);
  EXPECT_EQ(run({"attend", input_, "-o", folder_ / "out.npy"}).exit_code, 2);
  EXPECT_EQ(run({"attend", input_, "-o", folder_ / "out.npy", "--output-dtype", "f32"}).exit_code,
            0);
}

TEST_F(CliError, NamesCannotDriveATerminal) {
  const std::vector<Tensor> tensors = normal_tensors();
  const io::NamedTensor named[] = {{"a\x1b[31m\nb", tensors[0]}};
  io::write_safetensors(input_, named, {{"key\r", "\x07"}});
  for (const char* line : {"inspect IN", "attend IN -o OUT", "compare IN IN", "merge IN -o OUT"}) {
    const Outcome outcome = run_line(line);
    for (const char c : outcome.out + outcome.err)
      EXPECT_TRUE(c == '\n' || (c >= 0x20 && c != 0x7F)) << line;
  }
}

void stop_a_long_run(int number, const std::vector<std::string>& words) {
  Process process(words);
  // Until the run has started, but not for ever.
  for (int n = 0; n < 3000 && process.errors_so_far().find("predicted peak") == std::string::npos;
       ++n) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  process.signal(number);
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.exit_code, 128 + number) << outcome.err;
}

TEST_F(CliError, SignalsStopALongRunAndLeaveNothing) {
  write_large_input(input_, 65536);
  for (const int number : {SIGINT, SIGHUP}) {
    stop_a_long_run(number, {"attend", input_, "-o", output_});
    EXPECT_EQ(folder_.files(), 1u);
  }
  io::put(output_, "older");
  stop_a_long_run(SIGTERM, {"attend", input_, "-o", output_, "--force"});
  EXPECT_EQ(folder_.files(), 2u);
  EXPECT_EQ(contents(output_), "older");
}

}  // namespace
}  // namespace longspan::test
