// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Few rows (all queries of the heads that share keys) meet one block of keys, each of which is read
// from memory once. Lanes are components where rows meet keys and values, and keys where scores
// become probabilities: everything about pairs stands row by row.
#pragma once

#include <cstdint>

#include "base/rows.h"
#include "kernels/kernel_table.h"

namespace longspan::kernel {

inline constexpr std::int64_t kDecodeRows = 16;  // most rows of a block
inline constexpr std::int64_t kDecodeKeys = 64;  // most keys: the bits of a visibility word

// Memory that is read next, fetched line by line between the multiplications: pieces of `bytes`, of
// which the first begins at `data` and ends at `end`.
struct FetchAhead {
  const char* data = nullptr;
  const char* end = nullptr;
  std::int64_t stride = 0;  // from piece to piece, in bytes
  std::int64_t bytes = 0;
  std::int64_t lines = 0;  // to fetch; no more are fetched than the block itself reads
};

template <class T>
struct DecodeBlock {
  const T* query = nullptr;  // [rows][stride], zeros past head_dim
  base::RowSource key;       // rows of any one type, dim_stride 1
  base::RowSource value;
  std::int64_t first_key = 0;
  std::int64_t keys = 0;  // at most kDecodeKeys
  std::int64_t rows = 0;  // at most kDecodeRows
  std::int64_t head_dim = 0;
  std::int64_t head_dim_v = 0;
  std::int64_t stride = 0;  // multiples of the table's lanes
  std::int64_t stride_v = 0;
  T scale = 1;  // as in ForwardBlock
  T exponent_scale = 1;
  const std::uint64_t* visible = nullptr;  // [rows], bit k: the row may see key k; null: all
  // [rows], with queries and keys in each other's place: the lanes are keys, the one key is the
  // row. Null: score = scale * dot.
  const ScoreTerms<T>* terms = nullptr;
  bool skip_hidden_values = false;  // as in ForwardBlock
  // The running summary, as PanelState but for the order of the numerator: [rows][stride_v].
  T* reference = nullptr;
  T* sum = nullptr;
  T* numerator = nullptr;
  FetchAhead key_ahead;
  FetchAhead value_ahead;
};

}  // namespace longspan::kernel
