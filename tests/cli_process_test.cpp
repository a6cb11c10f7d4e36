// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What is around a process: streams that cannot be written, limits of threads and files, signals.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <chrono>
#include <thread>

#include "cli_testing.h"

namespace longspan::test {
namespace {

class CliProcess : public testing::Test {
 protected:
  void SetUp() override { write_input(input_); }
  std::string attend() const { return "\"$0\" attend " + input_ + " -o " + output_ + " "; }

  TemporaryFolder folder_;
  const std::string input_ = folder_ / "in.safetensors";
  const std::string output_ = folder_ / "out.safetensors";
};

TEST_F(CliProcess, StandardErrorThatCannotBeWrittenChangesNoResult) {
  for (const std::string redirection : {"2>/dev/full", "2>&-"}) {
    SCOPED_TRACE(redirection);
    const Outcome attended = run_script(attend() + "--force --json " + redirection);
    EXPECT_EQ(attended.exit_code, 0);
    EXPECT_EQ(attended.json().at("command"), "attend");
    EXPECT_EQ(run("inspect " + output_).exit_code, 0) << "no message went into the file";
    const Outcome missing = run_script("\"$0\" inspect missing --json " + redirection);
    EXPECT_EQ(missing.exit_code, 3);
    EXPECT_EQ(missing.json().at("error").at("code"), 3);
    EXPECT_EQ(run_script("\"$0\" inspect missing " + redirection).exit_code, 3);
    EXPECT_EQ(
        run_script("\"$0\" bench --seqlen 8 --heads 1 --repeat 1 -o json " + redirection).exit_code,
        0);
  }
}

TEST_F(CliProcess, AnUnusedTensorIsNoReasonToEnd) {
  Tensor more(DType::kFloat32, {4});
  write_input(input_, {}, {{"more", more.fill(1).view()}});
  EXPECT_EQ(run_script(attend() + "--quiet 2>/dev/full").exit_code, 0);
}

// A stack larger than the memory that is allowed: no thread can be made, by root either.
TEST_F(CliProcess, WithoutThreadsTheWorkIsDone) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer needs the memory";
  const std::string limits = "ulimit -s 4000000 && ulimit -v 3000000 || exit 77; ";
  const Outcome inspected = run_script(limits + "\"$0\" inspect " + input_);
  if (inspected.exit_code == 77) GTEST_SKIP() << "limits cannot be set";
  EXPECT_EQ(inspected.exit_code, 0) << inspected.err;
  const Outcome attended = run_script(limits + attend() + "--threads 1");
  EXPECT_EQ(attended.exit_code, 0) << attended.err;
  EXPECT_TRUE(std::filesystem::exists(output_));
}

TEST_F(CliProcess, AFileThatMayNotGrowIsAFailure) {
  FileShape shape;
  shape.query = shape.key = shape.value = {1, 64, 4, 32};
  write_input(input_, shape);
  const Outcome outcome = run_script("ulimit -f 1; " + attend());
  EXPECT_EQ(outcome.exit_code, 1) << outcome.err;
  EXPECT_NE(outcome.err.find("cannot write"), std::string::npos) << outcome.err;
  EXPECT_EQ(folder_.files(), 1u) << "no temporary file stays";
}

// OUTPUT is a pipe that takes 64 KiB and then no more until it is read.
class CliStuckWriting : public CliProcess {
 protected:
  void SetUp() override {
    FileShape shape;
    shape.query = shape.key = shape.value = {1, 256, 8, 64};
    write_input(input_, shape);
    ASSERT_EQ(::mkfifo(output_.c_str(), 0600), 0);
    reader_ = ::open(output_.c_str(), O_RDONLY | O_NONBLOCK);
    ASSERT_GE(reader_, 0);
  }
  void TearDown() override { ::close(reader_); }

  // Until the pipe holds something.
  void wait_for_output() const {
    int bytes = 0;
    for (int n = 0; n < 3000 && bytes == 0; ++n) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      ASSERT_EQ(::ioctl(reader_, FIONREAD, &bytes), 0);
    }
    ASSERT_GT(bytes, 0);
  }
  void read_all() const {
    std::string bytes(1 << 16, 0);
    while (::read(reader_, bytes.data(), bytes.size()) > 0) continue;
  }

  int reader_ = -1;
};

TEST_F(CliStuckWriting, ASignalIsReported) {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    Process process({"attend", input_, "-o", output_, "--quiet", "--json"});
    wait_for_output();
    process.signal(number);
    const Outcome outcome = process.wait();
    EXPECT_EQ(outcome.exit_code, 128 + number);
    EXPECT_NE(outcome.err.find("longspan: stopped by SIG"), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.json().at("error").at("code"), 128 + number);
    read_all();
  }
}

TEST_F(CliStuckWriting, AHangupThatIsIgnoredStopsNothing) {
  Process process(script("trap '' HUP; exec " + attend() + "--quiet"), {}, "/bin/sh");
  wait_for_output();
  process.signal(SIGHUP);
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  for (int n = 0; n < 3000 && !process.ended(); ++n) {
    read_all();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(process.wait().exit_code, 0);
}

}  // namespace
}  // namespace longspan::test
