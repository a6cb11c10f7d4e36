// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The signal thread.
#include "signals.h"

#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>

#include "io/atomic_file.h"

namespace longspan::cli {
namespace {

// Long enough for a call that polls once a key block, short enough to end within a second of the
// signal.
constexpr std::chrono::milliseconds kGrace{700};
constexpr timeval kTimeToReport{0, 200000};

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

bool is_ignored(int number) {
  struct sigaction action {};
  return sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

sigset_t waited_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  if (!is_ignored(SIGHUP)) sigaddset(&set, SIGHUP);  // nohup ignores it
  return set;
}

void on_signal(int number, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigaction(number, &action, nullptr);
}

// Without a thread: nothing can be said, but no temporary file stays.
void end_process(int number) {
  io::remove_temporaries();
  _exit(128 + number);
}

// Work that did not stop may hold the lock of stdout, and a reader that takes nothing blocks
// stderr, too: then the process ends unheard.
[[noreturn]] void report_and_end(bool json) {
  io::remove_temporaries();
  on_signal(SIGALRM, [](int) { _exit(signal_exit_code()); });
  const itimerval timer{{}, kTimeToReport};
  setitimer(ITIMER_REAL, &timer, nullptr);
  _exit(report(interruption(), json));
}

void wait_for_signals(const sigset_t& set, bool json) {
  int number = 0;
  if (sigwait(&set, &number) != 0) return;
  State& shared = state();
  std::unique_lock lock(shared.mutex);
  if (shared.finished) return;
  shared.received = number;
  shared.stop.request_stop();
  if (!shared.changed.wait_for(lock, kGrace, [&] { return shared.finished; })) {
    report_and_end(json);
  }
}

}  // namespace

SignalThread::SignalThread(bool json) {
  const sigset_t set = waited_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  on_signal(SIGPIPE, SIG_DFL);  // a reader that leaves ends the program quietly, also when a parent
                                // ignored the signal
  on_signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is a write that fails
  state();                      // constructed before the thread that uses it
  try {
    thread_ = std::thread([set, json] { wait_for_signals(set, json); });
  } catch (const std::system_error&) {
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
      if (sigismember(&set, number) == 1) on_signal(number, end_process);
    }
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  }
}

SignalThread::~SignalThread() {
  if (!thread_.joinable()) return;
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
  const int number = state().received;
  const char* name = number == SIGINT    ? "SIGINT"
                     : number == SIGTERM ? "SIGTERM"
                     : number == SIGHUP  ? "SIGHUP"
                                         : "request";
  return {signal_exit_code(), std::string("stopped by ") + name};
}

void stop_if_interrupted() {
  if (state().received != 0) throw interruption();
}

}  // namespace longspan::cli
