// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The forward pass of one task. Key blocks outside, panels inside: keys and values are read from
// memory once per block and from the cache for all panels but the first.
#include "engine/forward_worker.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "engine/finish_lane.h"

namespace longspan::engine {
namespace {

constexpr std::int64_t kPanelsThatPayForPacking = 4;

// Keys or values for the kernel: packed where they must be, or where it pays.
template <class Pack>
kernel::OperandRows load_keys(const RowSource& source, mask::Range keys, std::int64_t dim,
                              const kernel::OperandFormat& format, bool pack, Pack pack_rows,
                              std::byte* scratch) {
  if (!pack && !needs_packing(format, source)) return rows_in_place(format, source, keys.begin);
  return pack_rows(source, keys.begin, keys.size(), dim, scratch);
}

}  // namespace

template <class T>
ForwardWorker<T>::ForwardWorker(const ForwardCall<T>& call, std::int64_t panels,
                                std::byte* workspace)
    : call_(call),
      panels_(panels),
      panel_width_(call.panel_width()),
      terms_(call, call.kernel->key_block, panel_width_),
      decode_(call, panels),
      hulls_(static_cast<std::size_t>(panels)),
      fresh_(static_cast<std::size_t>(panels)),
      partial_(static_cast<std::size_t>(panels)) {
  base::Carver carver(workspace);
  carve(carver);
  std::byte* states = carver.take<std::byte>(0);
  total_ = carve_states(states);
  part_ = carve_states(states + state_bytes(call, panels));
}

template <class T>
std::size_t ForwardWorker<T>::workspace_bytes(const ForwardCall<T>& call, std::int64_t panels) {
  ForwardWorker counted(call, panels, nullptr);
  base::Carver carver;
  counted.carve(carver);
  return carver.used() + 2 * state_bytes(call, panels);
}

template <class T>
std::size_t ForwardWorker<T>::state_bytes(const ForwardCall<T>& call, std::int64_t panels) {
  return static_cast<std::size_t>(panels) *
         base::round_up(
             static_cast<std::size_t>(call.panel_width() * (call.head_dim_v + 2)) * sizeof(T),
             base::kAlignment);
}

template <class T>
void ForwardWorker<T>::carve(base::Carver& carver) {
  if (call_.decodes()) return decode_.carve(carver);
  const std::int64_t block = call_.kernel->key_block;
  const kernel::OperandFormat& format = call_.kernel->format;
  query_bytes_ = static_cast<std::int64_t>(
      base::round_up(static_cast<std::size_t>(format.panel_bytes(call_.head_dim, panel_width_)),
                     base::kAlignment));
  queries_ = carver.take<std::byte>(panels_ * query_bytes_);
  scores_ = carver.take<T>(format.rows(block) * panel_width_);
  probabilities_ = carver.take<std::byte>(format.panel_bytes(block, panel_width_));
  if (call_.packs_keys) {
    keys_ = carver.take<std::byte>(format.rows_bytes(block, call_.head_dim));
    values_ = carver.take<std::byte>(format.rows_bytes(call_.head_dim_v, block));
  }
  terms_.carve(carver);
}

template <class T>
std::vector<kernel::PanelState<T>> ForwardWorker<T>::carve_states(std::byte* memory) const {
  std::vector<State> states(static_cast<std::size_t>(panels_));
  if (memory == nullptr) return states;
  const std::size_t bytes = state_bytes(call_, 1);
  for (State& state : states) {
    state.reference = reinterpret_cast<T*>(memory);
    state.sum = state.reference + panel_width_;
    state.numerator = state.sum + panel_width_;
    memory += bytes;
  }
  return states;
}

template <class T>
std::int64_t ForwardWorker<T>::width_of(const PanelRows& rows) const noexcept {
  const std::int64_t lanes = call_.kernel->lanes;
  return (rows.count + lanes - 1) / lanes * lanes;
}

template <class T>
void ForwardWorker<T>::load_queries(const ForwardTask& task) {
  for (std::size_t p = 0; p < task.panels.size(); ++p) {
    const PanelRows& rows = task.panels[p];
    hulls_[p] = call_.mask->visible_keys(task.batch, rows.range());
    if (call_.decodes()) continue;
    call_.kernel->pack_query(rows.query, rows.first, rows.count, call_.head_dim, width_of(rows),
                             queries_ + static_cast<std::int64_t>(p) * query_bytes_);
  }
  if (call_.decodes()) decode_.load_queries(task);
}

template <class T>
void ForwardWorker<T>::clear(const ForwardTask& task, std::int64_t panel,
                             const State& state) const {
  const std::int64_t width = width_of(task.panels[panel]);
  std::fill_n(state.reference, width, -std::numeric_limits<T>::infinity());
  std::fill_n(state.sum, width, T{0});
  std::fill_n(state.numerator, width * call_.head_dim_v, T{0});
}

template <class T>
void ForwardWorker<T>::run(const ForwardTask& task) {
  load_queries(task);
  bool empty = true;
  for (std::int64_t s = 0; s < call_.segments.count(); ++s) {
    // The first segment that holds a visible key needs no merge: merging with the identity changes
    // no bit.
    const std::vector<State>& part = empty ? total_ : part_;
    if (!run_segment(task, call_.segments.at(s), part)) continue;
    record_rows(task, s, part, &Recorder::part);
    if (!empty) merge_into(task, total_, part_);
    record_rows(task, s, total_, &Recorder::total);
    empty = false;
  }
  if (empty) {
    for (std::size_t p = 0; p < task.panels.size(); ++p) {
      clear(task, static_cast<std::int64_t>(p), total_[p]);
    }
  }
  finish(task, total_);
}

template <class T>
void ForwardWorker<T>::summarize(const ForwardTask& task, std::int64_t segment, std::byte* states) {
  load_queries(task);
  const std::vector<State> into = carve_states(states);
  if (!run_segment(task, call_.segments.at(segment), into)) {
    for (std::size_t p = 0; p < task.panels.size(); ++p) {
      clear(task, static_cast<std::int64_t>(p), into[p]);
    }
  }
}

template <class T>
void ForwardWorker<T>::merge(const ForwardTask& task, std::byte* states) {
  const std::size_t stride = state_bytes(call_, panels_);
  const std::vector<State> total = carve_states(states);
  for (std::int64_t s = 1; s < call_.segments.count(); ++s) {
    merge_into(task, total, carve_states(states + static_cast<std::size_t>(s) * stride));
  }
  finish(task, total);
}

// False, and nothing written, when no panel sees a key of the segment.
template <class T>
bool ForwardWorker<T>::run_segment(const ForwardTask& task, mask::Range segment,
                                   const std::vector<State>& states) {
  const auto panels = static_cast<std::int64_t>(task.panels.size());
  const bool visible = std::any_of(hulls_.begin(), hulls_.begin() + panels, [&](mask::Range hull) {
    return !mask::intersect(hull, segment).empty();
  });
  if (!visible) return false;
  if (call_.decodes()) {
    for (std::int64_t p = 0; p < panels; ++p) clear(task, p, states[p]);
    decode_.run(task, segment, hulls_, states);
    return true;
  }
  std::fill(partial_.begin(), partial_.end(), std::uint8_t{0});
  run_blocks(task, segment, 0, panels, states, /*skip_hidden_values=*/false);

  // 0 * NaN is NaN: where a hidden value holds NaN or inf, the panel is done again without touching
  // hidden values.
  for (std::int64_t p = 0; p < panels; ++p) {
    const std::int64_t size = width_of(task.panels[p]) * call_.head_dim_v;
    if (partial_[p] != 0 && !call_.kernel->all_finite(states[p].numerator, size)) {
      run_blocks(task, segment, p, p + 1, states, /*skip_hidden_values=*/true);
    }
  }
  return true;
}

template <class T>
void ForwardWorker<T>::run_blocks(const ForwardTask& task, mask::Range segment,
                                  std::int64_t first_panel, std::int64_t last_panel,
                                  const std::vector<State>& states, bool skip_hidden_values) {
  mask::Range hull{segment.end, segment.begin};
  for (std::int64_t p = first_panel; p < last_panel; ++p) {
    clear(task, p, states[p]);
    fresh_[p] = 1;
    const mask::Range seen = mask::intersect(hulls_[p], segment);
    if (seen.empty()) continue;
    hull = {std::min(hull.begin, seen.begin), std::max(hull.end, seen.end)};
  }
  const bool pack = call_.packs_keys && last_panel - first_panel >= kPanelsThatPayForPacking;
  const std::int64_t step = call_.kernel->key_block;
  const std::int64_t first = segment.begin + (hull.begin - segment.begin) / step * step;
  for (std::int64_t begin = first; begin < hull.end; begin += step) {
    base::check_stop(call_.stop, call_.function);
    // Sums take depth_multiple keys at a time, counted from the start of the block: who shares a
    // task must not decide which keys go together.
    const auto whole = [&](mask::Range keys) {
      const std::int64_t multiple = call_.kernel->format.depth_multiple;
      const std::int64_t end = begin + call_.kernel->format.depth(keys.end - begin);
      return mask::Range{begin + (keys.begin - begin) / multiple * multiple,
                         std::min(end, segment.end)};
    };
    const mask::Range keys = whole(mask::intersect({begin, begin + step}, hull));
    const kernel::OperandRows key = load_keys(task.key, keys, call_.head_dim, call_.kernel->format,
                                              pack, call_.kernel->pack_keys, keys_);
    const kernel::OperandRows value =
        load_keys(task.value, keys, call_.head_dim_v, call_.kernel->format, pack,
                  call_.kernel->pack_values, values_);
    std::int64_t met = 0;
    for (std::int64_t p = first_panel; p < last_panel; ++p) {
      const mask::Range seen = mask::intersect(keys, hulls_[p]);
      if (seen.empty()) continue;
      const mask::Range mine = whole(seen);
      const PanelRows* next = p + 1 < last_panel ? &task.panels[p + 1] : nullptr;
      run_block(task, p, {mine, key, value, mine.begin - keys.begin, skip_hidden_values, next},
                states[p]);
      ++met;
    }
    if (call_.progress != nullptr && !skip_hidden_values) call_.progress->done += met;
  }
}

template <class T>
void ForwardWorker<T>::run_block(const ForwardTask& task, std::int64_t panel, const Block& block,
                                 const State& state) {
  const PanelRows& rows = task.panels[panel];
  const std::int64_t width = width_of(rows);
  kernel::ForwardBlock<T> b;
  if (!terms_.load(task.batch, rows, block.keys, width)) return;
  b.visible = terms_.visible();
  b.kept = terms_.kept();
  b.terms = terms_.terms();
  if (block.next != nullptr) terms_.ahead(task.batch, *block.next, block.keys, b.ahead);
  if (b.visible != nullptr) partial_[panel] = 1;
  b.query = queries_ + panel * query_bytes_;
  b.key = block.key;
  b.value = block.value;
  b.first_key = block.first;
  b.keys = block.keys.size();
  b.head_dim = call_.head_dim;
  b.head_dim_v = call_.head_dim_v;
  b.scale = static_cast<T>(call_.scale);
  b.exponent_scale = call_.exponent_scale();
  b.exact_reference = call_.exact_reference;
  b.skip_hidden_values = block.skip_hidden_values;
  b.fresh = fresh_[panel] != 0;
  b.scores = scores_;
  b.probabilities = probabilities_;
  b.state = state;
  fresh_[panel] = 0;
  call_.kernel->forward_block[width / call_.kernel->lanes - 1](b);
  if (call_.recorder != nullptr) {
    const std::int64_t segment = block.keys.begin / call_.segments.length;
    record_tile(call_, {task.batch, rows.head, segment, consecutive(rows.range())},
                consecutive(block.keys), b, width);
  }
}

template <class T>
void ForwardWorker<T>::record_rows(const ForwardTask& task, std::int64_t segment,
                                   const std::vector<State>& states,
                                   void (Recorder::*tell)(const RecordedRows&)) const {
  if (call_.recorder == nullptr) return;
  for (std::size_t p = 0; p < task.panels.size(); ++p) {
    const PanelRows& rows = task.panels[p];
    (call_.recorder->*tell)(
        recorded_rows(call_, {task.batch, rows.head, segment, consecutive(rows.range())}, states[p],
                      width_of(rows)));
  }
}

template <class T>
void ForwardWorker<T>::merge_into(const ForwardTask& task, const std::vector<State>& into,
                                  const std::vector<State>& part) const {
  for (std::size_t p = 0; p < task.panels.size(); ++p) {
    call_.kernel->merge_state(into[p], part[p], width_of(task.panels[p]), call_.head_dim_v);
  }
}

template <class T>
void ForwardWorker<T>::finish(const ForwardTask& task, const std::vector<State>& states) const {
  const double unit = call_.reference_unit();
  for (std::size_t p = 0; p < task.panels.size(); ++p) {
    const PanelRows& rows = task.panels[p];
    const bool has_sink = call_.sinks.data != nullptr;
    const double sink = has_sink ? call_.sinks.at(task.batch, rows.head) : 0.0;
    T factors[kernel::kMaxWidth];
    for (std::int64_t lane = 0; lane < rows.count; ++lane) {
      factors[lane] = finish_lane(rows, states[p], lane, width_of(rows), call_.head_dim_v, unit,
                                  call_.dropout.factor, has_sink ? &sink : nullptr);
    }
    call_.kernel->write_rows(rows.output, rows.first, rows.count, call_.head_dim_v, width_of(rows),
                             states[p].numerator, factors);
  }
}

template class ForwardWorker<float>;
template class ForwardWorker<double>;

}  // namespace longspan::engine
