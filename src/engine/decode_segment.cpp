// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Loads what the rows of a tile have beside their dot products, row by row, and runs the kernel.
#include "engine/decode_segment.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "engine/score_terms.h"

namespace longspan::engine {

using kernel::kDecodeKeys;
using kernel::kDecodeRows;

template <class T>
void DecodeSegment<T>::carve(base::Carver& carver) {
  const std::int64_t lanes = call_.kernel->lanes;
  stride_ = base::round_up(call_.head_dim, lanes);
  stride_v_ = base::round_up(call_.head_dim_v, lanes);
  queries_ = carver.take<T>(kDecodeRows * stride_);
  reference_ = carver.take<T>(kDecodeRows);
  sum_ = carver.take<T>(kDecodeRows);
  numerator_ = carver.take<T>(kDecodeRows * stride_v_);
  if (call_.bias.data != nullptr) bias_ = carver.take<T>(kDecodeRows * kDecodeKeys);
  if (call_.alibi_slopes.data != nullptr) {
    query_positions_ = carver.take<T>(kDecodeRows);
    key_positions_ = carver.take<T>(kDecodeKeys);
  }
}

template <class T>
void DecodeSegment<T>::load_queries(const ForwardTask& task) {
  rows_ = 0;
  for (const PanelRows& panel : task.panels) {
    call_.kernel->pack_padded(panel.query, panel.first, panel.count, call_.head_dim, panel.count,
                              stride_, queries_ + rows_ * stride_);
    for (std::int64_t row = rows_; row < rows_ + panel.count; ++row) {
      kernel::ScoreTerms<T>& terms = terms_[row];
      terms.softcap = static_cast<T>(call_.softcap);
      terms.softcap_inverse = call_.softcap > 0 ? static_cast<T>(1 / call_.softcap) : T{0};
      if (bias_ != nullptr) terms.bias = bias_ + row * kDecodeKeys;
      if (query_positions_ != nullptr) {
        terms.alibi_slope = static_cast<T>(call_.alibi_slopes.at(task.batch, panel.head));
        terms.query_positions = key_positions_;
        terms.key_positions = query_positions_ + row;
      }
    }
    rows_ += panel.count;
  }
}

template <class T>
void DecodeSegment<T>::run(const ForwardTask& task, mask::Range segment,
                           const std::vector<mask::Range>& hulls,
                           const std::vector<kernel::PanelState<T>>& states) {
  partial_ = false;
  run_blocks(task, segment, hulls, /*skip_hidden_values=*/false);
  // 0 * NaN is NaN, as in ForwardWorker.
  if (partial_ && !call_.kernel->all_finite(numerator_, rows_ * stride_v_)) {
    run_blocks(task, segment, hulls, /*skip_hidden_values=*/true);
  }
  std::int64_t row = 0;
  for (std::size_t p = 0; p < task.panels.size(); ++p) {
    const std::int64_t count = task.panels[p].count;
    std::copy_n(reference_ + row, count, states[p].reference);
    std::copy_n(sum_ + row, count, states[p].sum);
    call_.kernel->transpose(numerator_ + row * stride_v_, stride_v_, count, call_.head_dim_v,
                            states[p].numerator,
                            base::round_up(count, std::int64_t{call_.kernel->lanes}));
    row += count;
  }
}

template <class T>
void DecodeSegment<T>::run_blocks(const ForwardTask& task, mask::Range segment,
                                  const std::vector<mask::Range>& hulls, bool skip_hidden_values) {
  std::fill_n(reference_, rows_, -std::numeric_limits<T>::infinity());
  std::fill_n(sum_, rows_, T{0});
  std::fill_n(numerator_, rows_ * stride_v_, T{0});
  kernel::DecodeBlock<T> b;
  b.query = queries_;
  b.key = task.key;
  b.value = task.value;
  b.end = segment.end;
  b.rows = rows_;
  b.head_dim = call_.head_dim;
  b.head_dim_v = call_.head_dim_v;
  b.stride = stride_;
  b.stride_v = stride_v_;
  b.scale = static_cast<T>(call_.scale);
  b.exponent_scale = call_.exponent_scale();
  b.terms = call_.has_terms() ? terms_ : nullptr;
  b.skip_hidden_values = skip_hidden_values;
  b.reference = reference_;
  b.sum = sum_;
  b.numerator = numerator_;
  // Blocks and tiles are counted from the start of the segment, whatever is visible: which keys are
  // summed together must not depend on the rows beside.
  const std::int64_t step = call_.kernel->key_block;
  for (std::int64_t block = segment.begin; block < segment.end; block += step) {
    const mask::Range keys{block, std::min(block + step, segment.end)};
    std::int64_t met = 0;
    for (std::size_t p = 0; p < task.panels.size(); ++p) {
      met += mask::intersect(keys, hulls[p]).empty() ? 0 : 1;
    }
    if (met == 0) continue;
    if (call_.stop.stop_requested()) {
      base::fail(ErrorCode::kCancelled, "attention: stopped on request");
    }
    for (std::int64_t first = keys.begin; first < keys.end; first += kDecodeKeys) {
      const mask::Range tile{first, std::min(first + kDecodeKeys, keys.end)};
      if (!load_terms(task, tile)) continue;
      b.first_key = tile.begin;
      b.keys = tile.size();
      b.visible = hides_ ? visible_ : nullptr;
      call_.kernel->decode_block(b);
    }
    if (call_.progress != nullptr && !skip_hidden_values) call_.progress->done += met;
  }
}

// False when no row sees a key of the tile.
template <class T>
bool DecodeSegment<T>::load_terms(const ForwardTask& task, mask::Range keys) {
  hides_ = false;
  if (!call_.mask->everything_visible() && !load_visibility(task, keys)) return false;
  if (bias_ != nullptr) load_bias(task, keys);
  if (query_positions_ != nullptr) load_positions(task, keys);
  partial_ = partial_ || hides_;
  return true;
}

template <class T>
bool DecodeSegment<T>::load_visibility(const ForwardTask& task, mask::Range keys) {
  std::uint64_t* words = visible_;
  bool seen = false;
  for (const PanelRows& panel : task.panels) {
    const mask::Coverage coverage =
        call_.mask->coverage(task.batch, panel.head, panel.range(), keys);
    const bool full = coverage == mask::Coverage::kFull;
    std::fill_n(words, panel.count, full ? ~std::uint64_t{0} : 0);
    if (coverage == mask::Coverage::kPartial) {
      std::uint64_t by_key[kDecodeKeys];
      call_.mask->fill_bits(task.batch, panel.head, {panel.first, panel.count},
                            {keys.begin, keys.size()},
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
void DecodeSegment<T>::load_bias(const ForwardTask& task, mask::Range keys) {
  if (!hides_) std::fill_n(visible_, rows_, ~std::uint64_t{0});
  std::int64_t row = 0;
  for (const PanelRows& panel : task.panels) {
    call_.kernel->pack_padded(bias_rows(call_.bias, task.batch, panel.head, keys.begin),
                              panel.first, panel.count, keys.size(), panel.count, kDecodeKeys,
                              bias_ + row * kDecodeKeys);
    row += panel.count;
  }
  for (row = 0; row < rows_; ++row) {
    for (std::int64_t k = 0; k < keys.size(); ++k) {
      T& bias = bias_[row * kDecodeKeys + k];
      if (bias != -std::numeric_limits<T>::infinity()) continue;
      bias = 0;
      visible_[row] &= ~(std::uint64_t{1} << k);
      hides_ = true;
    }
  }
}

template <class T>
void DecodeSegment<T>::load_positions(const ForwardTask& task, mask::Range keys) {
  T* positions = query_positions_;
  for (const PanelRows& panel : task.panels) {
    engine::load_positions(*call_.mask, task.batch, panel, keys, panel.count, positions,
                           key_positions_);
    positions += panel.count;
  }
}

template class DecodeSegment<float>;
template class DecodeSegment<double>;

}  // namespace longspan::engine
