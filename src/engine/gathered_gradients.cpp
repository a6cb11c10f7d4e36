// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Meets panels with runs of keys, adds gradients to gathered rows.
#include "engine/gathered_gradients.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/visit_dtype.h"
#include "engine/delta.h"

namespace longspan::engine {
namespace {

// to[d] += factor * row[d], components dim_stride apart.
template <class T>
void add_row(T* to, std::int64_t dim_stride, std::int64_t dim, const T* row, T factor) {
  if (dim_stride == 1) {
    for (std::int64_t d = 0; d < dim; ++d) to[d] += factor * row[d];
  } else {
    for (std::int64_t d = 0; d < dim; ++d) to[d * dim_stride] += factor * row[d];
  }
}

// Adds to the rows of a target that an index names: add(row n of the target, n).
template <class T, class Add>
void for_target_rows(const RowTarget& target, std::span<const std::int32_t> index, std::int64_t dim,
                     const Add& add) {
  const kernel::RowsAhead ahead = rows_ahead(as_source(target), index, dim);
  for (std::size_t n = 0; n < index.size(); ++n) {
    kernel::fetch_row(ahead, static_cast<std::int64_t>(n) + kernel::kFetchDistance);
    add(static_cast<T*>(target.data) + index[n] * target.row_stride, n);
  }
}

// target[index[n]] += factor * rows[n].
template <class T>
void add_rows(const RowTarget& target, std::span<const std::int32_t> index, std::int64_t dim,
              const T* rows, std::int64_t stride, T factor) {
  for_target_rows<T>(target, index, dim, [&](T* to, std::size_t n) {
    add_row(to, target.dim_stride, dim, rows + static_cast<std::int64_t>(n) * stride, factor);
  });
}

}  // namespace

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
    if (head_->dvalue.data != nullptr) {
      add_rows(head_->dvalue, run.index, call_.head_dim_v, run.dvalue, tile_.stride_v(), T{1});
    }
    if (head_->dkey.data != nullptr) {
      add_rows(head_->dkey, run.index, call_.head_dim, run.dkey, tile_.stride(),
               static_cast<T>(call_.scale));
    } else if (head_->key_factors != nullptr && head_->dquery.data != nullptr) {
      add_shared_keys(run);
    }
  }
  run.used = run.met = false;
}

// A key is f row: drow = f dkey - f^3 (row . dkey) row, the second part where f depends on the row.
template <class T>
void GatheredGradients<T>::add_shared_keys(const Run& run) {
  const std::int64_t dim = call_.head_dim;
  const auto scale = static_cast<T>(call_.scale);
  const RowSource& key = head_->key;
  const RowTarget& dquery = head_->dquery;
  base::visit_floating(key.dtype, [&](auto tag) {
    const auto* rows = static_cast<const decltype(tag)*>(key.data);
    for_target_rows<T>(dquery, run.index, dim, [&](T* to, std::size_t n) {
      const std::int32_t at = run.index[n];
      const auto* row = rows + at * key.row_stride;
      T* dkey = run.dkey + static_cast<std::int64_t>(n) * tile_.stride();
      // What nobody saw adds nothing, whatever the row holds.
      const bool unseen = !run.finite && std::all_of(dkey, dkey + dim, [](T x) { return x == 0; });
      const T factor = unseen ? T{0} : head_->key_factors[at];
      if (!unseen && static_cast<double>(factor) < head_->constant_factor) {
        const T dot = sum_of<16>(
            dim, [&](std::int64_t d) { return static_cast<T>(base::to_float(row[d])) * dkey[d]; });
        const T along = factor * factor * dot;
        for (std::int64_t d = 0; d < dim; ++d) {
          dkey[d] -= along * static_cast<T>(base::to_float(row[d]));
        }
      }
      add_row(to, dquery.dim_stride, dim, dkey, scale * factor);
    });
  });
}

template class GatheredGradients<float>;
template class GatheredGradients<double>;

}  // namespace longspan::engine
