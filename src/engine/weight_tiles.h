// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Weights P = exp(score - lse), tile by tile: the first of the products of the backward pass,
// alone.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/attention_call.h"
#include "engine/backward_tile.h"
#include "engine/rows.h"
#include "engine/tile_terms.h"

namespace longspan::engine {

template <class T>
class WeightTiles {
 public:
  // `panels` panels are open at a time, and one block of keys. A call without values: its
  // head_dim_v is 0.
  WeightTiles(const AttentionCall<T>& call, std::int64_t panels);
  void carve(base::Carver& carver);

  std::int64_t width() const noexcept { return tile_.width(); }  // of a full panel

  // `query` and `lse`: the rows of the queries' head; an lse of -inf says that a row sees nothing.
  void load_panel(std::int64_t n, const PanelQueries& queries, const RowSource& query,
                  const RowSource& lse);
  void load_keys(const RowSource& key, mask::Range keys);

  // Panel n meets the keys; false when no pair is visible, and then there is no tile.
  bool run(std::int64_t batch, std::int64_t n);

  // The tile of the last run: [keys][panel width], 0 where a pair of its queries is hidden; and
  // which are visible, bit l of [keys] for query l. Lanes past the queries hold anything.
  const T* weights() const noexcept { return weights_; }
  const std::uint64_t* visible() const noexcept { return visible_; }
  const PanelQueries& queries(std::int64_t n) const noexcept { return panel(n).queries; }
  std::int64_t panel_width(std::int64_t n) const noexcept { return panel(n).width; }

 private:
  struct Panel : BackwardTile<T>::Queries {
    PanelQueries queries;
  };

  const Panel& panel(std::int64_t n) const noexcept { return panels_[static_cast<std::size_t>(n)]; }
  void hide(T* weights, const std::uint64_t* visible, const Panel& panel);

  BackwardTile<T> tile_;
  TileTerms<T> terms_;
  std::vector<Panel> panels_;
  typename BackwardTile<T>::Keys block_;
  mask::Range keys_;
  const T* weights_ = nullptr;
  std::uint64_t* visible_ = nullptr;  // [keys]
};

}  // namespace longspan::engine
