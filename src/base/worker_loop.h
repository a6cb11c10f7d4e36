// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What one worker of parallel_for does, whichever back end started it.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>

namespace longspan::base {

class WorkerLoop {
 public:
  WorkerLoop(std::int64_t tasks, const std::function<void(std::int64_t, int)>& body)
      : tasks_(tasks), body_(body) {}

  void run(int worker) noexcept {
    try {
      for (;;) {
        const std::int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
        if (task >= tasks_) return;
        body_(task, worker);
      }
    } catch (...) {
      next_.store(tasks_, std::memory_order_relaxed);
      const std::lock_guard lock(mutex_);
      if (!first_error_) first_error_ = std::current_exception();
    }
  }

  void rethrow() const {
    if (first_error_) std::rethrow_exception(first_error_);
  }

 private:
  const std::int64_t tasks_;
  const std::function<void(std::int64_t, int)>& body_;
  std::atomic<std::int64_t> next_{0};
  std::mutex mutex_;
  std::exception_ptr first_error_;
};

// A child of fork() has none of its parent's pool threads: it must not wait for them.
inline bool in_forked_child() noexcept {
  static const pid_t first = getpid();
  return getpid() != first;
}

}  // namespace longspan::base
