// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Which panels of queries are handled together, by how many threads, in which order. Planning
// decides who computes what, never what is computed: no choice here changes a bit of the result.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/forward_call.h"

namespace longspan::engine {

struct ForwardShape {
  std::int64_t batch = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_heads_kv = 0;
  std::int64_t seqlen_q = 0;
  std::int64_t panels_together = 1;      // a task holds a multiple of so many ...
  std::int64_t most_panels = INT64_MAX;  // ... and no more than these
};

// Panels first .. last of one (batch, kv head). Panel u holds queries of head u % group and of the
// query range u / group, so that the heads of a group share the keys that they read.
struct PlannedTask {
  std::int64_t batch = 0;
  std::int64_t head_kv = 0;
  std::int64_t first = 0;
  std::int64_t last = 0;
  std::int64_t tiles = 0;
};

struct ForwardPlan {
  std::int64_t rows_per_panel = 1;
  std::int64_t panels_per_task = 1;
  bool shares_segments = false;  // the segments of one task are computed by different threads
  int threads = 1;
  std::vector<PlannedTask> tasks;  // longest first
  std::int64_t tiles_visited = 0;
  std::int64_t tiles_skipped = 0;
  double pairs = 0;  // query-key pairs of the visited tiles
  std::size_t worker_bytes = 0;
  std::size_t shared_bytes = 0;  // summaries of shared segments
  std::size_t workspace_bytes() const noexcept {
    return worker_bytes * static_cast<std::size_t>(threads) + shared_bytes;
  }

  mask::Range queries_of(std::int64_t unit, std::int64_t group, std::int64_t seqlen_q) const {
    const std::int64_t first = unit / group * rows_per_panel;
    return {first, std::min(seqlen_q, first + rows_per_panel)};
  }
};

// Throws Error(kOutOfMemory) when no plan fits execution.memory_limit.
template <class T>
ForwardPlan plan_forward(const ForwardCall<T>& call, const ForwardShape& shape,
                         const Execution& execution);

}  // namespace longspan::engine
