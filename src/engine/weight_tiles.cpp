// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The tile of the backward pass without gradients, where the kernel stops after the weights.
#include "engine/weight_tiles.h"

#include "engine/delta.h"

namespace longspan::engine {

template <class T>
WeightTiles<T>::WeightTiles(const AttentionCall<T>& call, std::int64_t panels)
    : tile_(call, WantedGradients{}, call.kernel->key_block),
      terms_(call, tile_.rows(), tile_.width()),
      panels_(static_cast<std::size_t>(panels)) {}

template <class T>
void WeightTiles<T>::carve(base::Carver& carver) {
  for (Panel& panel : panels_) tile_.carve(carver, panel);
  tile_.carve(carver, block_);
  tile_.carve(carver);
  terms_.carve(carver);
  visible_ = carver.take<std::uint64_t>(tile_.rows());
}

template <class T>
void WeightTiles<T>::load_panel(std::int64_t n, const PanelQueries& queries, const RowSource& query,
                                const RowSource& lse) {
  Panel& panel = panels_[static_cast<std::size_t>(n)];
  panel.queries = queries;
  tile_.begin(panel, queries.count, [&](std::int64_t lane) {
    return typename BackwardTile<T>::RowNumbers{number_at(lse, queries.first + lane), T{0}};
  });
  tile_.load_query(panel, query, queries.first);
}

template <class T>
void WeightTiles<T>::load_keys(const RowSource& key, mask::Range keys) {
  keys_ = keys;
  tile_.load_keys(block_, key, keys.begin, keys.size());
}

template <class T>
bool WeightTiles<T>::run(std::int64_t batch, std::int64_t n) {
  const Panel& panel = panels_[static_cast<std::size_t>(n)];
  if (!terms_.load(batch, panel.queries, keys_, panel.width)) return false;
  kernel::BackwardBlock<T> b;
  b.visible = terms_.visible();
  b.terms = terms_.terms();
  if (!tile_.run(panel, block_, b)) return false;
  hide(b.weights, b.visible, panel);
  weights_ = b.weights;
  return true;
}

// The kernel leaves groups of keys that nobody sees as they were.
template <class T>
void WeightTiles<T>::hide(T* weights, const std::uint64_t* visible, const Panel& panel) {
  const std::int64_t count = panel.count;
  const std::uint64_t all = ~std::uint64_t{0} >> (kernel::kMaxWidth - count);
  const std::uint64_t lanes = all & ~panel.unseeing;
  for (std::int64_t k = 0; k < keys_.size(); ++k) {
    const std::uint64_t word = visible == nullptr ? lanes : visible[k] & lanes;
    visible_[k] = word;
    if (word == all) continue;
    T* row = weights + k * panel.width;
    for (std::int64_t l = 0; l < count; ++l) {
      if ((word >> l & 1) == 0) row[l] = T{0};
    }
  }
}

template class WeightTiles<float>;
template class WeightTiles<double>;

}  // namespace longspan::engine
