// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// SIGINT, SIGTERM and SIGHUP: a thread waits for them, asks the work to stop, and ends the process
// when the work has not stopped within a second (it may be inside a long read or write).
#pragma once

#include <stop_token>
#include <thread>

#include "failure.h"

namespace longspan::cli {

// Blocks the signals in this and every later thread: construct it first thing in main, once. Where
// no thread can be made, the signals end the process at once.
class SignalThread {
 public:
  explicit SignalThread(bool json);  // how to report that the process was ended
  ~SignalThread();
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

 private:
  std::thread thread_;
};

// Requested when a signal has come; for Execution::stop.
std::stop_token stop_token();

// 130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP, 1 when no signal has come.
int signal_exit_code();

// What a stopped command ends with.
Failure interruption();

// Throws interruption() when a signal has come; for loops that do not call the library.
void stop_if_interrupted();

}  // namespace longspan::cli
