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

#include "base/rows.h"
#include "kernels/dropout.h"
#include "kernels/interval_tests.h"
#include "kernels/rows_ahead.h"

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

// What happens to a score between the dot product and the mask, when it is more than a scale. Tiles
// read whole rows(keys) of the format: what stands past the keys is hidden afterwards.
template <class T>
struct ScoreTerms {
  T softcap = 0;                       // 0: off
  T softcap_inverse = 0;               // 1 / softcap
  const T* bias = nullptr;             // [keys][width], natural units; null: none
  T alibi_slope = 0;                   // used when query_positions is given
  const T* query_positions = nullptr;  // [width], relative to any common origin
  const T* key_positions = nullptr;    // [keys]
};

// How numbers lie in the operands of a kernel's products. What is padded holds 0.
struct OperandFormat {
  DType dtype = DType::kFloat32;  // of the numbers
  // Sums, over head_dim or over keys, have a multiple of so many terms; so many rows (keys,
  // components of values) stand together.
  std::int64_t depth_multiple = 1;
  std::int64_t row_multiple = 1;
  bool reads_rows = false;  // rows of this dtype and dim_stride 1 may stay where they are

  std::int64_t value_bytes() const noexcept { return static_cast<std::int64_t>(size_of(dtype)); }
  std::int64_t depth(std::int64_t n) const noexcept {
    return (n + depth_multiple - 1) / depth_multiple * depth_multiple;
  }
  std::int64_t rows(std::int64_t n) const noexcept {
    return (n + row_multiple - 1) / row_multiple * row_multiple;
  }
  // Bytes of a panel (queries: head_dim deep, probabilities: as deep as there are keys) and of the
  // rows that meet it.
  std::int64_t panel_bytes(std::int64_t deep, std::int64_t width) const noexcept {
    return depth(deep) * width * value_bytes();
  }
  std::int64_t rows_bytes(std::int64_t count, std::int64_t deep) const noexcept {
    return rows(count) * depth(deep) * value_bytes();
  }
};

// Keys or values as a kernel reads them; only the kernel that packed them knows what the strides
// count.
struct OperandRows {
  const void* data = nullptr;
  std::int64_t stride = 0;  // from key to key; values may have it from component to component
  std::int64_t group = 0;   // values: from row_multiple components to the next
};

// One panel of queries meets one block of keys.
template <class T>
struct ForwardBlock {
  const void* query = nullptr;  // packed panel
  OperandRows key;
  OperandRows value;
  std::int64_t first_key = 0;  // of `key` and `value`; a multiple of the format's depth_multiple
  std::int64_t keys = 0;
  std::int64_t head_dim = 0;
  std::int64_t head_dim_v = 0;
  T scale = 1;  // of the dot products; read only with terms
  T exponent_scale =
      1;  // from dot products (with terms: from finished scores) to logarithms of base 2
  // [keys], bit l: lane l may see the key; bits past the width are not read; null: all may.
  const std::uint64_t* visible = nullptr;
  // [keys], bit l: dropout keeps the pair (KernelTable::fill_kept); null: no dropout. A dropped
  // pair counts in the sum, and its value is multiplied by 0. The numerator is not scaled for it.
  const std::uint64_t* kept = nullptr;
  const ScoreTerms<T>* terms = nullptr;  // null: score = scale * dot
  // The reference is the exact maximum of the visible scores at every moment, as in the paper's
  // chunk summary (normally it moves only when the sum leaves its safe range).
  bool exact_reference = false;
  // Values of hidden keys are not multiplied, not even by 0 (0 * NaN is NaN): set to redo a block
  // whose result was not finite. Lanes that see only finite values get the same bits either way.
  bool skip_hidden_values = false;
  bool fresh = false;  // nothing is in the state yet: find a reference first
  // The state began with references that no score passes (where one is not finite: -inf), so none
  // is looked for. A lane whose first probabilities are all next to nothing finds its own.
  bool bounded = false;
  T* scores = nullptr;            // scratch [format.rows(keys)][width]
  void* probabilities = nullptr;  // scratch, a panel as deep as there are keys
  PanelState<T> state;
  RowsAhead ahead[kRowsAhead];  // what will be read soon: bias and mask, gathered rows
};

template <class T>
struct BackwardBlock;  // backward_block.h
template <class T>
struct DecodeBlock;  // decode_block.h
template <class T>
struct HashPanel;  // hash_panel.h

// Sources and targets of rows may have an index where not said otherwise.
template <class T>
struct KernelTable {
  int lanes = 0;
  int vectors = 0;             // widest panel, in vectors
  std::int64_t key_block = 0;  // keys per block that the engine should use
  OperandFormat format;
  // Rows first .. first + count of the source, as the lanes of a panel [dim][width], 0 in the lanes
  // past count.
  void (*pack_query)(const base::RowSource& source, std::int64_t first, std::int64_t count,
                     std::int64_t dim, std::int64_t width, void* panel) = nullptr;
  // The same rows as keys or as values: rows_bytes(count, dim), rows_bytes(dim, count).
  OperandRows (*pack_keys)(const base::RowSource& source, std::int64_t first, std::int64_t count,
                           std::int64_t dim, void* rows) = nullptr;
  OperandRows (*pack_values)(const base::RowSource& source, std::int64_t first, std::int64_t count,
                             std::int64_t dim, void* rows) = nullptr;
  // tile[key][lane] from the rows first .. first + count (queries) of a bias over `keys` keys, 0 in
  // the lanes past count. A bias of -inf excludes: its bit in words is cleared and 0 is stored.
  // Returns true when there was one.
  bool (*load_bias)(const base::RowSource& source, std::int64_t first, std::int64_t count,
                    std::int64_t keys, std::int64_t width, T* tile, std::uint64_t* words) = nullptr;
  // Row first + lane of the target = panel[dim][lane] * factors[lane], rounded once, lane < count.
  void (*write_rows)(const base::RowTarget& target, std::int64_t first, std::int64_t count,
                     std::int64_t dim, std::int64_t width, const T* panel,
                     const T* factors) = nullptr;
  // The same rows as numbers of the format, padded with zeros to `rows` rows of `stride`.
  void (*pack_padded)(const base::RowSource& source, std::int64_t first, std::int64_t count,
                      std::int64_t dim, std::int64_t rows, std::int64_t stride,
                      void* out) = nullptr;
  // Padded rows as the right side of a product that sums over them, [depth(count)][stride]; null
  // when they are that as they are (reads_rows).
  void (*pack_right_rows)(const base::RowSource& source, std::int64_t first, std::int64_t count,
                          std::int64_t dim, std::int64_t stride, void* rows) = nullptr;
  // Row first + lane of the target, of elements of T, gets panel[dim][lane] * factors[lane], added
  // to keep[lane] times what is there; keep == nullptr: in its place, whatever it is.
  void (*add_panel)(const base::RowTarget& target, std::int64_t first, std::int64_t count,
                    std::int64_t dim, std::int64_t width, const T* panel, const T* factors,
                    const T* keep) = nullptr;
  // Row first + n of the target = rows[n][dim] * factor, rounded once.
  void (*store_rows)(const base::RowTarget& target, std::int64_t first, std::int64_t count,
                     std::int64_t dim, const T* rows, std::int64_t stride, T factor) = nullptr;
  // The next three take components that stand side by side. Row n of the target, of T or of numbers
  // of the format, = row n of the source * factors[n], rounded once.
  void (*scale_rows)(const base::RowSource& source, const base::RowTarget& target,
                     std::int64_t count, std::int64_t dim, const T* factors) = nullptr;
  // rows[n] loses shares[n] (row . rows[n]) row, with row n of the source; where the share is 0
  // nothing, whatever stands there.
  void (*take_along)(const base::RowSource& source, std::int64_t count, std::int64_t dim,
                     const T* shares, T* rows, std::int64_t stride) = nullptr;
  // Row n of the target, of T, gets rows[n] * factors[n] added.
  void (*add_rows)(const base::RowTarget& target, std::int64_t count, std::int64_t dim,
                   const T* rows, std::int64_t stride, const T* factors) = nullptr;
  // forward_block[v - 1] for panels of v vectors. Returns true when it took the slow path.
  bool (*forward_block[kMaxVectors])(const ForwardBlock<T>& block) = {};
  // Likewise; false when no pair of the tile is visible, and then nothing was written.
  bool (*backward_block[kMaxVectors])(const BackwardBlock<T>& block) = {};
  // Likewise; the operands are plain numbers of T, whatever the format says.
  void (*hash_panel[kMaxVectors])(const HashPanel<T>& panel) = {};
  // Few rows meet keys and values of any type that computes in T, as they lie in memory.
  void (*decode_block)(const DecodeBlock<T>& block) = nullptr;
  // out[c][r] = in[r][c] for r < rows, c < columns.
  void (*transpose)(const T* in, std::int64_t in_stride, std::int64_t rows, std::int64_t columns,
                    T* out, std::int64_t out_stride) = nullptr;
  // into <- into merged with part, for a panel of `width` lanes.
  void (*merge_state)(const PanelState<T>& into, const PanelState<T>& part, std::int64_t width,
                      std::int64_t head_dim_v) = nullptr;
  bool (*all_finite)(const T* values,
                     std::int64_t count) = nullptr;  // count is a multiple of lanes
  // Likewise of packed rows: numbers of the format.
  bool (*all_operands_finite)(const void* numbers, std::int64_t count) = nullptr;
  // kept[key] bit l: dropout keeps the pair of query first_query + l and that key of the tile. Bits
  // past its queries are 0.
  void (*fill_kept)(const DropoutTile& tile, std::uint64_t* kept) = nullptr;
  // words[key] bit l: no test hides the pair. Bits past the lanes are 0.
  void (*fill_intervals)(const IntervalTile& tile, std::uint64_t* words) = nullptr;
};

}  // namespace longspan::kernel
