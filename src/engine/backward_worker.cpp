// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The backward pass of one range of keys. Blocks of queries outside, blocks of keys inside them,
// panels innermost: the panels of a block of queries and the keys of the range stay in the second
// level cache together.
#include "engine/backward_worker.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "engine/bias_gradient.h"
#include "engine/delta.h"
#include "engine/turns.h"

namespace longspan::engine {

template <class T>
BackwardWorker<T>::BackwardWorker(const BackwardCall<T>& call, std::byte* workspace)
    : call_(call),
      tile_(call, call.wanted, std::min(call.kernel->key_block, call.ranges.length)),
      terms_(call, tile_.rows(), tile_.width()),
      panels_(static_cast<std::size_t>(call.panels_per_block)),
      blocks_(
          static_cast<std::size_t>(base::ceil_div(call.ranges.length, call.kernel->key_block))) {
  base::Carver carver(workspace);
  carve(carver);
}

template <class T>
std::size_t BackwardWorker<T>::workspace_bytes(const BackwardCall<T>& call) {
  BackwardWorker counted(call, nullptr);
  base::Carver carver;
  counted.carve(carver);
  return carver.used();
}

template <class T>
void BackwardWorker<T>::carve(base::Carver& carver) {
  for (Panel& panel : panels_) {
    tile_.carve(carver, panel);
    if (call_.sums_bias_by_query()) panel.dscore_sums = carver.take<T>(tile_.width());
  }
  for (Block& block : blocks_) tile_.carve(carver, block);
  tile_.carve(carver);
  if (call_.wants_bias_tiles()) {
    dscores_ = carver.take<T>(tile_.rows() * tile_.width());
    bias_rows_ = carver.take<T>(tile_.rows() * tile_.width());
  }
  terms_.carve(carver);
}

template <class T>
void BackwardWorker<T>::run(const BackwardTask<T>& task) {
  load_keys(task);
  for (const BackwardHead<T>& head : task.heads) {
    for (std::int64_t n = 0; n < call_.query_blocks(); ++n) {
      const mask::Range queries = call_.query_block(n);
      const mask::Range hull = call_.mask->visible_keys(task.batch, queries);
      if (mask::intersect(hull, task.keys).empty()) continue;
      choose_panels(task, head, queries);
      // Ranges add to the gradients of these queries in ascending order.
      const std::int64_t turn =
          (task.keys.begin - hull.begin / call_.ranges.length * call_.ranges.length) /
          call_.ranges.length;
      run_panels(task, head, head.first_turn + n, turn);
    }
  }
  store_keys(task);
}

// The panels of a block of queries that see a key of the task.
template <class T>
void BackwardWorker<T>::choose_panels(const BackwardTask<T>& task, const BackwardHead<T>& head,
                                      mask::Range queries) {
  used_panels_ = 0;
  for (std::int64_t first = queries.begin; first < queries.end; first += call_.rows_per_panel) {
    Panel& panel = panels_[static_cast<std::size_t>(used_panels_)];
    panel.queries = {head.head, first, std::min(call_.rows_per_panel, queries.end - first)};
    const mask::Range hull = call_.mask->visible_keys(task.batch, panel.queries.range());
    if (mask::intersect(hull, task.keys).empty()) continue;
    panel.keys = hull;
    ++used_panels_;
  }
}

template <class T>
void BackwardWorker<T>::load_keys(const BackwardTask<T>& task) {
  const std::int64_t step = call_.kernel->key_block;
  used_blocks_ = 0;
  for (std::int64_t begin = task.keys.begin; begin < task.keys.end; begin += step) {
    Block& block = blocks_[static_cast<std::size_t>(used_blocks_++)];
    block.keys = {begin, std::min(begin + step, task.keys.end)};
    tile_.load_keys(block, task.key, begin, block.keys.size());
    tile_.load_values(block, task.value, begin, block.keys.size());
  }
}

// Panels are loaded in their order, each before its first tile at the latest, and added to the
// gradients after the last block. What the next panel reads and this one adds to is fetched during
// the tile before: rows may be pages apart, and waiting for memory was a tenth of the time; fetched
// earlier, they do not stay in the cache.
template <class T>
void BackwardWorker<T>::run_panels(const BackwardTask<T>& task, const BackwardHead<T>& head,
                                   std::int64_t place, std::int64_t turn) {
  std::int64_t loaded = 0;
  for (std::int64_t k = 0; k < used_blocks_; ++k) {
    base::check_stop(call_.stop, call_.function);
    const bool adds = k + 1 == used_blocks_ && (call_.wanted.query || call_.sums_bias_by_query());
    Block& block = blocks_[static_cast<std::size_t>(k)];
    std::int64_t met = 0;
    for (std::int64_t p = 0; p < used_panels_; ++p) {
      Panel& panel = panels_[static_cast<std::size_t>(p)];
      if (!mask::intersect(panel.keys, block.keys).empty()) {
        while (loaded <= p) load_panel(head, panels_[static_cast<std::size_t>(loaded++)]);
        kernel::BackwardBlock<T> b;
        if (loaded < used_panels_) {
          const PanelQueries& next = panels_[static_cast<std::size_t>(loaded)].queries;
          b.ahead[0] = rows_ahead(head.query, next.range(), call_.head_dim);
          b.ahead[1] = rows_ahead(head.doutput, next.range(), call_.head_dim_v);
        }
        if (adds && call_.wanted.query) {
          b.ahead[2] =
              rows_ahead(as_source(head.dquery_sum), panel.queries.range(), call_.head_dim);
        }
        run_tile(task, panel, block, b);
        ++met;
      }
      if (!adds) continue;
      if (p == 0) call_.turns->wait(place, turn);
      if (call_.wanted.query) add_dquery(task, head, panel);
      if (call_.sums_bias_by_query()) {
        call_.bias_gradient->add_queries(task.batch, panel.queries, panel.dscore_sums);
      }
    }
    if (adds) {
      // A block of queries may see keys on both sides of a range and none in it.
      if (used_panels_ == 0) call_.turns->wait(place, turn);
      call_.turns->finish(place, turn);
    }
    if (call_.progress != nullptr) call_.progress->done += met;
  }
}

template <class T>
void BackwardWorker<T>::load_panel(const BackwardHead<T>& head, Panel& panel) {
  const auto row = [&](std::int64_t lane) {
    const std::int64_t n = panel.queries.first + lane;
    return typename BackwardTile<T>::RowNumbers{number_at(head.lse, n), head.delta[n]};
  };
  tile_.begin(panel, panel.queries.count, row);
  tile_.load_query(panel, head.query, panel.queries.first);
  tile_.load_doutput(panel, head.doutput, panel.queries.first);
  if (call_.sums_bias_by_query()) std::fill_n(panel.dscore_sums, panel.width, T{0});
}

template <class T>
void BackwardWorker<T>::run_tile(const BackwardTask<T>& task, Panel& panel, Block& block,
                                 kernel::BackwardBlock<T>& b) {
  if (!terms_.load(task.batch, panel.queries, block.keys, panel.width)) return;
  b.visible = terms_.visible();
  b.kept = terms_.kept();
  b.terms = terms_.terms();
  b.dscores = dscores_;
  const bool visited = tile_.run(panel, block, b);
  if (!visited || dscores_ == nullptr) return;
  if (call_.sums_bias_by_query()) {
    for (std::int64_t k = 0; k < block.keys.size(); ++k) {
      const T* dscores = dscores_ + k * panel.width;
      for (std::int64_t l = 0; l < panel.width; ++l) panel.dscore_sums[l] += dscores[l];
    }
  } else {
    call_.bias_gradient->add_tile(*call_.kernel, task.batch, panel.queries, block.keys, dscores_,
                                  panel.width, bias_rows_);
  }
}

template <class T>
void BackwardWorker<T>::add_dquery(const BackwardTask<T>& task, const BackwardHead<T>& head,
                                   const Panel& panel) {
  // The first range that the panel sees replaces what is there, the last completes it.
  const PanelQueries& queries = panel.queries;
  const RowTarget& sum = head.dquery_sum;
  std::array<T, kernel::kMaxWidth> scales, ones;
  scales.fill(static_cast<T>(call_.scale));
  ones.fill(T{1});
  const bool replace = panel.keys.begin >= task.keys.begin;
  call_.kernel->add_panel(sum, queries.first, queries.count, call_.head_dim, panel.width,
                          panel.dquery_lanes, scales.data(), replace ? nullptr : ones.data());
  if (panel.keys.end > task.keys.end || head.dquery.data == nullptr) return;
  call_.kernel->store_rows(head.dquery, queries.first, queries.count, call_.head_dim,
                           static_cast<const T*>(sum.data) + queries.first * sum.row_stride,
                           sum.row_stride, T{1});
}

template <class T>
void BackwardWorker<T>::store_keys(const BackwardTask<T>& task) {
  for (std::int64_t k = 0; k < used_blocks_; ++k) {
    const Block& block = blocks_[static_cast<std::size_t>(k)];
    if (call_.wanted.key) {
      call_.kernel->store_rows(task.dkey, block.keys.begin, block.keys.size(), call_.head_dim,
                               block.dkey, tile_.stride(), static_cast<T>(call_.scale));
    }
    if (call_.wanted.value) {
      call_.kernel->store_rows(task.dvalue, block.keys.begin, block.keys.size(), call_.head_dim_v,
                               block.dvalue, tile_.stride_v(),
                               static_cast<T>(call_.dropout.factor));
    }
  }
}

template class BackwardWorker<float>;
template class BackwardWorker<double>;

}  // namespace longspan::engine
