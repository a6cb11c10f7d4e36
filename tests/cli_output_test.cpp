// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// OUTPUT that cannot be written, or that is standard output; standard output that cannot be
// written.
#include <gtest/gtest.h>

#include "cli_testing.h"

namespace longspan::test {
namespace {

class CliOutput : public testing::Test {
 protected:
  void SetUp() override { write_input(input_); }

  TemporaryFolder folder_;
  const std::string input_ = folder_ / "in.safetensors";
  const std::string output_ = folder_ / "out.safetensors";
};

TEST_F(CliOutput, OutputThatCannotBeWrittenIsFoundFirst) {
  const std::string missing = folder_ / "none/out.safetensors";
  // The input does not exist either: the folder was looked at before.
  EXPECT_EQ(run({"attend", "missing.safetensors", "-o", missing}).exit_code, 1);
  EXPECT_EQ(run({"merge", "missing.safetensors", "-o", missing}).exit_code, 1);
  EXPECT_EQ(run({"attend", input_, "-o", folder_.path(), "--force"}).exit_code, 1);
  EXPECT_EQ(folder_.files(), 1u);
}

TEST_F(CliOutput, FullStandardOutputIsAFailure) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const Outcome outcome = Process({"inspect", input_}, "/dev/full").wait();
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.err.find("standard output"), std::string::npos);
}

TEST_F(CliOutput, AFullDeviceIsAFailureOfEveryCommand) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  ASSERT_EQ(run({"attend", input_, "-o", output_, "--quiet"}).exit_code, 0);
  const std::string commands[] = {"attend " + input_ + " --quiet -o", "merge " + output_ + " -o",
                                  "explain --html"};
  for (const std::string& command : commands) {
    const Outcome outcome = run(command + " /dev/full");
    EXPECT_EQ(outcome.exit_code, 1) << command;
    EXPECT_NE(outcome.err.find("longspan: /dev/full: cannot write"), std::string::npos)
        << outcome.err;
  }
}

TEST_F(CliOutput, AFolderIsNoFile) {
  for (const char* force : {"", "--force"}) {
    const Outcome outcome = run("attend " + input_ + " -o " + folder_.path() + " " + force);
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_NE(outcome.err.find("found a directory"), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("--force"), std::string::npos) << outcome.err;
  }
}

// What is said of OUTPUT may fail when OUTPUT is there already.
TEST_F(CliOutput, AFailureToSaySoSaysThatOutputIsThere) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const Outcome attended =
      Process({"attend", input_, "-o", output_, "--quiet"}, "/dev/full").wait();
  EXPECT_EQ(attended.exit_code, 1);
  EXPECT_NE(attended.err.find(output_ + " was written"), std::string::npos) << attended.err;
  ASSERT_TRUE(std::filesystem::exists(output_));
  const std::string merged = folder_ / "merged.safetensors";
  const Outcome outcome = Process({"merge", output_, "-o", merged}, "/dev/full").wait();
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.err.find(merged + " was written"), std::string::npos) << outcome.err;
  EXPECT_TRUE(std::filesystem::exists(merged));
}

TEST_F(CliOutput, StandardOutputGetsOutputAlone) {
  ASSERT_EQ(run({"attend", input_, "-o", output_, "--quiet"}).exit_code, 0);
  const std::string piped = folder_ / "piped";
  const std::string attend = "\"$0\" attend " + input_ + " --quiet -o /dev/stdout";
  const Outcome attended = run_script(attend + " | cat > " + piped);
  EXPECT_EQ(contents(piped), contents(output_));
  EXPECT_EQ(attended.err.find("attend: exact"), 0u) << attended.err;
  run_script("\"$0\" merge " + output_ + " -o /dev/stdout | cat > " + piped);
  EXPECT_EQ(run("inspect " + piped).exit_code, 0);
  run_script("\"$0\" explain --html /dev/stdout | cat > " + piped);
  EXPECT_TRUE(contents(piped).ends_with("</html>\n"));
  // Two things cannot go to one place.
  const Outcome both = run_script(attend + " --json | cat");
  EXPECT_EQ(both.json().at("error").at("code"), 2);
  EXPECT_EQ(
      run_script("\"$0\" explain --json --html /dev/stdout | cat").json().at("error").at("code"),
      2);
}

}  // namespace
}  // namespace longspan::test
