// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Meets panels of gathered rows with runs of keys.
#include "engine/gathered_worker.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "base/check.h"
#include "engine/running_rows.h"

namespace longspan::engine {
template <class T>
GatheredWorker<T>::GatheredWorker(const GatheredCall<T>& call, std::byte* workspace)
    : call_(call),
      tiles_(call),
      runs_(static_cast<std::size_t>(call.runs_kept)),
      panels_(static_cast<std::size_t>(call.panels())) {
  base::Carver carver(workspace);
  carve(carver);
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
  tiles_.carve(carver);
  scores_ = carver.take<T>(format.rows(keys) * width);
  probabilities_ = carver.take<std::byte>(format.panel_bytes(keys, width));
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
void GatheredWorker<T>::begin(const GatheredForward<T>& head) {
  head_ = &head;
  tiles_.begin(head);
  for (Run& run : runs_) run.used = false;
}

template <class T>
void GatheredWorker<T>::run(const GatheredGroup& group) {
  base::check_stop(call_.stop, call_.function);
  load_queries(group);
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
    if (call_.recorder != nullptr) {
      call_.recorder->part(recorded_rows(call_, place_of(panel), panel.state, panel.width));
    }
    merge_rows(call_, *head_, panel.queries, panel.width, panel.state);
  }
  if (call_.progress != nullptr) {
    call_.progress->done += static_cast<std::int64_t>(group.queries.size());
  }
}

template <class T>
void GatheredWorker<T>::load_queries(const GatheredGroup& group) {
  if (head_->bounds != nullptr) fetch_numbers(head_->bounds, 1, group.queries);
  fetch_numbers(head_->rows.reference, 1, group.queries);
  fetch_numbers(head_->rows.sum, 1, group.queries);
  const std::span<const GatheredQueries> panels = tiles_.split(group);
  used_panels_ = static_cast<std::int64_t>(panels.size());
  for (std::int64_t p = 0; p < used_panels_; ++p) {
    Panel& panel = panels_[p];
    static_cast<GatheredQueries&>(panel) = panels[p];
    call_.kernel->pack_query(indexed(head_->query, panel.queries), 0,
                             static_cast<std::int64_t>(panel.queries.size()), call_.head_dim,
                             panel.width, panel.query);
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
        const auto softcap = static_cast<T>(call_.softcap);
        reference = softcap * std::tanh(reference * static_cast<T>(1 / call_.softcap));
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

template <class T>
typename GatheredWorker<T>::Run& GatheredWorker<T>::load(const KeyRun& keys) {
  Run& run = runs_[place_of_run(keys.tag, call_.runs_kept)];
  if (run.used && run.tag == keys.tag) return run;
  run.used = true;
  run.tag = keys.tag;
  const auto count = static_cast<std::int64_t>(keys.keys.size());
  const kernel::OperandFormat& format = call_.kernel->format;
  const RowSource rows = tiles_.key_rows(keys.keys, format.reads_rows ? run.key_memory : nullptr);
  run.key = rows.data == run.key_memory
                ? rows_in_place(format, rows, 0)
                : call_.kernel->pack_keys(rows, 0, count, call_.head_dim, run.key_memory);
  run.value = call_.kernel->pack_values(indexed(head_->value, keys.keys), 0, count,
                                        call_.head_dim_v, run.value_memory);
  tiles_.load_numbers(keys.keys, run.numbers);
  return run;
}

template <class T>
void GatheredWorker<T>::fetch_ahead(const GatheredGroup& group, std::int64_t n, std::int64_t parts,
                                    kernel::ForwardBlock<T>& b) const {
  const auto next = part_of(group.next_keys, n, parts);
  b.ahead[0] = rows_ahead(as_source(head_->rows.numerator), part_of(group.queries, n, parts),
                          call_.head_dim_v);
  b.ahead[1] = rows_ahead(head_->key, next, call_.head_dim);
  b.ahead[2] = rows_ahead(head_->value, next, call_.head_dim_v);
}

template <class T>
void GatheredWorker<T>::meet(const GatheredGroup& group, std::size_t place,
                             std::int64_t panel_number, bool skip_hidden_values) {
  const KeyRun& keys = group.runs[place];
  const Run& run = load(keys);
  Panel& panel = panels_[panel_number];
  const auto size = static_cast<std::int64_t>(keys.keys.size());
  const VisibleKeys visible = tiles_.load_visible(group, keys, run.numbers, panel);
  if (visible.words != nullptr || visible.places.size() < size) panel.partial = true;
  if (visible.places.empty()) return;
  // The keys before and behind those that are seen are not met; a recorder is told of all.
  mask::Range places = visible.places;
  places.begin -= places.begin % call_.kernel->format.depth_multiple;
  if (call_.recorder != nullptr) places = {0, size};
  const auto met = keys.keys.subspan(static_cast<std::size_t>(places.begin),
                                     static_cast<std::size_t>(places.size()));
  kernel::ForwardBlock<T> b;
  if (visible.words != nullptr) b.visible = visible.words + places.begin;
  b.terms = tiles_.load_terms(met, panel);
  fetch_ahead(group, static_cast<std::int64_t>(place) * used_panels_ + panel_number,
              static_cast<std::int64_t>(group.runs.size()) * used_panels_, b);
  b.query = panel.query;
  b.key = run.key;
  b.value = run.value;
  b.first_key = places.begin;
  b.keys = places.size();
  b.head_dim = call_.head_dim;
  b.head_dim_v = call_.head_dim_v;
  b.scale = static_cast<T>(call_.scale);
  b.exponent_scale = call_.exponent_scale();
  b.exact_reference = call_.recorder != nullptr;
  b.skip_hidden_values = skip_hidden_values;
  b.fresh = panel.fresh;
  b.bounded = head_->bounds != nullptr;
  b.scores = scores_;
  b.probabilities = probabilities_;
  b.state = panel.state;
  panel.fresh = false;
  call_.kernel->forward_block[panel.width / call_.kernel->lanes - 1](b);
  if (call_.recorder != nullptr) {
    record_tile(call_, place_of(panel), {met.begin(), met.end()}, b, panel.width);
  }
}

template <class T>
RecordedPlace GatheredWorker<T>::place_of(const Panel& panel) const {
  return {head_->batch, head_->head, head_->phase, {panel.queries.begin(), panel.queries.end()}};
}

template class GatheredWorker<float>;
template class GatheredWorker<double>;

}  // namespace longspan::engine
