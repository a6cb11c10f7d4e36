// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The operands of a backward tile: a panel of queries and a block of keys, loaded in every
// arrangement that the kernel reads, with the gradients that tiles add to.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/buffer.h"
#include "engine/attention_call.h"
#include "engine/rows.h"
#include "kernels/backward_block.h"

namespace longspan::engine {

struct WantedGradients {
  bool query = false;
  bool key = false;
  bool value = false;
};

template <class T>
class BackwardTile {
 public:
  struct Queries {
    std::int64_t count = 0;
    std::int64_t width = 0;
    bool finite = true;          // neither query nor doutput holds NaN or inf
    std::uint64_t unseeing = 0;  // lanes that see nothing: they add nothing, whatever they hold
    std::byte* query_lanes = nullptr;
    std::byte* doutput_lanes = nullptr;
    std::byte* query_rows = nullptr;
    std::byte* doutput_rows = nullptr;
    T* lse = nullptr;
    T* delta = nullptr;
    T* dquery_lanes = nullptr;
  };
  struct Keys {
    std::int64_t count = 0;
    bool finite = true;  // no key holds NaN or inf
    std::byte* key_rows = nullptr;
    std::byte* value_rows = nullptr;
    std::byte* key_columns = nullptr;  // where rows are not read as components, too
    kernel::OperandRows key;
    kernel::OperandRows value;
    kernel::OperandRows key_components;
    T* dkey = nullptr;    // [rows][stride()], without the factor `scale`
    T* dvalue = nullptr;  // [rows][stride_v()], without that of dropout
  };
  struct RowNumbers {
    double lse = 0;
    T delta = 0;
  };

  // Blocks hold at most `keys` keys.
  BackwardTile(const AttentionCall<T>& call, WantedGradients wanted, std::int64_t keys);
  void carve(base::Carver& carver);
  void carve(base::Carver& carver, Queries& queries) const;
  void carve(base::Carver& carver, Keys& keys) const;

  std::int64_t width() const noexcept { return width_; }        // of a full panel
  std::int64_t rows() const noexcept { return rows_; }          // of a block, with padding
  std::int64_t stride() const noexcept { return stride_; }      // of rows of head_dim, with padding
  std::int64_t stride_v() const noexcept { return stride_v_; }  // of rows of head_dim_v

  // A panel of `count` queries, whose numbers are row(lane); then its rows, first .. first + count
  // of a source.
  template <class Row>
  void begin(Queries& into, std::int64_t count, const Row& row) const {
    clear(into, count);
    for (std::int64_t lane = 0; lane < count; ++lane) set(into, lane, row(lane));
  }
  void load_query(Queries& into, const RowSource& source, std::int64_t first);
  void load_doutput(Queries& into, const RowSource& source, std::int64_t first);
  // Where rows of keys can be written that load_keys() then takes as they are; null: nowhere.
  std::byte* place_of_keys(const Keys& into) const noexcept {
    return call_.kernel->format.reads_rows && stride_ == call_.head_dim ? into.key_rows : nullptr;
  }
  // A block of keys, then of their values.
  void load_keys(Keys& into, const RowSource& source, std::int64_t first, std::int64_t count) const;
  void load_values(Keys& into, const RowSource& source, std::int64_t first,
                   std::int64_t count) const;

  // `b` says what is visible and what the terms are; false when no pair was visible.
  bool run(const Queries& queries, const Keys& keys, kernel::BackwardBlock<T>& b) const;

 private:
  void clear(Queries& into, std::int64_t count) const;
  void set(Queries& into, std::int64_t lane, const RowNumbers& row) const;
  bool load_lanes(const Queries& into, const RowSource& source, std::int64_t first,
                  std::int64_t dim, std::int64_t stride, std::byte* lanes, std::byte* rows);

  const AttentionCall<T>& call_;
  WantedGradients wanted_;
  std::int64_t rows_;
  std::int64_t width_;
  std::int64_t stride_;
  std::int64_t stride_v_;
  std::byte* staged_ = nullptr;         // [width][stride], where operands are not such rows
  T* weights_ = nullptr;                // [rows][width]
  std::byte* operand_rows_ = nullptr;   // the same, where operands are not the weights
  std::byte* operand_lanes_ = nullptr;  // and where they are not those rows
  T* slopes_ = nullptr;                 // the same, with softcap
};

}  // namespace longspan::engine
