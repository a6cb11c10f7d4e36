// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The backward pass of one range of keys. Blocks of queries outside, blocks of keys inside them,
// panels innermost: the panels of a block of queries and the keys of the range stay in the second
// level cache together.
#include "engine/backward_worker.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "engine/bias_gradient.h"
#include "engine/turns.h"

namespace longspan::engine {
namespace {

using base::round_up;

template <class T>
std::int64_t padded(const BackwardCall<T>& call, std::int64_t dim) {
  return round_up(call.kernel->format.rows(dim), call.kernel->lanes);
}

}  // namespace

template <class T>
BackwardWorker<T>::BackwardWorker(const BackwardCall<T>& call, std::byte* workspace)
    : call_(call),
      block_rows_(call.kernel->format.rows(
          call.kernel->format.depth(std::min(call.kernel->key_block, call.ranges.length)))),
      width_(std::int64_t{call.kernel->lanes} * call.kernel->vectors),
      stride_(padded(call, call.head_dim)),
      stride_v_(padded(call, call.head_dim_v)),
      terms_(call, block_rows_, width_),
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
  const kernel::OperandFormat& format = call_.kernel->format;
  const std::int64_t padded_dim = format.rows(call_.head_dim);
  const auto rows = [&](std::int64_t stride) {  // of a panel
    return carver.take<std::byte>(format.panel_bytes(width_, stride));
  };
  for (Panel& panel : panels_) {
    panel.query_lanes = carver.take<std::byte>(format.panel_bytes(call_.head_dim, width_));
    panel.doutput_lanes = carver.take<std::byte>(format.panel_bytes(call_.head_dim_v, width_));
    panel.query_rows = rows(stride_);
    panel.doutput_rows = rows(stride_v_);
    panel.lse = carver.take<T>(width_);
    panel.delta = carver.take<T>(width_);
    panel.dquery_lanes = carver.take<T>(padded_dim * width_);
    if (call_.sums_bias_by_query()) panel.dscore_sums = carver.take<T>(width_);
  }
  for (Block& block : blocks_) {
    block.key_rows = carver.take<std::byte>(format.rows_bytes(block_rows_, stride_));
    block.value_rows = carver.take<std::byte>(format.rows_bytes(block_rows_, stride_v_));
    if (!format.reads_rows) {
      block.key_columns = carver.take<std::byte>(format.rows_bytes(call_.head_dim, block_rows_));
    }
    block.dkey = carver.take<T>(block_rows_ * stride_);
    block.dvalue = carver.take<T>(block_rows_ * stride_v_);
  }
  weights_ = carver.take<T>(block_rows_ * width_);
  if (!format.reads_rows) {
    staged_ = rows(std::max(stride_, stride_v_));
    operand_lanes_ = carver.take<std::byte>(format.panel_bytes(block_rows_, width_));
  }
  if (!format.reads_rows || call_.dropout.threshold > 0) {
    operand_rows_ = carver.take<std::byte>(format.rows_bytes(block_rows_, width_));
  }
  if (call_.softcap > 0) slopes_ = carver.take<T>(block_rows_ * width_);
  if (call_.wants_bias_tiles()) {
    dscores_ = carver.take<T>(block_rows_ * width_);
    bias_rows_ = carver.take<T>(block_rows_ * width_);
  }
  terms_.carve(carver);
}

template <class T>
void BackwardWorker<T>::run(const BackwardTask<T>& task) {
  load_keys(task);
  for (const BackwardHead<T>& head : task.heads) {
    for (std::int64_t n = 0; n < call_.query_blocks(); ++n) {
      const mask::Range queries = call_.query_block(n);
      const mask::Range hull = call_.mask->visible_keys(task.batch, head.head, queries);
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
    const mask::Range hull = call_.mask->visible_keys(task.batch, head.head, panel.queries.range());
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
    load_block(task, block);
    std::fill_n(block.dkey, block_rows_ * stride_, T{0});
    std::fill_n(block.dvalue, block_rows_ * stride_v_, T{0});
  }
}

template <class T>
void BackwardWorker<T>::load_block(const BackwardTask<T>& task, Block& block) const {
  const kernel::KernelTable<T>& kernel = *call_.kernel;
  const kernel::OperandFormat& format = kernel.format;
  const std::int64_t first = block.keys.begin;
  const std::int64_t count = block.keys.size();
  std::int64_t numbers = 0;  // a row
  if (format.reads_rows) {
    kernel.pack_padded(task.key, first, count, call_.head_dim, block_rows_, stride_,
                       block.key_rows);
    kernel.pack_padded(task.value, first, count, call_.head_dim_v, block_rows_, stride_v_,
                       block.value_rows);
    block.key = {block.key_rows, stride_, format.row_multiple};
    block.value = {block.value_rows, stride_v_, format.row_multiple};
    block.key_components = block.key;
    numbers = stride_;
  } else {
    block.key = kernel.pack_keys(task.key, first, count, call_.head_dim, block.key_rows);
    block.value = kernel.pack_keys(task.value, first, count, call_.head_dim_v, block.value_rows);
    block.key_components =
        kernel.pack_values(task.key, first, count, call_.head_dim, block.key_columns);
    numbers = format.depth(call_.head_dim);
  }
  block.finite = kernel.all_operands_finite(block.key_rows, format.rows(count) * numbers);
}

// A panel is loaded before its first tile and added to the gradients after its last. What the next
// panel reads and this one adds to is fetched during the tile before: rows may be pages apart, and
// waiting for memory was a tenth of the time; fetched earlier, they do not stay in the cache.
template <class T>
void BackwardWorker<T>::run_panels(const BackwardTask<T>& task, const BackwardHead<T>& head,
                                   std::int64_t place, std::int64_t turn) {
  for (std::int64_t k = 0; k < used_blocks_; ++k) {
    if (call_.stop.stop_requested()) {
      base::fail(ErrorCode::kCancelled, "attention: stopped on request");
    }
    const bool adds = k + 1 == used_blocks_ && (call_.wants_query || call_.sums_bias_by_query());
    Block& block = blocks_[static_cast<std::size_t>(k)];
    std::int64_t met = 0;
    for (std::int64_t p = 0; p < used_panels_; ++p) {
      Panel& panel = panels_[static_cast<std::size_t>(p)];
      if (k == 0) load_panel(head, panel);
      kernel::BackwardBlock<T> b;
      if (k == 0 && p + 1 < used_panels_) {
        const PanelQueries& next = panels_[static_cast<std::size_t>(p + 1)].queries;
        b.ahead[0] = rows_ahead(head.query, next.range(), call_.head_dim);
        b.ahead[1] = rows_ahead(head.doutput, next.range(), call_.head_dim_v);
      }
      if (adds && call_.wants_query) {
        b.ahead[2] = rows_ahead(as_source(head.dquery_sum), panel.queries.range(), call_.head_dim);
      }
      if (!mask::intersect(panel.keys, block.keys).empty()) {
        run_tile(task, panel, block, b);
        ++met;
      }
      if (!adds) continue;
      if (p == 0) call_.turns->wait(place, turn);
      if (call_.wants_query) add_dquery(task, head, panel);
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
  const std::int64_t count = panel.queries.count;
  panel.width = round_up(count, call_.kernel->lanes);
  panel.unseeing = 0;
  const double unit = call_.reference_unit();
  for (std::int64_t lane = 0; lane < panel.width; ++lane) {
    const std::int64_t n = panel.queries.first + lane;
    const double lse =
        lane < count ? base::load_double(head.lse.data, head.lse.dtype, n * head.lse.row_stride)
                     : -std::numeric_limits<double>::infinity();
    if (std::isinf(lse) && lse < 0) {
      panel.lse[lane] = std::numeric_limits<T>::infinity();
      panel.delta[lane] = 0;
      panel.unseeing |= std::uint64_t{1} << lane;
    } else {
      panel.lse[lane] = static_cast<T>(lse / unit);
      panel.delta[lane] = head.delta[n];
    }
  }
  const bool query_finite =
      load_rows(panel, head.query, call_.head_dim, stride_, panel.query_lanes, panel.query_rows);
  panel.finite = load_rows(panel, head.doutput, call_.head_dim_v, stride_v_, panel.doutput_lanes,
                           panel.doutput_rows) &&
                 query_finite;
  if (call_.wants_query) {
    std::fill_n(panel.dquery_lanes, call_.kernel->format.rows(call_.head_dim) * panel.width, T{0});
  }
  if (call_.sums_bias_by_query()) std::fill_n(panel.dscore_sums, panel.width, T{0});
}

// Rows of queries or of doutput in both arrangements. True when all their numbers are finite.
template <class T>
bool BackwardWorker<T>::load_rows(const Panel& panel, const RowSource& source, std::int64_t dim,
                                  std::int64_t stride, std::byte* lanes, std::byte* rows) {
  const kernel::KernelTable<T>& kernel = *call_.kernel;
  std::byte* padded = staged_ == nullptr ? rows : staged_;
  kernel.pack_padded(source, panel.queries.first, panel.queries.count, dim, panel.width, stride,
                     padded);
  const std::int64_t row_bytes = stride * kernel.format.value_bytes();
  for (std::int64_t lane = 0; lane < panel.queries.count; ++lane) {
    if ((panel.unseeing >> lane & 1) != 0) {
      std::fill_n(padded + lane * row_bytes, row_bytes, std::byte{0});
    }
  }
  const RowSource own{padded, kernel.format.dtype, stride, 1};
  kernel.pack_query(own, 0, panel.width, dim, panel.width, lanes);
  if (staged_ != nullptr) kernel.pack_right_rows(own, 0, panel.width, stride, stride, rows);
  return kernel.all_operands_finite(padded, panel.width * stride);
}

template <class T>
void BackwardWorker<T>::run_tile(const BackwardTask<T>& task, Panel& panel, Block& block,
                                 kernel::BackwardBlock<T>& b) {
  if (!terms_.load(task.batch, panel.queries, block.keys, panel.width)) return;
  b.query_lanes = panel.query_lanes;
  b.doutput_lanes = panel.doutput_lanes;
  b.query_rows = panel.query_rows;
  b.doutput_rows = panel.doutput_rows;
  b.lse = panel.lse;
  b.delta = panel.delta;
  b.key = block.key;
  b.value = block.value;
  b.key_components = block.key_components;
  b.width = panel.width;
  b.keys = block.keys.size();
  b.head_dim = call_.head_dim;
  b.head_dim_v = call_.head_dim_v;
  b.stride = stride_;
  b.stride_v = stride_v_;
  b.scale = static_cast<T>(call_.scale);
  b.exponent_scale = call_.exponent_scale();
  b.visible = terms_.visible();
  b.terms = terms_.terms();
  b.skip_hidden = b.visible != nullptr && !(panel.finite && block.finite);
  b.weights = weights_;
  b.kept = terms_.kept();
  b.keep_scale = static_cast<T>(call_.dropout.factor);
  b.operand_rows = operand_rows_ == nullptr ? static_cast<void*>(weights_) : operand_rows_;
  b.operand_lanes = operand_lanes_ == nullptr ? b.operand_rows : operand_lanes_;
  b.slopes = slopes_;
  b.dscores = dscores_;
  b.dquery_lanes = call_.wants_query ? panel.dquery_lanes : nullptr;
  b.dkey = call_.wants_key ? block.dkey : nullptr;
  b.dvalue = call_.wants_value ? block.dvalue : nullptr;
  const bool visited = call_.kernel->backward_block[panel.width / call_.kernel->lanes - 1](b);
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
  call_.kernel->add_panel(sum, queries.first, queries.count, call_.head_dim, panel.width,
                          panel.dquery_lanes, static_cast<T>(call_.scale),
                          panel.keys.begin >= task.keys.begin);
  if (panel.keys.end > task.keys.end || head.dquery.data == nullptr) return;
  call_.kernel->store_rows(head.dquery, queries.first, queries.count, call_.head_dim,
                           static_cast<const T*>(sum.data) + queries.first * sum.row_stride,
                           sum.row_stride, T{1});
}

template <class T>
void BackwardWorker<T>::store_keys(const BackwardTask<T>& task) {
  for (std::int64_t k = 0; k < used_blocks_; ++k) {
    const Block& block = blocks_[static_cast<std::size_t>(k)];
    if (call_.wants_key) {
      call_.kernel->store_rows(task.dkey, block.keys.begin, block.keys.size(), call_.head_dim,
                               block.dkey, stride_, static_cast<T>(call_.scale));
    }
    if (call_.wants_value) {
      call_.kernel->store_rows(task.dvalue, block.keys.begin, block.keys.size(), call_.head_dim_v,
                               block.dvalue, stride_v_, static_cast<T>(call_.dropout.factor));
    }
  }
}

template class BackwardWorker<float>;
template class BackwardWorker<double>;

}  // namespace longspan::engine
