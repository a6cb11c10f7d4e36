// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Weights of chosen rows, their largest, and their sums by key. Rows and largest weights are made
// by tasks that own some panels and meet all keys, sums by tasks that own a block of keys and meet
// all panels: no two tasks write one number, so their order does not matter.
#include "longspan/attention_weights.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/check.h"
#include "base/fit_memory.h"
#include "base/parallel_for.h"
#include "engine/call_setup.h"
#include "engine/checked_call.h"
#include "engine/checked_result.h"
#include "engine/weight_tiles.h"
#include "exact/top_keys.h"
#include "kernels/registry.h"
#include "mask/integers.h"

namespace longspan {
namespace exact {
namespace {

using base::ceil_div;
using engine::CheckedCall;
using engine::RowSource;
using engine::RowTarget;
using engine::TensorAxes;

constexpr const char* kFunction = "attention_weights";

struct Wanted {
  std::vector<std::int64_t> rows;
  TensorAxes lse;
  TensorAxes weights;
  TensorAxes top_keys;
  TensorAxes top_weights;
  TensorAxes column_sums;
  std::int64_t top_count = 0;

  bool top() const noexcept { return top_keys.data != nullptr || top_weights.data != nullptr; }
  bool of_rows() const noexcept { return weights.data != nullptr || top(); }
};

template <class T>
class ExactWeights {
 public:
  ExactWeights(const CheckedCall& checked, const AttentionOptions& options,
               const Execution& execution, const Wanted& wanted)
      : checked_(checked),
        wanted_(wanted),
        kernel_(kernel::choose_kernel(execution.kernel)),
        mask_(engine::bind_mask(checked, options)) {
    engine::describe_call(checked, options, execution,
                          kernel_.template table<T>(checked.query.dtype), mask_, call_);
    call_.head_dim_v = 0;
    group_ = checked.num_heads_kv > 0 ? checked.num_heads / checked.num_heads_kv : 1;
    width_ = std::int64_t{call_.kernel->lanes} * call_.kernel->vectors;
    most_top_ = wanted.top() ? std::min(wanted.top_count, checked.seqlen_k) : 0;
    cut_panels();
    choose_threads(execution);
  }

  void run() {
    if (call_.progress != nullptr) {
      const std::int64_t passes =
          (wanted_.of_rows() ? 1 : 0) + (wanted_.column_sums.data != nullptr ? 1 : 0);
      call_.progress->total += passes * heads() * count(panels_) * blocks();
    }
    const base::Buffer workspace(worker_bytes() * static_cast<std::size_t>(threads_));
    base::Carver carver(workspace.data());
    std::vector<Worker> workers;
    workers.reserve(static_cast<std::size_t>(threads_));
    for (int w = 0; w < threads_; ++w) workers.emplace_back(*this, carver);
    if (wanted_.of_rows()) {
      base::parallel_for(heads() * row_tasks(), threads_, [&](std::int64_t task, int w) {
        meet_keys(workers[static_cast<std::size_t>(w)], at(task / row_tasks()), task % row_tasks());
      });
    }
    if (wanted_.column_sums.data != nullptr) {
      base::parallel_for(heads() * blocks(), threads_, [&](std::int64_t task, int w) {
        add_columns(workers[static_cast<std::size_t>(w)], at(task / blocks()), task % blocks());
      });
    }
  }

 private:
  // Consecutive queries that stand together in the list of rows, from `place` on.
  struct Panel {
    std::int64_t query = 0;
    std::int64_t count = 0;
    std::int64_t place = 0;
    mask::Range queries() const noexcept { return {query, query + count}; }
  };
  struct Head {
    std::int64_t batch = 0;
    std::int64_t head = 0;
  };
  struct Worker {
    Worker(const ExactWeights& weights, base::Carver& carver)
        : tiles(weights.call_, weights.panels_together_) {
      tiles.carve(carver);
      const std::int64_t rows = weights.panels_together_ * weights.width_;
      auto* entries = carver.take<WeightOfKey<T>>(rows * weights.most_top_);
      for (std::int64_t n = 0; n < (weights.wanted_.top() ? rows : 0); ++n) {
        top.emplace_back(entries == nullptr ? nullptr : entries + n * weights.most_top_,
                         weights.most_top_);
      }
      sums = carver.take<double>(weights.call_.kernel->key_block);
    }
    engine::WeightTiles<T> tiles;
    std::vector<TopKeys<T>> top;  // by lane of the open panels
    double* sums = nullptr;       // [key block]
  };

  template <class Vector>
  static std::int64_t count(const Vector& vector) noexcept {
    return static_cast<std::int64_t>(vector.size());
  }

  std::int64_t heads() const noexcept { return checked_.batch * checked_.num_heads; }
  std::int64_t row_tasks() const noexcept { return ceil_div(count(panels_), panels_together_); }
  std::int64_t blocks() const noexcept {
    return ceil_div(checked_.seqlen_k, call_.kernel->key_block);
  }
  Head at(std::int64_t n) const noexcept {
    return {n / checked_.num_heads, n % checked_.num_heads};
  }
  mask::Range block(std::int64_t n) const noexcept {
    const std::int64_t length = call_.kernel->key_block;
    return {n * length, std::min(checked_.seqlen_k, (n + 1) * length)};
  }
  RowSource keys_of(const Head& at) const noexcept {
    return checked_.key.source(at.batch, at.head / group_);
  }

  void cut_panels() {
    const std::vector<std::int64_t>& rows = wanted_.rows;
    for (std::size_t n = 0; n < rows.size(); ++n) {
      const bool continues = !panels_.empty() && panels_.back().count < width_ &&
                             rows[n] == panels_.back().queries().end;
      if (continues) {
        ++panels_.back().count;
      } else {
        panels_.push_back({rows[n], 1, static_cast<std::int64_t>(n)});
      }
    }
  }

  // Panels of a task share a loaded block of keys: loading costs as much as 16 lanes of it. Fewer
  // when their largest weights need megabytes.
  void choose_threads(const Execution& execution) {
    constexpr std::int64_t kPanels = 8;
    constexpr std::int64_t kTopBytes = std::int64_t{4} << 20;
    const auto entry = static_cast<std::int64_t>(sizeof(WeightOfKey<T>));
    const std::int64_t top_bytes = std::max<std::int64_t>(width_ * most_top_ * entry, 1);
    panels_together_ = std::clamp<std::int64_t>(kTopBytes / top_bytes, 1, kPanels);
    const std::int64_t tasks =
        heads() * std::max(wanted_.of_rows() ? row_tasks() : 0,
                           wanted_.column_sums.data != nullptr ? blocks() : 0);
    threads_ = base::resolve_threads(execution.threads, tasks);
    base::fit_memory(
        kFunction, execution.memory_limit,
        [&] { return static_cast<std::size_t>(threads_) * worker_bytes(); },
        [&] { return base::give_up_thread(threads_); });
  }

  std::size_t worker_bytes() const {
    base::Carver counted;
    const Worker worker(*this, counted);
    return counted.used();
  }

  void load(Worker& worker, std::int64_t slot, const Head& at, const Panel& panel) const {
    worker.tiles.load_panel(slot, {at.head, panel.query, panel.count},
                            checked_.query.source(at.batch, at.head),
                            wanted_.lse.source(at.batch, at.head));
  }

  bool meets(const Head& at, const Panel& panel, mask::Range keys) const noexcept {
    return !mask::intersect(mask_.visible_keys(at.batch, panel.queries()), keys).empty();
  }

  void count_done(std::int64_t tiles) const noexcept {
    if (call_.progress != nullptr) call_.progress->done += tiles;
  }

  void meet_keys(Worker& worker, const Head& at, std::int64_t task) const {
    const std::int64_t first = task * panels_together_;
    const std::int64_t open = std::min(count(panels_) - first, panels_together_);
    const RowTarget weights = wanted_.weights.target(at.batch, at.head);
    const auto panel = [&](std::int64_t n) -> const Panel& {
      return panels_[static_cast<std::size_t>(first + n)];
    };
    for (std::int64_t n = 0; n < open; ++n) {
      load(worker, n, at, panel(n));
      if (weights.data != nullptr) clear_rows(weights, panel(n));
    }
    for (TopKeys<T>& top : worker.top) top.clear();
    for (std::int64_t k = 0; k < blocks(); ++k) {
      base::check_stop(call_.stop, call_.function);
      bool loaded = false;
      for (std::int64_t n = 0; n < open; ++n) {
        if (!meets(at, panel(n), block(k))) continue;
        if (!loaded) worker.tiles.load_keys(keys_of(at), block(k));
        loaded = true;
        if (!worker.tiles.run(at.batch, n)) continue;
        if (weights.data != nullptr) write_tile(worker, n, panel(n), block(k), weights);
        if (wanted_.top()) offer_tile(worker, n, block(k));
      }
      count_done(open);
    }
    if (!wanted_.top()) return;
    for (std::int64_t n = 0; n < open; ++n) {
      for (std::int64_t lane = 0; lane < panel(n).count; ++lane) {
        worker.top[static_cast<std::size_t>(n * width_ + lane)].write(
            panel(n).place + lane, wanted_.top_count, wanted_.top_keys.target(at.batch, at.head),
            wanted_.top_weights.target(at.batch, at.head));
      }
    }
  }

  void clear_rows(const RowTarget& weights, const Panel& panel) const {
    for (std::int64_t lane = 0; lane < panel.count; ++lane) {
      T* row = static_cast<T*>(weights.data) + weights.offset(panel.place + lane);
      for (std::int64_t k = 0; k < checked_.seqlen_k; ++k) row[k * weights.dim_stride] = T{0};
    }
  }

  void write_tile(const Worker& worker, std::int64_t n, const Panel& panel, mask::Range keys,
                  RowTarget weights) const {
    std::array<T, kernel::kMaxWidth> ones;
    ones.fill(T{1});
    weights.data = static_cast<T*>(weights.data) + keys.begin * weights.dim_stride;
    call_.kernel->write_rows(weights, panel.place, panel.count, keys.size(),
                             worker.tiles.panel_width(n), worker.tiles.weights(), ones.data());
  }

  // body(lane, weight, key - keys.begin) for all visible pairs of the tile.
  template <class Body>
  static void for_visible(const Worker& worker, std::int64_t n, mask::Range keys,
                          const Body& body) {
    const std::int64_t width = worker.tiles.panel_width(n);
    for (std::int64_t k = 0; k < keys.size(); ++k) {
      const T* weights = worker.tiles.weights() + k * width;
      for (std::uint64_t word = worker.tiles.visible()[k]; word != 0; word &= word - 1) {
        const int lane = std::countr_zero(word);
        body(lane, weights[lane], k);
      }
    }
  }

  void offer_tile(Worker& worker, std::int64_t n, mask::Range keys) const {
    TopKeys<T>* top = worker.top.data() + n * width_;
    for_visible(worker, n, keys, [&](int lane, T weight, std::int64_t k) {
      top[lane].offer(weight, keys.begin + k);
    });
  }

  void add_columns(Worker& worker, const Head& at, std::int64_t task) const {
    const mask::Range keys = block(task);
    std::fill_n(worker.sums, keys.size(), 0.0);
    worker.tiles.load_keys(keys_of(at), keys);
    for (const Panel& panel : panels_) {
      base::check_stop(call_.stop, call_.function);
      if (meets(at, panel, keys)) {
        load(worker, 0, at, panel);
        if (worker.tiles.run(at.batch, 0)) {
          for_visible(worker, 0, keys, [&](int, T weight, std::int64_t k) {
            worker.sums[k] += static_cast<double>(weight);
          });
        }
      }
      count_done(1);
    }
    const RowTarget sums = wanted_.column_sums.target(at.batch, at.head);
    for (std::int64_t k = 0; k < keys.size(); ++k) {
      static_cast<T*>(sums.data)[(keys.begin + k) * sums.dim_stride] =
          static_cast<T>(worker.sums[k]);
    }
  }

  const CheckedCall& checked_;
  const Wanted& wanted_;
  const kernel::Kernel& kernel_;
  mask::BoundMask mask_;
  engine::AttentionCall<T> call_;
  std::vector<Panel> panels_;
  std::int64_t group_ = 1;
  std::int64_t width_ = 1;     // of a full panel
  std::int64_t most_top_ = 0;  // entries of a row
  std::int64_t panels_together_ = 1;
  int threads_ = 1;
};

std::vector<std::int64_t> read_rows(const ConstTensorView& rows, std::int64_t seqlen_q) {
  if (!is_given(rows)) {
    std::vector<std::int64_t> all(static_cast<std::size_t>(seqlen_q));
    std::iota(all.begin(), all.end(), std::int64_t{0});
    return all;
  }
  std::vector<std::int64_t> numbers =
      mask::read_integers(rows, std::string(kFunction) + ": rows", -1);
  for (std::size_t n = 0; n < numbers.size(); ++n) {
    base::require(0 <= numbers[n] && numbers[n] < seqlen_q, [&] {
      return std::string(kFunction) + ": rows[" + std::to_string(n) +
             "] must be at least 0 and less than seqlen_q, which is " + std::to_string(seqlen_q) +
             "; found " + std::to_string(numbers[n]);
    });
  }
  return numbers;
}

Wanted check_wanted(const CheckedCall& checked, const ConstTensorView& lse,
                    const AttentionWeights& into, const ConstTensorView& rows) {
  base::require(is_given(into.weights) || is_given(into.top_keys) || is_given(into.top_weights) ||
                    is_given(into.column_sums),
                [] {
                  return std::string(kFunction) +
                         ": nothing is asked for; expected weights, top_keys, top_weights or "
                         "column_sums";
                });
  base::require(checked.dropout.threshold == 0, [] {
    return std::string(kFunction) + ": dropout acts after the weights; expected probability 0";
  });
  Wanted wanted;
  wanted.rows = read_rows(rows, checked.seqlen_q);
  const auto count = static_cast<std::int64_t>(wanted.rows.size());
  const TensorView& top = is_given(into.top_keys) ? into.top_keys : into.top_weights;
  wanted.top_count = top.rank > 0 ? top.shape[static_cast<std::size_t>(top.rank - 1)] : 0;
  engine::ResultChecker checker(checked);
  wanted.lse = checker.lse_input("lse", lse);
  wanted.weights = checker.table("weights", into.weights, "bhrc", {count, checked.seqlen_k});
  wanted.top_keys =
      checker.table("top_keys", into.top_keys, "bhrc", {count, wanted.top_count}, /*whole=*/true);
  wanted.top_weights =
      checker.table("top_weights", into.top_weights, "bhrc", {count, wanted.top_count});
  wanted.column_sums =
      checker.table("column_sums", into.column_sums, "bhc", {count, checked.seqlen_k});
  return wanted;
}

}  // namespace
}  // namespace exact

void attention_weights(ConstTensorView query, ConstTensorView key, ConstTensorView lse,
                       const AttentionWeights& into, ConstTensorView rows,
                       const AttentionOptions& options, const Execution& execution) {
  // The key stands for the value, which weights do not depend on.
  const engine::CheckedCall checked =
      engine::check_call(exact::kFunction, query, key, key, options, execution);
  const exact::Wanted wanted = exact::check_wanted(checked, lse, into, rows);
  engine::with_pass<exact::ExactWeights>(
      query.dtype, [](auto& weights) { weights.run(); }, checked, options, execution, wanted);
}

}  // namespace longspan
