// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// One thread's part of a backward call: a range of keys meets the queries that see it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/backward_call.h"
#include "engine/backward_tile.h"
#include "engine/tile_terms.h"

namespace longspan::engine {

template <class T>
class BackwardWorker {
 public:
  // `workspace` holds workspace_bytes(call) bytes.
  BackwardWorker(const BackwardCall<T>& call, std::byte* workspace);
  static std::size_t workspace_bytes(const BackwardCall<T>& call);

  void run(const BackwardTask<T>& task);

 private:
  struct Panel : BackwardTile<T>::Queries {
    PanelQueries queries;
    mask::Range keys;          // that it may see, of all ranges
    T* dscore_sums = nullptr;  // [width], with a bias gradient that is summed by query
  };
  struct Block : BackwardTile<T>::Keys {
    mask::Range keys;
  };

  void carve(base::Carver& carver);
  void load_keys(const BackwardTask<T>& task);
  void choose_panels(const BackwardTask<T>& task, const BackwardHead<T>& head, mask::Range queries);
  void run_panels(const BackwardTask<T>& task, const BackwardHead<T>& head, std::int64_t place,
                  std::int64_t turn);
  void load_panel(const BackwardHead<T>& head, Panel& panel);
  void run_tile(const BackwardTask<T>& task, Panel& panel, Block& block,
                kernel::BackwardBlock<T>& b);
  void add_dquery(const BackwardTask<T>& task, const BackwardHead<T>& head, const Panel& panel);
  void store_keys(const BackwardTask<T>& task);

  const BackwardCall<T>& call_;
  BackwardTile<T> tile_;
  TileTerms<T> terms_;
  std::vector<Panel> panels_;
  std::vector<Block> blocks_;
  std::int64_t used_panels_ = 0;
  std::int64_t used_blocks_ = 0;
  T* dscores_ = nullptr;    // [key block][width], with a bias gradient that wants tiles
  T* bias_rows_ = nullptr;  // [width][key block], likewise
};

}  // namespace longspan::engine
