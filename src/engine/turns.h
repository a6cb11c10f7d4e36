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
#include <thread>
#include <vector>

#include "base/check.h"

namespace longspan::engine {

class Turns {
 public:
  explicit Turns(std::size_t places) : next_(places) {}

  // Returns when `turn` turns of this place are over. Throws when another task failed and they may
  // never be.
  void wait(std::int64_t place, std::int64_t turn) const {
    const auto& next = next_[static_cast<std::size_t>(place)];
    while (next.load(std::memory_order_acquire) != turn) {
      if (failed_.load(std::memory_order_relaxed)) {
        base::fail(ErrorCode::kCancelled, "attention: stopped because another task failed");
      }
      std::this_thread::yield();
    }
  }
  void finish(std::int64_t place, std::int64_t turn) {
    next_[static_cast<std::size_t>(place)].store(turn + 1, std::memory_order_release);
  }
  void fail() noexcept { failed_.store(true, std::memory_order_relaxed); }

 private:
  std::vector<std::atomic<std::int64_t>> next_;
  std::atomic<bool> failed_{false};
};

}  // namespace longspan::engine
