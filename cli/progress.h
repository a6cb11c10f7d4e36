// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Progress on stderr while a call runs: a bar on a terminal after the first second, else a line
// every ten seconds.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "longspan/execution.h"

namespace longspan::cli {

class ProgressReporter {
 public:
  ProgressReporter(std::string what, bool quiet);
  ~ProgressReporter();  // stops and wipes the bar
  ProgressReporter(const ProgressReporter&) = delete;
  ProgressReporter& operator=(const ProgressReporter&) = delete;

  // For Execution::progress.
  Progress* counter() { return &counter_; }

 private:
  void run();

  std::string what_;
  Progress counter_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool finished_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace longspan::cli
