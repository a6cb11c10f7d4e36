// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Ordered reduction: tasks that add to one place take turns, so that sums do not depend on who was
// faster. Turns are in the order of the tasks, and tasks are started in their order, so whoever
// waits, waits for a task that runs.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace longspan::engine {

class Turns {
 public:
  explicit Turns(std::size_t places) : next_(places) {}

  // Returns when `turn` turns of this place are over. Where a task failed they may never be: throws
  // what that one threw, so that it is this that the call throws, whoever is first.
  void wait(std::int64_t place, std::int64_t turn) const {
    const auto& next = next_[static_cast<std::size_t>(place)];
    while (next.load(std::memory_order_acquire) != turn) {
      if (failed_.load(std::memory_order_acquire)) std::rethrow_exception(error_);
      std::this_thread::yield();
    }
  }
  void finish(std::int64_t place, std::int64_t turn) {
    next_[static_cast<std::size_t>(place)].store(turn + 1, std::memory_order_release);
  }
  void fail(std::exception_ptr error) noexcept {
    const std::lock_guard lock(mutex_);
    if (failed_.load(std::memory_order_relaxed)) return;
    error_ = std::move(error);
    failed_.store(true, std::memory_order_release);
  }

 private:
  std::vector<std::atomic<std::int64_t>> next_;
  std::mutex mutex_;
  std::exception_ptr error_;  // written once, before failed_
  std::atomic<bool> failed_{false};
};

}  // namespace longspan::engine
