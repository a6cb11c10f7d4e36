// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Attention among gathered rows: the words of tasks that name queries and keys by index lists. A
// group of queries meets runs of keys, several times a call: what it knows is kept row by row,
// unnormalised, and each phase of the call merges one more part into it.
#pragma once

#include <cstdint>
#include <span>

#include "base/round.h"
#include "engine/attention_call.h"
#include "engine/own_pair.h"
#include "engine/rows.h"

namespace longspan::engine {

// A whole number for each key in each column: its chunk, or its bucket, in each round.
struct KeyNumbers {
  const std::int32_t* data = nullptr;  // [key][stride]
  std::int64_t stride = 0;
  std::int64_t columns = 0;  // of them that tests name
};

// Hides the pairs whose key has its number in the query's interval (kernels/interval_tests.h).
// Arrays by query of the group; they can be read to a multiple of kernel::kIntervalLanes past it.
struct PairTest {
  static constexpr std::int64_t kKeyIndex = -1;  // as column: the index of the key itself
  std::int64_t column = 0;
  const std::int32_t* first = nullptr;
  const std::int32_t* count = nullptr;
};

// Keys that are loaded together. Runs of one tag within a list of groups are the same.
struct KeyRun {
  std::int64_t tag = 0;
  std::span<const std::int32_t> keys;       // indices; ascending ones pass masks faster
  std::span<const PairTest> further_tests;  // beside those of the group
};

// Groups of one (batch, head) that one thread does one after the other.
template <class T>
struct GatheredHead {
  std::int64_t batch = 0;
  std::int64_t head = 0;
  RowSource query;  // these have dim_stride 1
  RowSource key;
  RowSource value;
  const T* key_factors = nullptr;  // [seqlen_k], of the rows of keys; null: 1
  // A factor f is 1 / (a length of its row), so that df/drow = -f^3 row; from here on constant.
  double constant_factor = 0;
  const mask::BoundMask* mask = nullptr;
  KeyNumbers numbers;
  bool hides_own_index = false;  // the pair of a query with the key of its index is an OwnPair
};

// What is known of the rows: (reference, sum, numerator) as kernel::PanelState has them.
template <class T>
struct RunningRows {
  T* reference = nullptr;  // [seqlen_q]
  T* sum = nullptr;
  RowTarget numerator;  // elements of T; may be the output
  RowTarget output;     // where results go at the end
  RowTarget lse;
};

// The forward pass of such a head.
template <class T>
struct GatheredForward : GatheredHead<T> {
  const T* bounds = nullptr;  // [seqlen_q]: no scale * query . key of the row is larger
  RunningRows<T> rows;
  OwnPair<T> own;
  std::int64_t phase = 0;  // of the call; in the first nothing is known yet: rows are not read
};

// The backward pass of such a head. Gradients are added to rows of T.
template <class T>
struct GatheredBackward : GatheredHead<T> {
  RowSource doutput;
  RowSource lse;             // of all phases, one number a row
  const T* delta = nullptr;  // [seqlen_q]
  RowTarget dquery;
  RowTarget dkey;  // absent where keys are normalised queries: then added to dquery, too
  RowTarget dvalue;
};

struct GatheredGroup {
  std::span<const std::int32_t> queries;
  std::span<const PairTest> tests;
  std::span<const KeyRun> runs;
  std::span<const std::int32_t> next_keys = {};  // that the next group will be the first to meet
};

template <class T>
struct GatheredCall : AttentionCall<T> {
  std::int64_t group_queries = 1;   // at most
  std::int64_t rows_per_panel = 1;  // of queries
  std::int64_t run_keys = 1;        // at most
  std::int64_t runs_kept = 1;       // loaded runs of keys
  std::int64_t columns = 0;         // of key numbers, at most

  std::int64_t panels() const noexcept { return base::ceil_div(group_queries, rows_per_panel); }
  std::int64_t width() const noexcept {
    return base::round_up(rows_per_panel, std::int64_t{this->kernel->lanes});
  }
};

}  // namespace longspan::engine
