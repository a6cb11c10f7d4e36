// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Plans a forward call.
#include "engine/forward_plan.h"

#include <algorithm>

#include "base/fit_memory.h"
#include "base/parallel_for.h"
#include "engine/cache_size.h"
#include "engine/forward_worker.h"
#include "engine/panel_rows.h"

namespace longspan::engine {
namespace {

// A key block is read and packed once for all panels of a task, so there should be many: a thousand
// queries, whose panels are read in order, from the third level cache if they must; more where two
// thirds of the second hold their queries and state, 24 KiB a panel of 48 rows at head_dim 64.
constexpr std::int64_t kQueriesThatPay = 1024;
constexpr std::int64_t kMostPanels = 64;

constexpr std::int64_t kTasksPerThread = 4;
constexpr std::int64_t kMostStatesPerThread = 128;  // of shared segments

using base::ceil_div;

template <class T>
class Planner {
 public:
  Planner(const ForwardCall<T>& call, const ForwardShape& shape, const Execution& execution)
      : call_(call),
        shape_(shape),
        execution_(execution),
        query_chunk_(clamp_query_chunk(execution.query_chunk, shape.seqlen_q)) {
    group_ = shape.num_heads_kv > 0 ? shape.num_heads / shape.num_heads_kv : 1;
    lists_ = shape.batch * shape.num_heads_kv;
    plan_.rows_per_panel = call.decodes()
                               ? call.decode_queries
                               : choose_panel_rows(*call.kernel, shape.seqlen_q, query_chunk_);
    units_ = ceil_div(shape.seqlen_q, plan_.rows_per_panel) * group_;
    requested_threads_ = base::resolve_threads(execution.threads, INT64_MAX);
  }

  ForwardPlan plan() {
    choose_panels();
    fit_memory();
    cut_tasks();
    return std::move(plan_);
  }

 private:
  std::int64_t tasks_with(std::int64_t panels) const { return lists_ * ceil_div(units_, panels); }

  void choose_panels() {
    const std::int64_t panel_bytes = plan_.rows_per_panel * (call_.head_dim + call_.head_dim_v) *
                                     static_cast<std::int64_t>(sizeof(T));
    const std::int64_t held = std::min(second_level_cache() * 2 / 3 / panel_bytes, kMostPanels);
    std::int64_t panels = std::max(held, ceil_div(kQueriesThatPay, plan_.rows_per_panel));
    if (call_.decodes()) {  // one after the other, and segments are tasks, too
      panels = std::min(shape_.most_panels, lists_ * units_ * call_.segments.count() /
                                                (kTasksPerThread * requested_threads_));
    } else if (query_chunk_ > 0) {
      panels = ceil_div(query_chunk_, plan_.rows_per_panel) * group_;
    } else {
      panels = std::min(panels, lists_ * units_ / (kTasksPerThread * requested_threads_));
    }
    set_panels(std::clamp<std::int64_t>(panels, 1, std::max<std::int64_t>(units_, 1)));
    // Too few tasks for the threads: share the segments of each, unless there are so many (a small
    // key_chunk) that their states would not be O(threads).
    const std::int64_t threads = requested_threads_, segments = call_.segments.count();
    plan_.shares_segments = threads > 1 && segments > 1 && tasks() < 2 * threads &&
                            tasks() * segments <= kMostStatesPerThread * threads;
    set_threads(requested_threads_);
  }

  // Equal tasks: 11 panels are 6 + 5, not 8 + 3.
  void set_panels(std::int64_t panels) {
    const std::int64_t equal = units_ > 0 ? ceil_div(units_, ceil_div(units_, panels)) : 1;
    plan_.panels_per_task = base::round_up(equal, shape_.panels_together);
    plan_.worker_bytes = ForwardWorker<T>::workspace_bytes(call_, plan_.panels_per_task);
  }

  std::int64_t tasks() const { return tasks_with(plan_.panels_per_task); }

  void set_threads(int threads) {
    const std::int64_t work = tasks() * (plan_.shares_segments ? call_.segments.count() : 1);
    plan_.threads = base::resolve_threads(threads, work);
    plan_.shared_bytes = plan_.shares_segments
                             ? static_cast<std::size_t>(tasks() * call_.segments.count()) *
                                   ForwardWorker<T>::state_bytes(call_, plan_.panels_per_task)
                             : 0;
  }

  // First give up sharing, then panels down to two, then threads, then the second panel.
  void fit_memory() {
    const std::int64_t least = shape_.panels_together;
    const auto give_up = [&] {
      if (plan_.shares_segments) {
        plan_.shares_segments = false;
      } else if (plan_.panels_per_task > std::max<std::int64_t>(least, 2)) {
        set_panels(std::max(plan_.panels_per_task / 2 / least * least, least));
      } else if (!base::give_up_thread(plan_.threads)) {
        if (plan_.panels_per_task <= least) return false;
        set_panels(least);
      }
      set_threads(plan_.threads);
      return true;
    };
    base::fit_memory(
        call_.function, execution_.memory_limit, [&] { return plan_.workspace_bytes(); }, give_up);
  }

  void cut_tasks() {
    if (lists_ == 0 || units_ == 0) return;  // however many batch entries there may be
    const std::int64_t per_task = plan_.panels_per_task;
    plan_.tasks.reserve(static_cast<std::size_t>(tasks()));
    for (std::int64_t b = 0; b < shape_.batch; ++b) {
      for (std::int64_t h = 0; h < shape_.num_heads_kv; ++h) {
        for (std::int64_t first = 0; first < units_; first += per_task) {
          PlannedTask task{b, h, first, std::min(units_, first + per_task), 0};
          for (std::int64_t u = task.first; u < task.last; ++u) count(task, u);
          plan_.tasks.push_back(task);
        }
      }
    }
    std::stable_sort(plan_.tasks.begin(), plan_.tasks.end(),
                     [](const PlannedTask& a, const PlannedTask& b) { return a.tiles > b.tiles; });
  }

  void count(PlannedTask& task, std::int64_t unit) {
    const mask::Range queries = plan_.queries_of(unit, group_, shape_.seqlen_q);
    const mask::Range hull = call_.mask->visible_keys(task.batch, queries);
    const std::int64_t visited = tiles_in(hull);
    task.tiles += visited;
    plan_.tiles_visited += visited;
    plan_.tiles_skipped += tiles_in({0, call_.segments.seqlen_k}) - visited;
    plan_.pairs += static_cast<double>(queries.size()) * static_cast<double>(hull.size());
  }

  std::int64_t tiles_in(mask::Range keys) const {
    return call_.segments.blocks_met(keys, call_.kernel->key_block);
  }

  const ForwardCall<T>& call_;
  const ForwardShape& shape_;
  const Execution& execution_;
  std::int64_t query_chunk_;
  std::int64_t group_ = 1;
  std::int64_t lists_ = 0;  // (batch, kv head) pairs
  std::int64_t units_ = 0;  // panels of one of them
  int requested_threads_ = 1;
  ForwardPlan plan_;
};

}  // namespace

template <class T>
ForwardPlan plan_forward(const ForwardCall<T>& call, const ForwardShape& shape,
                         const Execution& execution) {
  return Planner<T>(call, shape, execution).plan();
}

template ForwardPlan plan_forward(const ForwardCall<float>&, const ForwardShape&, const Execution&);
template ForwardPlan plan_forward(const ForwardCall<double>&, const ForwardShape&,
                                  const Execution&);

}  // namespace longspan::engine
