// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What a kernel offers to the engine: one table of functions per (instruction set, element type). A
// new instruction set fills in a table and adds a line to registry.cpp.
//
// Lanes are queries. A panel holds `width` queries (a multiple of the table's lanes, at most lanes
// * kMaxVectors): transposed, dimension by dimension, so that every row statistic is a vertical
// vector operation.
#pragma once

#include <cstdint>

namespace longspan::kernel {

inline constexpr int kMaxVectors = 3;
inline constexpr int kMaxWidth = 64;  // lanes of a panel: the bits of a visibility word

// Running summary of a panel over the keys seen so far, unnormalised
// (src/partial/merge_rule-inl.h), logarithms to base 2. The identity is reference -inf, sum 0,
// numerator 0.
template <class T>
struct PanelState {
  T* reference = nullptr;  // [width]
  T* sum = nullptr;        // [width]
  T* numerator = nullptr;  // [head_dim_v][width]
};

// What happens to a score between the dot product and the mask, when it is more than a scale.
template <class T>
struct ScoreTerms {
  T softcap = 0;                       // 0: off
  const T* bias = nullptr;             // [keys][width], natural units; null: none
  T alibi_slope = 0;                   // used when query_positions is given
  const T* query_positions = nullptr;  // [width], relative to any common origin
  const T* key_positions = nullptr;    // [keys]
};

// One panel of queries meets one block of keys.
template <class T>
struct ForwardBlock {
  const T* query = nullptr;  // [head_dim][width]
  const T* key = nullptr;    // keys rows of head_dim, key_stride apart
  std::int64_t key_stride = 0;
  const T* value = nullptr;  // keys rows of head_dim_v, value_stride apart
  std::int64_t value_stride = 0;
  std::int64_t keys = 0;
  std::int64_t head_dim = 0;
  std::int64_t head_dim_v = 0;
  T scale = 1;  // of the dot products; read only with terms
  T exponent_scale =
      1;  // from dot products (with terms: from finished scores) to logarithms of base 2
  // [keys], bit l: lane l may see the key; bits past the width are not read; null: all may.
  const std::uint64_t* visible = nullptr;
  const ScoreTerms<T>* terms = nullptr;  // null: score = scale * dot
  // The reference is the exact maximum of the visible scores at every moment, as in the paper's
  // chunk summary (normally it moves only when the sum leaves its safe range).
  bool exact_reference = false;
  // Values of hidden keys are not multiplied, not even by 0 (0 * NaN is NaN): set to redo a block
  // whose result was not finite. Lanes that see only finite values get the same bits either way.
  bool skip_hidden_values = false;
  bool fresh = false;          // nothing is in the state yet: find a reference first
  T* scores = nullptr;         // scratch [keys][width]
  T* probabilities = nullptr;  // scratch [keys][width]
  PanelState<T> state;
};

template <class T>
struct BackwardBlock;  // backward_block.h

template <class T>
struct KernelTable {
  int lanes = 0;
  int vectors = 0;             // widest panel, in vectors
  std::int64_t key_block = 0;  // keys per block that the engine should use
  // forward_block[v - 1] for panels of v vectors. Returns true when it took the slow path.
  bool (*forward_block[kMaxVectors])(const ForwardBlock<T>& block) = {};
  // Likewise; false when no pair of the tile is visible, and then nothing was written.
  bool (*backward_block[kMaxVectors])(const BackwardBlock<T>& block) = {};
  int row_group = 1;  // rows that the kernels handle together: packed rows are padded to a multiple
  // out[c][r] = in[r][c] for r < rows, c < columns.
  void (*transpose)(const T* in, std::int64_t in_stride, std::int64_t rows, std::int64_t columns,
                    T* out, std::int64_t out_stride) = nullptr;
  // into <- into merged with part, for a panel of `width` lanes.
  void (*merge_state)(const PanelState<T>& into, const PanelState<T>& part, std::int64_t width,
                      std::int64_t head_dim_v) = nullptr;
  bool (*all_finite)(const T* values,
                     std::int64_t count) = nullptr;  // count is a multiple of lanes
};

}  // namespace longspan::kernel
