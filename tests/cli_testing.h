// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Runs the built program as a process and says how it ended.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "io_testing.h"
#include "support/tensor.h"

namespace longspan::test {

using io::contents;
using io::TemporaryFolder;

struct Outcome {
  int exit_code = -1;  // 128 + n when signal n ended the process
  std::string out, err;
  nlohmann::json json() const { return nlohmann::json::parse(out); }
};

inline std::vector<std::string> words_of(const std::string& line) {
  std::istringstream stream(line);
  return {std::istream_iterator<std::string>(stream), {}};
}

// One process; its output goes to files of a folder of its own, so that no pipe can fill up.
class Process {
 public:
  explicit Process(const std::vector<std::string>& words, const std::string& stdout_path = {},
                   std::string program = LONGSPAN_CLI_PATH) {
    out_ = stdout_path.empty() ? folder_ / "out" : stdout_path;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, out_.c_str(), O_WRONLY | O_CREAT, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, (folder_ / "err").c_str(), O_WRONLY | O_CREAT,
                                     0600);
    std::vector<std::string> kept = words;
    std::vector<char*> arguments = {program.data()};
    for (std::string& word : kept) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const int failed =
        posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failed != 0) throw std::runtime_error("cannot start " + program);
  }
  ~Process() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void signal(int number) const { ::kill(pid_, number); }
  bool ended() const {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == pid_;
  }
  std::string errors_so_far() const { return contents(folder_ / "err"); }
  Outcome wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    Outcome outcome;
    outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    outcome.err = contents(folder_ / "err");
    if (out_ == folder_ / "out") outcome.out = contents(out_);
    return outcome;
  }

 private:
  TemporaryFolder folder_;
  std::string out_;
  pid_t pid_ = -1;
};

inline Outcome run(const std::vector<std::string>& words) { return Process(words).wait(); }
inline Outcome run(const std::string& line) { return run(words_of(line)); }

// Lines of sh, in which $0 is the program: for streams, limits and ignored signals.
inline std::vector<std::string> script(const std::string& lines) {
  return {"-c", lines, LONGSPAN_CLI_PATH};
}
inline Outcome run_script(const std::string& lines) {
  return Process(script(lines), {}, "/bin/sh").wait();
}

// Sanitizers keep shadow memory, which no limit or prediction counts.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
inline constexpr bool kSanitized =
    __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
inline constexpr bool kSanitized = false;
#endif

// A file of N(0, 1) tensors, query [batch, seqlen_q, heads, dim] and so on.
struct FileShape {
  std::vector<std::int64_t> query = {2, 9, 4, 8}, key = {2, 13, 2, 8}, value = {2, 13, 2, 5};
  DType dtype = DType::kFloat32;
};
inline std::vector<Tensor> normal_tensors(const FileShape& shape = {}) {
  Random random(1);
  std::vector<Tensor> tensors;
  for (const auto* each : {&shape.query, &shape.key, &shape.value}) {
    tensors.push_back(Tensor(shape.dtype, *each).fill_normal(random));
  }
  return tensors;
}
inline void write_input(const std::string& path, const FileShape& shape = {},
                        const std::vector<io::NamedTensor>& more = {}) {
  const std::vector<Tensor> tensors = normal_tensors(shape);
  std::vector<io::NamedTensor> named = {
      {"query", tensors[0]}, {"key", tensors[1]}, {"value", tensors[2]}};
  named.insert(named.end(), more.begin(), more.end());
  io::write_safetensors(path, named);
}

}  // namespace longspan::test
