// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// How the tasks of a backward call are cut and ordered. Ranges of keys ascending, and within a
// range all (batch, kv head): the order in which turns are taken (turns.h), and under a causal mask
// also the longest first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/backward_call.h"

namespace longspan::engine {

struct BackwardShape {
  std::int64_t batch = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_heads_kv = 0;
};

struct BackwardPlan {
  // (batch, kv head) pairs that one thread does one after the other, because they add to the same
  // bias gradient; else each is alone.
  struct Pair {
    std::int64_t batch = 0;
    std::int64_t head_kv = 0;
  };
  std::vector<std::vector<Pair>> bundles;
  std::int64_t ranges = 0;
  int threads = 1;
  std::size_t worker_bytes = 0;
  std::size_t shared_bytes = 0;  // delta, the copy of dquery where its type is narrower, bias sums

  std::int64_t tasks() const noexcept { return ranges * static_cast<std::int64_t>(bundles.size()); }
  std::size_t workspace_bytes() const noexcept {
    return worker_bytes * static_cast<std::size_t>(threads) + shared_bytes;
  }
};

// Sets rows_per_panel and panels_per_block of the call. Throws Error(kOutOfMemory) when no plan
// fits execution.memory_limit.
template <class T>
BackwardPlan plan_backward(BackwardCall<T>& call, const BackwardShape& shape, bool copies_dquery,
                           const Execution& execution);

}  // namespace longspan::engine
