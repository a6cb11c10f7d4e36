// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Exact attention: every query meets every visible key. Decides which panels meet which keys, and
// hands them to the engine.
#include "longspan/attention.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/call_log.h"
#include "base/check.h"
#include "base/parallel_for.h"
#include "engine/call_setup.h"
#include "engine/checked_call.h"
#include "engine/checked_result.h"
#include "engine/forward_plan.h"
#include "engine/forward_worker.h"
#include "exact/recorded_attention.h"
#include "kernels/decode_block.h"
#include "kernels/registry.h"

namespace longspan {
namespace exact {

using base::Rows4;
using engine::bind_mask;
using engine::check_call;
using engine::CheckedCall;
using engine::describe_call;
using engine::log_line;
using engine::ResultChecker;
using engine::TensorAxes;

namespace {

// Few queries are bound by the reading of keys and values: then all queries that share keys meet
// them together, where they lie in memory. What decode does not do takes the panels.
bool decodes(const CheckedCall& call, std::int64_t group, bool exact_reference) {
  return group * call.seqlen_q <= kernel::kDecodeRows && call.key.strides[3] == 1 &&
         call.value.strides[3] == 1 && call.dropout.threshold == 0 && !exact_reference;
}

// Between the rows of one head in [seqlen, heads, dim] lie those of the others, in the same pages:
// so many heads take turns, 16 keys at a time, and what they read next is fetched in the order of
// memory. Their keys and values fill half of a second level cache of 512 KiB.
std::int64_t heads_in_turn(const CheckedCall& call) {
  constexpr std::int64_t kBytes = std::int64_t{256} << 10;
  constexpr std::int64_t kKeys = 16;
  const auto lies_alone = [](const Rows4& rows) {
    return std::abs(rows.strides[1]) <= std::abs(rows.strides[2]);
  };
  if (lies_alone(call.key) && lies_alone(call.value)) return 1;
  const auto size = static_cast<std::int64_t>(size_of(call.key.dtype));
  return std::max<std::int64_t>(kBytes / (kKeys * size * (call.head_dim + call.head_dim_v)), 1);
}

// The results of a call: (output, lse), or the summary (numerator in `output`, sum, max).
struct Results {
  TensorAxes output;
  TensorAxes lse;
  TensorAxes sum;
  TensorAxes max;
};

template <class T>
class ExactForward {
 public:
  ExactForward(const CheckedCall& checked, const AttentionOptions& options,
               const Execution& execution, bool exact_reference,
               engine::Recorder* recorder = nullptr)
      : checked_(checked),
        kernel_(kernel::choose_kernel(execution.kernel)),
        mask_(bind_mask(checked, options)) {
    group_ = checked.num_heads_kv > 0 ? checked.num_heads / checked.num_heads_kv : 1;
    const bool decode = decodes(checked, group_, exact_reference);
    // Decode widens narrow numbers where it reads them, and a recorder reads numbers of T.
    const bool wide = decode || recorder != nullptr;
    const DType operands = wide ? engine::kDTypeOf<T> : checked.query.dtype;
    describe_call(checked, options, execution, kernel_.template table<T>(operands), mask_, call_);
    call_.segments = engine::choose_segments(checked.seqlen_k, execution.key_chunk);
    const engine::RowSource key = checked.key.source(0, 0);
    const engine::RowSource value = checked.value.source(0, 0);
    const kernel::OperandFormat& format = call_.kernel->format;
    call_.packs_keys = engine::needs_packing(format, key) || engine::needs_packing(format, value) ||
                       engine::gains_by_packing(key, checked.head_dim) ||
                       engine::gains_by_packing(value, checked.head_dim_v);
    call_.exact_reference = exact_reference;
    call_.recorder = recorder;
    engine::ForwardShape shape{checked.batch, checked.num_heads, checked.num_heads_kv,
                               checked.seqlen_q};
    if (decode) {
      call_.decode_queries = checked.seqlen_q;
      shape.panels_together = std::max<std::int64_t>(group_, 1);
      const std::int64_t turns = heads_in_turn(checked);
      shape.most_panels = turns * shape.panels_together;
      if (turns > 1) shape.num_heads_kv = std::min<std::int64_t>(checked.num_heads_kv, 1);
    }
    panels_of_keys_ = shape.num_heads_kv > 0 ? checked.num_heads / shape.num_heads_kv : 1;
    plan_ = engine::plan_forward(call_, shape, execution);
  }

  AttentionPlan describe() const {
    AttentionPlan plan;
    plan.kernel = kernel_.name;
    plan.decode = call_.decodes();
    plan.threads = plan_.threads;
    plan.query_chunk = plan_.rows_per_panel * plan_.panels_per_task;
    plan.key_chunk = call_.segments.length;
    plan.tasks = static_cast<std::int64_t>(plan_.tasks.size()) *
                 (plan_.shares_segments ? call_.segments.count() : 1);
    plan.tiles_visited = plan_.tiles_visited;
    plan.tiles_skipped = plan_.tiles_skipped;
    plan.workspace_bytes = plan_.workspace_bytes();
    plan.flop = 2.0 * plan_.pairs * static_cast<double>(checked_.head_dim + checked_.head_dim_v);
    return plan;
  }

  void run(const Results& results) {
    if (call_.progress != nullptr) call_.progress->total += plan_.tiles_visited;
    const base::Buffer workspace(plan_.workspace_bytes());
    std::vector<Worker> workers;
    workers.reserve(static_cast<std::size_t>(plan_.threads));
    for (int w = 0; w < plan_.threads; ++w) {
      workers.emplace_back(call_, plan_.panels_per_task,
                           workspace.data() + static_cast<std::size_t>(w) * plan_.worker_bytes);
    }
    if (plan_.shares_segments) {
      run_shared(results, workers,
                 workspace.data() + static_cast<std::size_t>(plan_.threads) * plan_.worker_bytes);
      return;
    }
    base::parallel_for(
        static_cast<std::int64_t>(plan_.tasks.size()), plan_.threads, [&](std::int64_t t, int w) {
          Worker& worker = workers[static_cast<std::size_t>(w)];
          worker.engine.run(emit(plan_.tasks[static_cast<std::size_t>(t)], results, worker));
        });
  }

 private:
  struct Worker {
    Worker(const engine::ForwardCall<T>& call, std::int64_t panels, std::byte* memory)
        : engine(call, panels, memory), rows(static_cast<std::size_t>(panels)) {}
    engine::ForwardWorker<T> engine;
    std::vector<engine::PanelRows> rows;
  };

  // Segments of one task go to different threads; whoever finishes the last one merges them in
  // ascending order.
  void run_shared(const Results& results, std::vector<Worker>& workers, std::byte* states) {
    const std::int64_t segments = call_.segments.count();
    const std::size_t segment_bytes =
        engine::ForwardWorker<T>::state_bytes(call_, plan_.panels_per_task);
    const auto tasks = static_cast<std::int64_t>(plan_.tasks.size());
    std::vector<std::atomic<std::int64_t>> open(static_cast<std::size_t>(tasks));
    for (auto& count : open) count = segments;
    base::parallel_for(tasks * segments, plan_.threads, [&](std::int64_t n, int w) {
      Worker& worker = workers[static_cast<std::size_t>(w)];
      const auto t = static_cast<std::size_t>(n / segments);
      const engine::ForwardTask task = emit(plan_.tasks[t], results, worker);
      std::byte* mine = states + t * static_cast<std::size_t>(segments) * segment_bytes;
      worker.engine.summarize(task, n % segments,
                              mine + static_cast<std::size_t>(n % segments) * segment_bytes);
      if (open[t].fetch_sub(1, std::memory_order_acq_rel) == 1) worker.engine.merge(task, mine);
    });
  }

  engine::ForwardTask emit(const engine::PlannedTask& planned, const Results& results,
                           Worker& worker) const {
    for (std::int64_t u = planned.first; u < planned.last; ++u) {
      const std::int64_t head = planned.head_kv * panels_of_keys_ + u % panels_of_keys_;
      const mask::Range queries = plan_.queries_of(u, panels_of_keys_, checked_.seqlen_q);
      worker.rows[static_cast<std::size_t>(u - planned.first)] = {
          {head, queries.begin, queries.size()},      checked_.query.source(planned.batch, head),
          results.output.target(planned.batch, head), results.lse.target(planned.batch, head),
          results.sum.target(planned.batch, head),    results.max.target(planned.batch, head)};
    }
    const std::span panels =
        std::span(worker.rows).first(static_cast<std::size_t>(planned.last - planned.first));
    const std::int64_t head_kv = panels.front().head / group_;
    const std::int64_t heads_kv = panels.back().head / group_ + 1 - head_kv;
    return {planned.batch,
            checked_.key.source(planned.batch, head_kv),
            checked_.value.source(planned.batch, head_kv),
            panels,
            heads_kv,
            checked_.key.strides[2],
            checked_.value.strides[2]};
  }

  const CheckedCall& checked_;
  const kernel::Kernel& kernel_;
  mask::BoundMask mask_;
  engine::ForwardCall<T> call_;
  engine::ForwardPlan plan_;
  std::int64_t group_ = 1;
  std::int64_t panels_of_keys_ = 1;  // as the plan counts them: heads of a query range
};

}  // namespace

void record_attention(const ConstTensorView& query, const ConstTensorView& key,
                      const ConstTensorView& value, const Partial& result,
                      const AttentionOptions& options, Execution execution,
                      engine::Recorder& recorder) {
  execution.threads = 1;
  const CheckedCall checked = check_call("attention", query, key, value, options, execution);
  ResultChecker checker(checked);
  Results results;
  results.output = checker.output(result.output);
  results.lse = checker.lse(result.lse);
  engine::with_pass<ExactForward>(
      query.dtype, [&](auto& forward) { forward.run(results); }, checked, options, execution,
      /*exact_reference=*/true, &recorder);
}

}  // namespace exact

void attention(ConstTensorView query, ConstTensorView key, ConstTensorView value, Partial result,
               const AttentionOptions& options, const Execution& execution) {
  const exact::CheckedCall checked =
      exact::check_call("attention", query, key, value, options, execution);
  exact::ResultChecker checker(checked);
  exact::Results results;
  results.output = checker.output(result.output);
  results.lse = checker.lse(result.lse);
  const auto run = [&](auto& forward) {
    const base::CallLog log;
    forward.run(results);
    log.write([&] { return exact::log_line("attention", query, key, value, forward.describe()); });
  };
  engine::with_pass<exact::ExactForward>(query.dtype, run, checked, options, execution,
                                         /*exact_reference=*/false);
}

AttentionPlan plan_attention(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                             const AttentionOptions& options, const Execution& execution) {
  const exact::CheckedCall checked =
      exact::check_call("attention", query, key, value, options, execution);
  return engine::with_pass<exact::ExactForward>(
      query.dtype, [](auto& forward) { return forward.describe(); }, checked, options, execution,
      /*exact_reference=*/false);
}

void summarize_chunk(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                     ChunkSummary into, const AttentionOptions& options,
                     const Execution& execution) {
  const exact::CheckedCall checked =
      exact::check_call("summarize_chunk", query, key, value, options, execution);
  base::require(checked.sinks.data == nullptr, [] {
    return std::string("summarize_chunk: sinks belong to no chunk of keys; expected none");
  });
  exact::ResultChecker checker(checked);
  exact::Results results;
  results.output = checker.numerator(into.numerator);
  results.sum = checker.row_numbers("sum", into.sum);
  results.max = checker.row_numbers("max", into.max);
  engine::with_pass<exact::ExactForward>(
      query.dtype, [&](auto& forward) { forward.run(results); }, checked, options, execution,
      /*exact_reference=*/true);
}

}  // namespace longspan
