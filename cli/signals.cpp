// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The signal thread.
#include "signals.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "io/atomic_file.h"

namespace longspan::cli {
namespace {

// Long enough for a call that polls once a key block, short enough to end within a second of the
// signal.
constexpr std::chrono::milliseconds kGrace{700};

struct State {
  std::stop_source stop;
  std::atomic<int> received{0};
  std::mutex mutex;
  std::condition_variable changed;
  bool finished = false;  // under mutex: main is done
};

State& state() {
  static State the_state;
  return the_state;
}

sigset_t waited_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

void wait_for_signals() {
  const sigset_t set = waited_signals();
  int number = 0;
  if (sigwait(&set, &number) != 0) return;
  State& shared = state();
  std::unique_lock lock(shared.mutex);
  if (shared.finished) return;
  shared.received = number;
  shared.stop.request_stop();
  if (!shared.changed.wait_for(lock, kGrace, [&] { return shared.finished; })) {
    io::remove_temporaries();
    _exit(signal_exit_code());
  }
}

}  // namespace

SignalThread::SignalThread() {
  const sigset_t set = waited_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_DFL);  // a reader that leaves ends the program quietly, also when a parent
                             // ignored the signal
  state();                   // constructed before the thread that uses it
  thread_ = std::thread(wait_for_signals);
}

SignalThread::~SignalThread() {
  {
    const std::lock_guard lock(state().mutex);
    state().finished = true;
  }
  state().changed.notify_all();
  pthread_kill(thread_.native_handle(),
               SIGTERM);  // wakes sigwait; `finished` says that it means nothing
  thread_.join();
}

std::stop_token stop_token() { return state().stop.get_token(); }

int signal_exit_code() {
  const int number = state().received;
  return number == 0 ? kRunTimeFailure : 128 + number;
}

Failure interruption() {
  const char* name = state().received == SIGINT    ? "SIGINT"
                     : state().received == SIGTERM ? "SIGTERM"
                                                   : "request";
  return {signal_exit_code(), std::string("stopped by ") + name + "; no output was written"};
}

void stop_if_interrupted() {
  if (state().received != 0) throw interruption();
}

}  // namespace longspan::cli
