// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Keeps a call's workspace below Execution::memory_limit.
#pragma once

#include <cstddef>
#include <string>

#include "base/check.h"

namespace longspan::base {

// While bytes() are more than the limit (0: none), give_up() makes them less by a step; false: it
// has nothing left to give up, and no plan fits.
template <class Bytes, class GiveUp>
void fit_memory(const char* function, std::size_t limit, const Bytes& bytes,
                const GiveUp& give_up) {
  while (limit > 0 && bytes() > limit) {
    if (give_up()) continue;
    fail(ErrorCode::kOutOfMemory,
         std::string(function) + ": no plan fits memory_limit; the least workspace is " +
             std::to_string(bytes()) + " bytes, the limit " + std::to_string(limit));
  }
}

// As a step: each thread has memory of its own.
inline bool give_up_thread(int& threads) noexcept {
  if (threads <= 1) return false;
  --threads;
  return true;
}

}  // namespace longspan::base
