// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Meets panels with runs of keys, adds gradients to gathered rows.
#include "engine/gathered_gradients.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "engine/delta.h"

namespace longspan::engine {
template <class T>
GatheredGradients<T>::GatheredGradients(const GatheredCall<T>& call, WantedGradients wanted,
                                        std::byte* workspace)
    : call_(call),
      tiles_(call),
      tile_(call, wanted, call.run_keys),
      runs_(static_cast<std::size_t>(call.runs_kept)),
      panels_(static_cast<std::size_t>(call.panels())) {
  base::Carver carver(workspace);
  carve(carver);
}

template <class T>
std::size_t GatheredGradients<T>::workspace_bytes(const GatheredCall<T>& call,
                                                  WantedGradients wanted) {
  GatheredGradients counted(call, wanted, nullptr);
  base::Carver carver;
  counted.carve(carver);
  return carver.used();
}

template <class T>
void GatheredGradients<T>::carve(base::Carver& carver) {
  tiles_.carve(carver);
  tile_.carve(carver);
  for (Run& run : runs_) {
    tile_.carve(carver, run);
    run.numbers = carver.take<std::int32_t>(call_.columns * call_.run_keys);
  }
  for (Panel& panel : panels_) tile_.carve(carver, panel);
  factors_ = carver.take<T>(call_.run_keys);
  along_ = carver.take<T>(call_.run_keys);
}

template <class T>
void GatheredGradients<T>::begin(const GatheredBackward<T>& head) {
  head_ = &head;
  tiles_.begin(head);
}

template <class T>
void GatheredGradients<T>::run(const GatheredGroup& group) {
  base::check_stop(call_.stop, call_.function);
  load_queries(group);
  for (std::size_t place = 0; place < group.runs.size(); ++place) {
    Run& run = load(group.runs[place]);
    for (std::int64_t p = 0; p < used_panels_; ++p) meet(group, place, run, p);
  }
  for (std::int64_t p = 0; p < used_panels_; ++p) add_dquery(panels_[p]);
  if (call_.progress != nullptr) {
    call_.progress->done += static_cast<std::int64_t>(group.queries.size());
  }
}

template <class T>
void GatheredGradients<T>::end() {
  for (Run& run : runs_) unload(run);
}

template <class T>
void GatheredGradients<T>::load_queries(const GatheredGroup& group) {
  fetch_numbers(static_cast<const T*>(head_->lse.data), head_->lse.row_stride, group.queries);
  fetch_numbers(head_->delta, 1, group.queries);
  const std::span<const GatheredQueries> panels = tiles_.split(group);
  used_panels_ = static_cast<std::int64_t>(panels.size());
  for (std::int64_t p = 0; p < used_panels_; ++p) {
    Panel& panel = panels_[p];
    panel.place = panels[p];
    const std::span<const std::int32_t> index = panel.place.queries;
    const auto count = static_cast<std::int64_t>(index.size());
    tile_.begin(panel, count, [&](std::int64_t lane) {
      const std::int64_t n = index[lane];
      return typename BackwardTile<T>::RowNumbers{number_at(head_->lse, n), head_->delta[n]};
    });
    tile_.load_query(panel, indexed(head_->query, index), 0);
    tile_.load_doutput(panel, indexed(head_->doutput, index), 0);
  }
}

template <class T>
typename GatheredGradients<T>::Run& GatheredGradients<T>::load(const KeyRun& keys) {
  Run& run = runs_[place_of_run(keys.tag, call_.runs_kept)];
  if (run.used && run.tag == keys.tag) return run;
  unload(run);
  run.used = true;
  run.tag = keys.tag;
  run.index = keys.keys;
  const auto count = static_cast<std::int64_t>(keys.keys.size());
  tile_.load_keys(run, tiles_.key_rows(keys.keys, tile_.place_of_keys(run)), 0, count);
  tile_.load_values(run, indexed(head_->value, keys.keys), 0, count);
  tiles_.load_numbers(keys.keys, run.numbers);
  return run;
}

template <class T>
void GatheredGradients<T>::meet(const GatheredGroup& group, std::size_t place, Run& run,
                                std::int64_t panel_number) {
  const KeyRun& keys = group.runs[place];
  Panel& panel = panels_[panel_number];
  kernel::BackwardBlock<T> b;
  const VisibleKeys visible = tiles_.load_visible(group, keys, run.numbers, panel.place);
  if (visible.places.empty()) return;
  b.visible = visible.words;
  b.terms = tiles_.load_terms(keys.keys, panel.place);
  fetch_ahead(group, static_cast<std::int64_t>(place) * used_panels_ + panel_number,
              static_cast<std::int64_t>(group.runs.size()) * used_panels_, b);
  run.met |= tile_.run(panel, run, b);
}

template <class T>
void GatheredGradients<T>::fetch_ahead(const GatheredGroup& group, std::int64_t n,
                                       std::int64_t parts, kernel::BackwardBlock<T>& b) const {
  const std::int64_t half = base::ceil_div(parts, 2);  // there are more rows than places for them
  if (n < half) {
    b.ahead[0] =
        rows_ahead(as_source(head_->dquery), part_of(group.queries, n, half), call_.head_dim);
    b.ahead[1] = rows_ahead(head_->key, part_of(group.next_keys, n, half), call_.head_dim);
    return;
  }
  const auto next = part_of(group.next_keys, n - half, parts - half);
  b.ahead[0] = rows_ahead(head_->value, next, call_.head_dim_v);
  if (head_->key_factors != nullptr) {
    b.ahead[2] = rows_ahead(head_->doutput, next, call_.head_dim_v);
  }
}

template <class T>
void GatheredGradients<T>::add_dquery(const Panel& panel) {
  if (head_->dquery.data == nullptr) return;
  std::array<T, kernel::kMaxWidth> scales, ones;
  scales.fill(static_cast<T>(call_.scale));
  ones.fill(T{1});
  call_.kernel->add_panel(indexed(head_->dquery, panel.place.queries), 0, panel.count,
                          call_.head_dim, panel.width, panel.dquery_lanes, scales.data(),
                          ones.data());
}

template <class T>
void GatheredGradients<T>::unload(Run& run) {
  if (run.used && run.met) {
    const auto add = [&](const RowTarget& target, std::int64_t dim, const T* rows,
                         std::int64_t stride) {
      call_.kernel->add_rows(indexed(target, run.index),
                             static_cast<std::int64_t>(run.index.size()), dim, rows, stride,
                             factors_);
    };
    if (head_->dvalue.data != nullptr) {
      std::fill_n(factors_, run.index.size(), T{1});
      add(head_->dvalue, call_.head_dim_v, run.dvalue, tile_.stride_v());
    }
    if (head_->dkey.data != nullptr) {
      std::fill_n(factors_, run.index.size(), static_cast<T>(call_.scale));
      add(head_->dkey, call_.head_dim, run.dkey, tile_.stride());
    } else if (head_->key_factors != nullptr && head_->dquery.data != nullptr) {
      undo_normalization(run);
      add(head_->dquery, call_.head_dim, run.dkey, tile_.stride());
    }
  }
  run.used = run.met = false;
}

// A key is f row: drow = f (dkey - f^2 (row . dkey) row), the second part where f depends on the
// row. What nobody saw adds nothing, whatever the row holds.
template <class T>
void GatheredGradients<T>::undo_normalization(const Run& run) {
  const std::int64_t dim = call_.head_dim;
  for (std::size_t n = 0; n < run.index.size(); ++n) {
    const T* dkey = run.dkey + static_cast<std::int64_t>(n) * tile_.stride();
    const bool unseen = !run.finite && std::all_of(dkey, dkey + dim, [](T x) { return x == 0; });
    const T factor = unseen ? T{0} : head_->key_factors[run.index[n]];
    const bool bends = static_cast<double>(factor) < head_->constant_factor;
    factors_[n] = static_cast<T>(call_.scale) * factor;
    along_[n] = bends ? factor * factor : T{0};
  }
  call_.kernel->take_along(indexed(head_->key, run.index),
                           static_cast<std::int64_t>(run.index.size()), dim, along_, run.dkey,
                           tile_.stride());
}

template class GatheredGradients<float>;
template class GatheredGradients<double>;

}  // namespace longspan::engine
