// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Gathers rows, meets panels with runs of keys.
#include "engine/gathered_worker.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "base/check.h"
#include "base/visit_dtype.h"
#include "engine/running_rows.h"

namespace longspan::engine {
namespace {

constexpr std::int64_t kAhead = 8;  // rows
constexpr std::int64_t kLine = 64;
constexpr mask::Range kIndices{0, std::int64_t{1} << 31};

// Arrays by lane, readable a whole vector past the last.
std::int64_t padded_lanes(std::int64_t queries) {
  return base::round_up(queries, kernel::kIntervalLanes) + kernel::kIntervalLanes;
}

template <class E>
void gather_rows(const RowSource& source, std::span<const std::int32_t> index, std::int64_t dim,
                 E* out) {
  const auto* data = static_cast<const E*>(source.data);
  const std::int64_t bytes = dim * std::int64_t{sizeof(E)};
  for (std::size_t n = 0; n < index.size(); ++n, out += dim) {
    const E* row = data + index[n] * source.row_stride;
    if (source.dim_stride != 1) {
      for (std::int64_t d = 0; d < dim; ++d) out[d] = row[d * source.dim_stride];
      continue;
    }
    if (n + kAhead < index.size()) {
      const auto* later =
          reinterpret_cast<const char*>(data + index[n + kAhead] * source.row_stride);
      for (std::int64_t at = 0; at < bytes; at += kLine) __builtin_prefetch(later + at);
    }
    std::memcpy(out, row, static_cast<std::size_t>(bytes));
  }
}

}  // namespace

template <class T>
GatheredWorker<T>::GatheredWorker(const GatheredCall<T>& call, std::byte* workspace)
    : call_(call),
      runs_(static_cast<std::size_t>(call.runs_kept)),
      panels_(static_cast<std::size_t>(call.panels())) {
  base::Carver carver(workspace);
  carve(carver);
  terms_.softcap = static_cast<T>(call.softcap);
  if (call.softcap > 0) terms_.softcap_inverse = static_cast<T>(1 / call.softcap);
  terms_.query_positions = query_positions_;
  terms_.key_positions = key_positions_;
}

template <class T>
std::size_t GatheredWorker<T>::workspace_bytes(const GatheredCall<T>& call) {
  GatheredWorker counted(call, nullptr);
  base::Carver carver;
  counted.carve(carver);
  return carver.used();
}

template <class T>
void GatheredWorker<T>::carve(base::Carver& carver) {
  const kernel::OperandFormat& format = call_.kernel->format;
  const std::int64_t width = call_.width(), keys = call_.run_keys;
  const std::int64_t widest = std::max(call_.head_dim, call_.head_dim_v);
  staged_ = carver.take<std::byte>(std::max(call_.rows_per_panel, keys) * widest *
                                   static_cast<std::int64_t>(size_of(call_.input)));
  if (!format.reads_rows) {
    normalized_ = carver.take<std::byte>(keys * call_.head_dim * format.value_bytes());
  }
  scores_ = carver.take<T>(format.rows(keys) * width);
  probabilities_ = carver.take<std::byte>(format.panel_bytes(keys, width));
  words_ = carver.take<std::uint64_t>(keys);
  rows_ = carver.take<T>(width * call_.head_dim_v);
  if (call_.alibi_slopes.data != nullptr) {
    query_positions_ = carver.take<T>(width);
    key_positions_ = carver.take<T>(keys);
  }
  for (Lanes* lanes : {&band_, &own_}) {
    lanes->first = carver.take<std::int32_t>(padded_lanes(call_.group_queries));
    lanes->count = carver.take<std::int32_t>(padded_lanes(call_.group_queries));
  }
  for (Run& run : runs_) {
    run.key_memory = carver.take<std::byte>(format.rows_bytes(keys, call_.head_dim));
    run.value_memory = carver.take<std::byte>(format.rows_bytes(call_.head_dim_v, keys));
    run.numbers = carver.take<std::int32_t>(call_.columns * keys);
  }
  for (Panel& panel : panels_) {
    panel.query = carver.take<std::byte>(format.panel_bytes(call_.head_dim, width));
    panel.state.reference = carver.take<T>(width);
    panel.state.sum = carver.take<T>(width);
    panel.state.numerator = carver.take<T>(width * call_.head_dim_v);
  }
}

template <class T>
void GatheredWorker<T>::begin(const GatheredHead<T>& head) {
  head_ = &head;
  for (Run& run : runs_) run.used = false;
}

template <class T>
void GatheredWorker<T>::run(const GatheredGroup& group) {
  if (call_.stop.stop_requested()) {
    base::fail(ErrorCode::kCancelled, "lsh_attention: stopped on request");
  }
  load_queries(group);
  load_mask();
  for (std::size_t r = 0; r < group.runs.size(); ++r) {
    for (std::int64_t p = 0; p < used_panels_; ++p) meet(group, r, p, /*skip_hidden_values=*/false);
  }
  for (std::int64_t p = 0; p < used_panels_; ++p) {
    Panel& panel = panels_[p];
    // 0 * NaN is NaN: see ForwardWorker::run_segment.
    const std::int64_t size = panel.width * call_.head_dim_v;
    if (panel.partial && !call_.kernel->all_finite(panel.state.numerator, size)) {
      clear(panel);
      for (std::size_t r = 0; r < group.runs.size(); ++r) {
        meet(group, r, p, /*skip_hidden_values=*/true);
      }
    }
    merge_rows(call_, *head_, panel.queries, panel.width, panel.state, rows_);
  }
  if (call_.progress != nullptr) call_.progress->done += used_panels_;
}

template <class T>
void GatheredWorker<T>::load_queries(const GatheredGroup& group) {
  const auto count = static_cast<std::int64_t>(group.queries.size());
  used_panels_ = base::ceil_div(count, call_.rows_per_panel);
  for (std::int64_t p = 0; p < used_panels_; ++p) {
    Panel& panel = panels_[p];
    panel.first = p * call_.rows_per_panel;
    const std::int64_t rows = std::min(call_.rows_per_panel, count - panel.first);
    panel.queries = group.queries.subspan(static_cast<std::size_t>(panel.first),
                                          static_cast<std::size_t>(rows));
    panel.width = base::round_up(rows, std::int64_t{call_.kernel->lanes});
    const RowSource dense = gather(head_->query, panel.queries, call_.head_dim);
    call_.kernel->pack_query(dense, 0, rows, call_.head_dim, panel.width, panel.query);
    clear(panel);
  }
}

// Scores that pass through a softcap keep their order, and ALiBi only lowers them.
template <class T>
void GatheredWorker<T>::clear(Panel& panel) const {
  panel.fresh = head_->bounds == nullptr;
  panel.partial = false;
  const T none = -std::numeric_limits<T>::infinity();
  for (std::int64_t lane = 0; lane < panel.width; ++lane) {
    T reference = T{0};
    if (panel.fresh) {
      reference = none;
    } else if (lane < static_cast<std::int64_t>(panel.queries.size())) {
      reference = head_->bounds[panel.queries[lane]];
      if (call_.softcap > 0) {
        reference = terms_.softcap * std::tanh(reference * terms_.softcap_inverse);
      }
      reference *= static_cast<T>(std::numbers::log2e);
      // As far below the bound as the sum of a run of keys that reach it stays in the safe range:
      // exponents near 0 are rounded less.
      reference -= std::min(reference / 2, T{5});
      if (!std::isfinite(reference)) reference = none;
    }
    panel.state.reference[lane] = reference;
  }
  std::fill_n(panel.state.sum, panel.width, T{0});
  std::fill_n(panel.state.numerator, panel.width * call_.head_dim_v, T{0});
}

// Intervals of keys that the mask leaves to each query. A query's own index is cut off where it
// stands at an end, as under a causal mask; else it is a test of its own.
template <class T>
void GatheredWorker<T>::load_mask() {
  std::array<mask::Range, kernel::kMaxWidth> seen;
  const bool masked = !head_->mask->everything_visible();
  band_.needed = masked;
  own_.needed = head_->hides_own_index && !masked;
  for (std::int64_t p = 0; p < used_panels_; ++p) {
    const Panel& panel = panels_[p];
    const auto count = static_cast<std::int64_t>(panel.queries.size());
    if (masked) {
      head_->mask->keys_of_queries(head_->batch, {0, count, panel.queries.data()}, seen);
    }
    for (std::int64_t lane = 0; lane < count; ++lane) {
      const std::int64_t own = panel.queries[lane];
      if (masked) {
        mask::Range keys = mask::intersect(seen[lane], kIndices);
        if (head_->hides_own_index && keys.contains(own)) {
          if (own == keys.end - 1) {
            --keys.end;
          } else if (own == keys.begin) {
            ++keys.begin;
          } else {
            own_.needed = true;
          }
        }
        band_.first[panel.first + lane] = kernel::interval_first(keys.begin);
        band_.count[panel.first + lane] = kernel::interval_count(keys.size());
      }
      own_.first[panel.first + lane] = kernel::interval_first(own);
      own_.count[panel.first + lane] = kernel::interval_count(1);
    }
  }
}

template <class T>
RowSource GatheredWorker<T>::gather(const RowSource& source, std::span<const std::int32_t> index,
                                    std::int64_t dim) {
  base::visit_floating(source.dtype, [&](auto tag) {
    using E = decltype(tag);
    gather_rows(source, index, dim, reinterpret_cast<E*>(staged_));
  });
  return {staged_, source.dtype, dim, 1};
}

// Rows times their factors, in the kernel's numbers, rounded once.
template <class T>
RowSource GatheredWorker<T>::normalize(const RowSource& rows, std::span<const std::int32_t> index,
                                       std::byte* into) {
  const DType format = call_.kernel->format.dtype;
  const std::int64_t dim = call_.head_dim;
  const auto scale = [&](auto from, auto to) {
    using From = decltype(from);
    using To = decltype(to);
    const auto* row = static_cast<const From*>(rows.data);
    auto* out = reinterpret_cast<To*>(into);
    for (const std::int32_t n : index) {
      const T factor = head_->key_factors[n];
      for (std::int64_t d = 0; d < dim; ++d) {
        out[d] = base::from_float<To>(static_cast<T>(base::to_float(row[d])) * factor);
      }
      row += dim;
      out += dim;
    }
  };
  base::visit_floating(rows.dtype, [&](auto from) {
    if (format == DType::kBFloat16) {
      scale(from, base::BFloat16{});
    } else {
      scale(from, T{});
    }
  });
  return {into, format, dim, 1};
}

template <class T>
typename GatheredWorker<T>::Run& GatheredWorker<T>::load(const KeyRun& keys) {
  const auto place =
      static_cast<std::size_t>(keys.tag % call_.runs_kept + call_.runs_kept) % runs_.size();
  Run& run = runs_[place];
  if (run.used && run.tag == keys.tag) return run;
  run.used = true;
  run.tag = keys.tag;
  const auto count = static_cast<std::int64_t>(keys.keys.size());
  const kernel::OperandFormat& format = call_.kernel->format;
  RowSource dense = gather(head_->key, keys.keys, call_.head_dim);
  if (head_->key_factors != nullptr) {
    dense = normalize(dense, keys.keys, format.reads_rows ? run.key_memory : normalized_);
  }
  run.key = dense.data == run.key_memory
                ? rows_in_place(format, dense, 0)
                : call_.kernel->pack_keys(dense, 0, count, call_.head_dim, run.key_memory);
  dense = gather(head_->value, keys.keys, call_.head_dim_v);
  run.value = call_.kernel->pack_values(dense, 0, count, call_.head_dim_v, run.value_memory);
  const KeyNumbers& numbers = head_->numbers;
  for (std::int64_t k = 0; k < count; ++k) {
    const std::int32_t* of_key = numbers.data + keys.keys[k] * numbers.stride;
    for (std::int64_t c = 0; c < numbers.columns; ++c) {
      run.numbers[c * call_.run_keys + k] = of_key[c];
    }
  }
  return run;
}

template <class T>
bool GatheredWorker<T>::load_visible(const GatheredGroup& group, const KeyRun& keys, const Run& run,
                                     const Panel& panel, const std::uint64_t*& words) {
  tests_.clear();
  const auto add = [&](const std::int32_t* numbers, const std::int32_t* first,
                       const std::int32_t* count, bool hides_inside) {
    tests_.push_back({numbers, first + panel.first, count + panel.first, hides_inside});
  };
  if (band_.needed) add(keys.keys.data(), band_.first, band_.count, false);
  if (own_.needed) add(keys.keys.data(), own_.first, own_.count, true);
  for (const std::span<const PairTest> tests : {group.tests, keys.further_tests}) {
    for (const PairTest& test : tests) {
      const std::int32_t* numbers = test.column == PairTest::kKeyIndex
                                        ? keys.keys.data()
                                        : run.numbers + test.column * call_.run_keys;
      add(numbers, test.first, test.count, true);
    }
  }
  words = nullptr;
  const mask::BoundMask& mask = *head_->mask;
  if (tests_.empty() && !mask.has_other_terms()) return true;
  const auto count = static_cast<std::int64_t>(keys.keys.size());
  const auto lanes = static_cast<std::int64_t>(panel.queries.size());
  call_.kernel->fill_intervals(
      {tests_.data(), static_cast<std::int64_t>(tests_.size()), count, lanes}, words_);
  if (mask.has_other_terms()) {
    mask.clear_hidden(head_->batch, head_->head, {0, lanes, panel.queries.data()},
                      {0, count, keys.keys.data()}, {words_, static_cast<std::size_t>(count)});
  }
  words = words_;
  std::uint64_t seen = 0;
  for (std::int64_t k = 0; k < count; ++k) seen |= words_[k];
  return seen != 0;
}

// Relative to the position of the first key.
template <class T>
void GatheredWorker<T>::load_positions(const KeyRun& keys, const Panel& panel) {
  const mask::BoundMask& mask = *head_->mask;
  const std::int64_t origin = mask.key_position(keys.keys.front());
  for (std::size_t k = 0; k < keys.keys.size(); ++k) {
    key_positions_[k] = static_cast<T>(mask.key_position(keys.keys[k]) - origin);
  }
  std::fill_n(query_positions_, panel.width, T{0});
  for (std::size_t lane = 0; lane < panel.queries.size(); ++lane) {
    query_positions_[lane] =
        static_cast<T>(mask.query_position(head_->batch, panel.queries[lane]) - origin);
  }
}

template <class T>
void GatheredWorker<T>::fetch_ahead(const GatheredGroup& group, std::int64_t n, std::int64_t parts,
                                    kernel::ForwardBlock<T>& b) const {
  const auto part = [&](std::span<const std::int32_t> index) {
    const auto size = static_cast<std::int64_t>(index.size());
    const std::int64_t begin = size * n / parts, end = size * (n + 1) / parts;
    return index.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  };
  const auto next = part(group.next_keys);
  b.ahead[0] = rows_ahead(as_source(head_->rows.numerator), part(group.queries), call_.head_dim_v);
  b.ahead[1] = rows_ahead(head_->key, next, call_.head_dim);
  b.ahead[2] = rows_ahead(head_->value, next, call_.head_dim_v);
}

template <class T>
void GatheredWorker<T>::meet(const GatheredGroup& group, std::size_t place,
                             std::int64_t panel_number, bool skip_hidden_values) {
  const KeyRun& keys = group.runs[place];
  const Run& run = load(keys);
  Panel& panel = panels_[panel_number];
  kernel::ForwardBlock<T> b;
  if (!load_visible(group, keys, run, panel, b.visible)) {
    panel.partial = true;
    return;
  }
  if (b.visible != nullptr) panel.partial = true;
  if (call_.has_terms()) {
    if (call_.alibi_slopes.data != nullptr) {
      load_positions(keys, panel);
      terms_.alibi_slope = static_cast<T>(call_.alibi_slopes.at(head_->batch, head_->head));
    }
    b.terms = &terms_;
  }
  fetch_ahead(group, static_cast<std::int64_t>(place) * used_panels_ + panel_number,
              static_cast<std::int64_t>(group.runs.size()) * used_panels_, b);
  b.query = panel.query;
  b.key = run.key;
  b.value = run.value;
  b.keys = static_cast<std::int64_t>(keys.keys.size());
  b.head_dim = call_.head_dim;
  b.head_dim_v = call_.head_dim_v;
  b.scale = static_cast<T>(call_.scale);
  b.exponent_scale = call_.exponent_scale();
  b.skip_hidden_values = skip_hidden_values;
  b.fresh = panel.fresh;
  b.bounded = head_->bounds != nullptr;
  b.scores = scores_;
  b.probabilities = probabilities_;
  b.state = panel.state;
  panel.fresh = false;
  call_.kernel->forward_block[panel.width / call_.kernel->lanes - 1](b);
}

template class GatheredWorker<float>;
template class GatheredWorker<double>;

}  // namespace longspan::engine
