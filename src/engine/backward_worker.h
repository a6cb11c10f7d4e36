// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// One thread's part of a backward call: a range of keys meets the queries that see it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/backward_call.h"
#include "engine/tile_terms.h"
#include "kernels/backward_block.h"

namespace longspan::engine {

template <class T>
class BackwardWorker {
 public:
  // `workspace` holds workspace_bytes(call) bytes.
  BackwardWorker(const BackwardCall<T>& call, std::byte* workspace);
  static std::size_t workspace_bytes(const BackwardCall<T>& call);

  void run(const BackwardTask<T>& task);

 private:
  struct Panel {  // a panel of queries, loaded
    PanelQueries queries;
    mask::Range keys;  // that it may see, of all ranges
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
    T* dscore_sums = nullptr;  // [width], with a bias gradient that is summed by query
  };
  struct Block {  // a block of keys, loaded
    mask::Range keys;
    bool finite = true;  // no key holds NaN or inf
    std::byte* key_rows = nullptr;
    std::byte* value_rows = nullptr;
    std::byte* key_columns = nullptr;  // where rows are not read as components, too
    kernel::OperandRows key;
    kernel::OperandRows value;
    kernel::OperandRows key_components;
    T* dkey = nullptr;
    T* dvalue = nullptr;
  };

  void carve(base::Carver& carver);
  void load_keys(const BackwardTask<T>& task);
  void load_block(const BackwardTask<T>& task, Block& block) const;
  void choose_panels(const BackwardTask<T>& task, const BackwardHead<T>& head, mask::Range queries);
  void run_panels(const BackwardTask<T>& task, const BackwardHead<T>& head, std::int64_t place,
                  std::int64_t turn);
  void load_panel(const BackwardHead<T>& head, Panel& panel);
  bool load_rows(const Panel& panel, const RowSource& source, std::int64_t dim, std::int64_t stride,
                 std::byte* lanes, std::byte* rows);
  void run_tile(const BackwardTask<T>& task, Panel& panel, Block& block,
                kernel::BackwardBlock<T>& b);
  void add_dquery(const BackwardTask<T>& task, const BackwardHead<T>& head, const Panel& panel);
  void store_keys(const BackwardTask<T>& task);

  const BackwardCall<T>& call_;
  std::int64_t block_rows_;  // of keys, with padding
  std::int64_t width_;       // of a full panel
  std::int64_t stride_;      // of rows of head_dim, with padding
  std::int64_t stride_v_;
  TileTerms<T> terms_;
  std::vector<Panel> panels_;
  std::vector<Block> blocks_;
  std::int64_t used_panels_ = 0;
  std::int64_t used_blocks_ = 0;
  std::byte* staged_ = nullptr;         // [width][stride], where operands are not such rows
  T* weights_ = nullptr;                // [key block][width]
  std::byte* operand_rows_ = nullptr;   // the same, where operands are not the weights
  std::byte* operand_lanes_ = nullptr;  // and where they are not those rows
  T* slopes_ = nullptr;                 // the same, with softcap
  T* dscores_ = nullptr;                // the same, with a bias gradient that wants tiles
  T* bias_rows_ = nullptr;              // [width][key block], likewise
};

}  // namespace longspan::engine
