// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// How a command fails: exit codes, the exception that carries one, and the one place that prints
// it.
#pragma once

#include <stdexcept>
#include <string>

namespace longspan::cli {

inline constexpr int kSuccess = 0;
inline constexpr int kRunTimeFailure = 1;  // writing included; `compare` beyond tolerance
inline constexpr int kUsage = 2;
inline constexpr int kBadInput = 3;  // a missing or bad file, or tensors that do not fit together
inline constexpr int kNoMemory = 4;

class Failure : public std::runtime_error {
 public:
  Failure(int exit_code, const std::string& message, std::string hint = {})
      : std::runtime_error(message), exit_code_(exit_code), hint_(std::move(hint)) {}
  int exit_code() const noexcept { return exit_code_; }
  const std::string& hint() const noexcept { return hint_; }

 private:
  int exit_code_;
  std::string hint_;
};

// Prints a failure as one or two lines on stderr, with `json` also as a record on stdout, and
// returns its exit code. Of two threads that fail the first is heard.
int report(const Failure& failure, bool json);
// The same of the current exception. To be called inside a catch block.
int report_current_exception(bool json);

// A warning on stderr, in one line.
void warn(const std::string& message);

}  // namespace longspan::cli
