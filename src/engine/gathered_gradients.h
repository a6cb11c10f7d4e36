// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// One thread's part of the backward pass among gathered rows. Gradients of keys and values stay
// with their loaded run until another takes its place, and are then added to the rows of the call;
// whoever works at the same time must not meet the same keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "engine/backward_tile.h"
#include "engine/gathered_tiles.h"

namespace longspan::engine {

template <class T>
class GatheredGradients {
 public:
  // `workspace` holds workspace_bytes(call, wanted) bytes.
  GatheredGradients(const GatheredCall<T>& call, WantedGradients wanted, std::byte* workspace);
  static std::size_t workspace_bytes(const GatheredCall<T>& call, WantedGradients wanted);

  // Groups of one list follow, then end(); `head` must outlive them.
  void begin(const GatheredBackward<T>& head);
  void run(const GatheredGroup& group);
  void end();

 private:
  struct Run : BackwardTile<T>::Keys {  // loaded
    std::int64_t tag = 0;
    bool used = false;
    bool met = false;  // some pair was visible
    std::span<const std::int32_t> index;
    std::int32_t* numbers = nullptr;  // [columns][run_keys]
  };
  struct Panel : BackwardTile<T>::Queries {
    GatheredQueries place;
  };

  void carve(base::Carver& carver);
  void load_queries(const GatheredGroup& group);
  Run& load(const KeyRun& keys);
  void meet(const GatheredGroup& group, std::size_t place, Run& run, std::int64_t panel_number);
  // What is read soon, the n-th of `parts` parts: gradients of the queries, and rows of the keys
  // that come next (the next queries, where both are shared).
  void fetch_ahead(const GatheredGroup& group, std::int64_t n, std::int64_t parts,
                   kernel::BackwardBlock<T>& b) const;
  void add_dquery(const Panel& panel);
  void unload(Run& run);
  // The gradients of a run's keys, which are normalised rows, become those of the rows but for
  // factors_.
  void undo_normalization(const Run& run);

  const GatheredCall<T>& call_;
  const GatheredBackward<T>* head_ = nullptr;
  GatheredTiles<T> tiles_;
  BackwardTile<T> tile_;
  std::vector<Run> runs_;
  std::vector<Panel> panels_;
  std::int64_t used_panels_ = 0;
  T* factors_ = nullptr;  // [run_keys]
  T* along_ = nullptr;    // likewise
};

}  // namespace longspan::engine
