// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The words of the backward pass. A task is a range of keys of one (batch, kv head): it meets all
// queries of the heads of its group that see a key of it, keeps the gradients of its keys and
// values to itself, and adds its part of the queries' gradients when its turn comes. The ranges are
// cut by seqlen_k alone, and every sum is taken in one order: ranges ascending for a query, heads
// and queries ascending for a key.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "engine/attention_call.h"
#include "engine/backward_tile.h"
#include "engine/bias_gradient.h"
#include "engine/rows.h"
#include "engine/segments.h"

namespace longspan::engine {

class Turns;

template <class T>
struct BackwardCall : AttentionCall<T> {
  KeySegments ranges;
  std::int64_t seqlen_q = 0;
  std::int64_t rows_per_panel = 1;
  std::int64_t panels_per_block = 1;  // queries are loaded in blocks of so many panels
  WantedGradients wanted;
  BiasGradient<T>* bias_gradient = nullptr;
  Turns* turns = nullptr;

  std::int64_t queries_per_block() const noexcept { return rows_per_panel * panels_per_block; }
  std::int64_t query_blocks() const noexcept {
    return base::ceil_div(seqlen_q, queries_per_block());
  }
  mask::Range query_block(std::int64_t n) const noexcept {
    return {n * queries_per_block(), std::min(seqlen_q, (n + 1) * queries_per_block())};
  }
  bool wants_bias_tiles() const noexcept {
    return bias_gradient != nullptr && bias_gradient->wants_tiles();
  }
  bool sums_bias_by_query() const noexcept {
    return bias_gradient != nullptr && bias_gradient->sums_queries();
  }
};

// A thousand keys: loading a panel of queries, in both arrangements, is a fiftieth of the work that
// they do then; fewer when there would be less than 4 ranges to share among threads.
inline KeySegments choose_key_ranges(std::int64_t seqlen_k, std::int64_t key_chunk) noexcept {
  constexpr std::int64_t kLeast = 256;
  constexpr std::int64_t kMost = 1024;
  constexpr std::int64_t kMultiple = 128;
  constexpr std::int64_t kWanted = 4;
  if (key_chunk > 0) return {seqlen_k, std::min(key_chunk, std::max<std::int64_t>(seqlen_k, 1))};
  const std::int64_t even = base::ceil_div(seqlen_k, kWanted);
  return {seqlen_k, std::clamp(base::round_up(even, kMultiple), kLeast, kMost)};
}

// The queries of one head. Row n of the sources and targets is query n.
template <class T>
struct BackwardHead {
  std::int64_t head = 0;
  RowSource query;
  RowSource doutput;
  RowSource lse;                // one number a row
  const T* delta = nullptr;     // [seqlen_q]
  RowTarget dquery_sum;         // elements of T
  RowTarget dquery;             // where sums are rounded to when they are complete; may be absent
  std::int64_t first_turn = 0;  // place in Turns of the head's first block of queries
};

template <class T>
struct BackwardTask {
  std::int64_t batch = 0;
  mask::Range keys;
  RowSource key;
  RowSource value;
  RowTarget dkey;  // absent targets have data == nullptr
  RowTarget dvalue;
  std::span<const BackwardHead<T>> heads;
};

}  // namespace longspan::engine
