// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Tiles outside, kv heads inside. Loads what the rows of a tile have beside their dot products, row
// by row, and runs the kernel.
#include "engine/decode_segment.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "engine/score_terms.h"

namespace longspan::engine {

using kernel::kDecodeKeys;
using kernel::kDecodeRows;

namespace {

// Part `part` of `parts` of the rows of all heads, in the order of memory: heads that stand side by
// side are fetched across, page by page.
kernel::FetchAhead fetch_part(const RowSource& source, mask::Range rows, std::int64_t dim,
                              std::int64_t heads, std::int64_t head_stride, std::int64_t part,
                              std::int64_t parts) noexcept {
  constexpr std::int64_t kLine = 64;
  const auto size = static_cast<std::int64_t>(size_of(source.dtype));
  const std::int64_t stride = source.row_stride * size;
  std::int64_t bytes = (dim + (heads - 1) * head_stride) * size;
  std::int64_t count = rows.size();
  if (bytes == stride) {  // without a gap it is one piece
    bytes *= count;
    count = std::min<std::int64_t>(count, 1);
  }
  const std::int64_t lines = base::ceil_div(bytes, kLine);
  const std::int64_t first = count * lines * part / parts;
  const std::int64_t piece = first / std::max<std::int64_t>(lines, 1);
  const char* data = static_cast<const char*>(source.data) + rows.begin * stride + piece * stride;
  return {data + (first - piece * lines) * kLine, data + bytes, stride, bytes,
          count * lines * (part + 1) / parts - first};
}

}  // namespace

template <class T>
DecodeSegment<T>::DecodeSegment(const ForwardCall<T>& call, std::int64_t panels)
    : call_(call),
      most_rows_(panels * call.decode_queries),
      stride_(base::round_up(call.head_dim, call.kernel->lanes)),
      stride_v_(base::round_up(call.head_dim_v, call.kernel->lanes)),
      groups_(static_cast<std::size_t>(call.decodes() ? panels : 0)),
      terms_(static_cast<std::size_t>(most_rows_)) {}

template <class T>
void DecodeSegment<T>::carve(base::Carver& carver) {
  queries_ = carver.take<T>(most_rows_ * stride_);
  reference_ = carver.take<T>(most_rows_);
  sum_ = carver.take<T>(most_rows_);
  numerator_ = carver.take<T>(most_rows_ * stride_v_);
  if (call_.bias.data != nullptr) bias_ = carver.take<T>(kDecodeRows * kDecodeKeys);
  if (call_.alibi_slopes.data != nullptr) {
    query_positions_ = carver.take<T>(kDecodeRows);
    key_positions_ = carver.take<T>(kDecodeKeys);
  }
}

template <class T>
void DecodeSegment<T>::load_queries(const ForwardTask& task) {
  const auto panels = static_cast<std::int64_t>(task.panels.size());
  const std::int64_t together = panels / task.heads_kv;
  groups_.resize(static_cast<std::size_t>(task.heads_kv));
  std::int64_t row = 0;
  for (std::int64_t h = 0; h < task.heads_kv; ++h) {
    Group& group = groups_[static_cast<std::size_t>(h)];
    group.first_panel = h * together;
    group.panels = task.panels.subspan(static_cast<std::size_t>(group.first_panel),
                                       static_cast<std::size_t>(together));
    group.key = shifted(task.key, h * task.key_head_stride);
    group.value = shifted(task.value, h * task.value_head_stride);
    group.first_row = row;
    for (const PanelRows& panel : group.panels) {
      call_.kernel->pack_padded(panel.query, panel.first, panel.count, call_.head_dim, panel.count,
                                stride_, queries_ + row * stride_);
      for (const std::int64_t end = row + panel.count; row < end; ++row) {
        const std::int64_t in_group = row - group.first_row;
        kernel::ScoreTerms<T>& terms = terms_[static_cast<std::size_t>(row)];
        terms.softcap = static_cast<T>(call_.softcap);
        terms.softcap_inverse = call_.softcap > 0 ? static_cast<T>(1 / call_.softcap) : T{0};
        if (bias_ != nullptr) terms.bias = bias_ + in_group * kDecodeKeys;
        if (query_positions_ == nullptr) continue;
        terms.alibi_slope = static_cast<T>(call_.alibi_slopes.at(task.batch, panel.head));
        terms.query_positions = key_positions_;
        terms.key_positions = query_positions_ + in_group;
      }
    }
    group.rows = row - group.first_row;
  }
}

template <class T>
void DecodeSegment<T>::run(const ForwardTask& task, mask::Range segment,
                           const std::vector<mask::Range>& hulls,
                           const std::vector<kernel::PanelState<T>>& states) {
  run_blocks(task, segment, hulls, groups_, /*skip_hidden_values=*/false);
  for (Group& group : groups_) {
    // 0 * NaN is NaN, as in ForwardWorker.
    if (group.partial &&
        !call_.kernel->all_finite(numerator(group.first_row), group.rows * stride_v_)) {
      run_blocks(task, segment, hulls, {&group, 1}, /*skip_hidden_values=*/true);
    }
    std::int64_t row = group.first_row;
    for (std::size_t p = 0; p < group.panels.size(); ++p) {
      const std::int64_t count = group.panels[p].count;
      const auto& state = states[static_cast<std::size_t>(group.first_panel) + p];
      std::copy_n(reference_ + row, count, state.reference);
      std::copy_n(sum_ + row, count, state.sum);
      call_.kernel->transpose(numerator(row), stride_v_, count, call_.head_dim_v, state.numerator,
                              base::round_up(count, std::int64_t{call_.kernel->lanes}));
      row += count;
    }
  }
}

template <class T>
void DecodeSegment<T>::clear(const Group& group) {
  std::fill_n(reference_ + group.first_row, group.rows, -std::numeric_limits<T>::infinity());
  std::fill_n(sum_ + group.first_row, group.rows, T{0});
  std::fill_n(numerator(group.first_row), group.rows * stride_v_, T{0});
}

// About 8 KiB of a head's keys, so that both streams stay in the caches beside the next tile.
template <class T>
std::int64_t DecodeSegment<T>::keys_per_tile(const ForwardTask& task) const {
  constexpr std::int64_t kBytes = 8192;
  constexpr std::int64_t kMultiple = 16;
  const std::int64_t row_bytes =
      call_.head_dim * static_cast<std::int64_t>(size_of(task.key.dtype));
  return task.heads_kv > 1
             ? kMultiple
             : std::clamp(kBytes / row_bytes / kMultiple * kMultiple, kMultiple, kDecodeKeys);
}

// Blocks and tiles are counted from the start of the segment, whatever is visible.
template <class T>
void DecodeSegment<T>::run_blocks(const ForwardTask& task, mask::Range segment,
                                  const std::vector<mask::Range>& hulls, std::span<Group> groups,
                                  bool skip_hidden_values) {
  for (Group& group : groups) {
    clear(group);
    group.partial = false;
  }
  const std::int64_t step = call_.kernel->key_block;
  const std::int64_t tile = keys_per_tile(task);
  for (std::int64_t block = segment.begin; block < segment.end; block += step) {
    const mask::Range keys{block, std::min(block + step, segment.end)};
    const auto first = hulls.begin() + groups.front().first_panel;
    const auto last = hulls.begin() + groups.back().first_panel +
                      static_cast<std::int64_t>(groups.back().panels.size());
    const std::int64_t met = std::count_if(
        first, last, [&](mask::Range hull) { return !mask::intersect(keys, hull).empty(); });
    if (met == 0) continue;
    base::check_stop(call_.stop, call_.function);
    for (std::int64_t begin = keys.begin; begin < keys.end; begin += tile) {
      const mask::Range now{begin, std::min(begin + tile, keys.end)};
      const mask::Range later{now.end, std::min(now.end + tile, segment.end)};
      for (std::size_t g = 0; g < groups.size(); ++g) {
        const auto part = static_cast<std::int64_t>(g);
        const auto parts = static_cast<std::int64_t>(groups.size());
        const kernel::FetchAhead ahead[2] = {
            fetch_part(task.key, later, call_.head_dim, task.heads_kv, task.key_head_stride, part,
                       parts),
            fetch_part(task.value, later, call_.head_dim_v, task.heads_kv, task.value_head_stride,
                       part, parts)};
        run_tile(task, groups[g], now, ahead, skip_hidden_values);
      }
    }
    if (call_.progress != nullptr && !skip_hidden_values) call_.progress->done += met;
  }
}

template <class T>
void DecodeSegment<T>::run_tile(const ForwardTask& task, Group& group, mask::Range keys,
                                const kernel::FetchAhead (&ahead)[2], bool skip_hidden_values) {
  if (!load_terms(task, group, keys)) return;
  group.partial = group.partial || hides_;
  kernel::DecodeBlock<T> b;
  b.query = queries_ + group.first_row * stride_;
  b.key = group.key;
  b.value = group.value;
  b.first_key = keys.begin;
  b.keys = keys.size();
  b.rows = group.rows;
  b.head_dim = call_.head_dim;
  b.head_dim_v = call_.head_dim_v;
  b.stride = stride_;
  b.stride_v = stride_v_;
  b.scale = static_cast<T>(call_.scale);
  b.exponent_scale = call_.exponent_scale();
  b.visible = hides_ ? visible_ : nullptr;
  b.terms = call_.has_terms() ? terms_.data() + group.first_row : nullptr;
  b.skip_hidden_values = skip_hidden_values;
  b.reference = reference_ + group.first_row;
  b.sum = sum_ + group.first_row;
  b.numerator = numerator(group.first_row);
  b.key_ahead = ahead[0];
  b.value_ahead = ahead[1];
  call_.kernel->decode_block(b);
}

// False when no row sees a key of the tile.
template <class T>
bool DecodeSegment<T>::load_terms(const ForwardTask& task, const Group& group, mask::Range keys) {
  hides_ = false;
  if (!call_.mask->everything_visible() && !load_visibility(task, group, keys)) return false;
  if (bias_ != nullptr) load_bias(task, group, keys);
  if (query_positions_ != nullptr) {
    T* positions = query_positions_;
    for (const PanelRows& panel : group.panels) {
      load_positions(*call_.mask, task.batch, panel, keys, panel.count, positions, key_positions_);
      positions += panel.count;
    }
  }
  return true;
}

template <class T>
bool DecodeSegment<T>::load_visibility(const ForwardTask& task, const Group& group,
                                       mask::Range keys) {
  std::uint64_t* words = visible_;
  bool seen = false;
  for (const PanelRows& panel : group.panels) {
    const mask::Coverage coverage =
        call_.mask->coverage(task.batch, panel.head, panel.range(), keys);
    const bool full = coverage == mask::Coverage::kFull;
    std::fill_n(words, panel.count, full ? ~std::uint64_t{0} : 0);
    if (coverage == mask::Coverage::kPartial) {
      std::uint64_t by_key[kDecodeKeys];
      call_.mask->fill_bits(task.batch, panel.head, panel.range(), keys,
                            {by_key, static_cast<std::size_t>(keys.size())});
      for (std::int64_t k = 0; k < keys.size(); ++k) {
        for (std::int64_t n = 0; n < panel.count; ++n) words[n] |= (by_key[k] >> n & 1) << k;
      }
    }
    seen = seen || coverage != mask::Coverage::kNone;
    hides_ = hides_ || !full;
    words += panel.count;
  }
  return seen;
}

// Bias as it lies in memory; -inf excludes.
template <class T>
void DecodeSegment<T>::load_bias(const ForwardTask& task, const Group& group, mask::Range keys) {
  if (!hides_) std::fill_n(visible_, group.rows, ~std::uint64_t{0});
  T* rows = bias_;
  for (const PanelRows& panel : group.panels) {
    call_.kernel->pack_padded(bias_rows(call_.bias, task.batch, panel.head, keys.begin),
                              panel.first, panel.count, keys.size(), panel.count, kDecodeKeys,
                              rows);
    rows += panel.count * kDecodeKeys;
  }
  for (std::int64_t row = 0; row < group.rows; ++row) {
    for (std::int64_t k = 0; k < keys.size(); ++k) {
      T& bias = bias_[row * kDecodeKeys + k];
      if (bias != -std::numeric_limits<T>::infinity()) continue;
      bias = 0;
      visible_[row] &= ~(std::uint64_t{1} << k);
      hides_ = true;
    }
  }
}

template class DecodeSegment<float>;
template class DecodeSegment<double>;

}  // namespace longspan::engine
