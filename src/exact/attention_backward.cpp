// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The backward pass of exact attention: checks its tensors, computes delta, hands ranges of keys to
// the engine, and reduces the gradients of bias and sinks.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/call_log.h"
#include "base/check.h"
#include "base/parallel_for.h"
#include "base/row_sums.h"
#include "engine/backward_plan.h"
#include "engine/backward_tensors.h"
#include "engine/backward_worker.h"
#include "engine/call_setup.h"
#include "engine/checked_call.h"
#include "engine/delta.h"
#include "engine/turns.h"
#include "kernels/registry.h"
#include "longspan/attention.h"

namespace longspan {
namespace exact {

using engine::BackwardTensors;
using engine::bind_mask;
using engine::check_call;
using engine::CheckedCall;
using engine::describe_call;
using engine::log_line;

namespace {

template <class T>
class ExactBackward {
 public:
  ExactBackward(const CheckedCall& checked, const AttentionOptions& options,
                const Execution& execution, const BackwardTensors& tensors)
      : checked_(checked),
        tensors_(tensors),
        kernel_(kernel::choose_kernel(execution.kernel)),
        mask_(bind_mask(checked, options)) {
    // Operands are of one type: where doutput is wider than the inputs, they are widened.
    const DType doutput = tensors.doutput.dtype;
    const bool one_type = doutput == checked.query.dtype;
    describe_call(checked, options, execution,
                  kernel_.template table<T>(one_type ? doutput : engine::kDTypeOf<T>), mask_,
                  call_);
    call_.ranges = engine::choose_key_ranges(checked.seqlen_k, execution.key_chunk);
    call_.seqlen_q = checked.seqlen_q;
    call_.wanted.query = tensors.dquery.data != nullptr;
    call_.wanted.key = tensors.dkey.data != nullptr;
    call_.wanted.value = tensors.dvalue.data != nullptr;
    if (is_given(tensors.dbias)) {
      bias_.emplace(tensors.dbias,
                    Extents{checked.batch, checked.num_heads, checked.seqlen_q, checked.seqlen_k},
                    checked.sinks.data != nullptr);
      call_.bias_gradient = &*bias_;
    }
    group_ = checked.num_heads_kv > 0 ? checked.num_heads / checked.num_heads_kv : 1;
    copies_dquery_ = call_.wanted.query && tensors.dquery.dtype != engine::kDTypeOf<T>;
    plan_ = engine::plan_backward(call_, {checked.batch, checked.num_heads, checked.num_heads_kv},
                                  copies_dquery_, execution);
    count_tiles();
  }

  AttentionPlan describe() const {
    AttentionPlan plan;
    plan.kernel = kernel_.name;
    plan.threads = plan_.threads;
    plan.query_chunk = call_.queries_per_block();
    plan.key_chunk = call_.ranges.length;
    plan.tasks = plan_.tasks();
    plan.tiles_visited = tiles_visited_;
    plan.tiles_skipped = tiles_skipped_;
    plan.workspace_bytes = plan_.workspace_bytes();
    plan.flop = 2.0 * pairs_ * static_cast<double>(3 * checked_.head_dim + 2 * checked_.head_dim_v);
    return plan;
  }

  void run() {
    const std::int64_t rows = checked_.batch * checked_.num_heads * checked_.seqlen_q;
    const base::Buffer workspace(plan_.worker_bytes * static_cast<std::size_t>(plan_.threads));
    const base::Buffer delta(static_cast<std::size_t>(rows) * sizeof(T));
    const base::Buffer copy(
        copies_dquery_ ? static_cast<std::size_t>(rows * checked_.head_dim) * sizeof(T) : 0);
    delta_ = reinterpret_cast<T*>(delta.data());
    dquery_copy_ = reinterpret_cast<T*>(copy.data());
    engine::Turns turns(
        static_cast<std::size_t>(checked_.batch * checked_.num_heads * call_.query_blocks()));
    call_.turns = &turns;
    if (call_.progress != nullptr) call_.progress->total += tiles_visited_;
    if (bias_) bias_->begin();
    prepare_rows();
    run_tasks(workspace, turns);
    if (bias_) bias_->finish();
    if (is_given(tensors_.dsinks)) {
      engine::reduce_sinks(checked_, tensors_.lse, delta_, tensors_.dsinks);
    }
  }

 private:
  struct Worker {
    Worker(const engine::BackwardCall<T>& call, std::byte* memory, std::int64_t group)
        : engine(call, memory), heads(static_cast<std::size_t>(group)) {}
    engine::BackwardWorker<T> engine;
    std::vector<engine::BackwardHead<T>> heads;
  };

  std::int64_t first_row(std::int64_t batch, std::int64_t head) const noexcept {
    return (batch * checked_.num_heads + head) * checked_.seqlen_q;
  }

  // delta, the sums over keys that are known without a tile, and zeros where no key is seen.
  void prepare_rows() {
    const std::int64_t blocks = call_.query_blocks();
    const std::int64_t heads = checked_.num_heads;
    base::parallel_for(checked_.batch * heads * blocks, plan_.threads, [&](std::int64_t task, int) {
      const std::int64_t batch = task / blocks / heads;
      const std::int64_t head = task / blocks % heads;
      const mask::Range queries = call_.query_block(task % blocks);
      prepare_block(batch, head, queries);
      if (call_.wanted.query) clear_unseeing(batch, head, queries);
    });
  }

  // Panels that see no key meet no task.
  void clear_unseeing(std::int64_t batch, std::int64_t head, mask::Range queries) {
    const std::vector<T> zeros(static_cast<std::size_t>(checked_.head_dim));
    for (std::int64_t n = queries.begin; n < queries.end; n += call_.rows_per_panel) {
      const mask::Range panel{n, std::min(queries.end, n + call_.rows_per_panel)};
      if (!call_.mask->visible_keys(batch, panel).empty()) continue;
      call_.kernel->store_rows(tensors_.dquery.target(batch, head), panel.begin, panel.size(),
                               checked_.head_dim, zeros.data(), 0, T{1});
    }
  }

  void prepare_block(std::int64_t batch, std::int64_t head, mask::Range queries) {
    const engine::RowSource output = tensors_.output.source(batch, head);
    const engine::RowSource doutput = tensors_.doutput.source(batch, head);
    const engine::RowSource lse = tensors_.lse.source(batch, head);
    const engine::RowSource dlse = tensors_.dlse.source(batch, head);
    T* delta = delta_ + first_row(batch, head);
    engine::for_fetched(queries, {output, doutput}, checked_.head_dim_v, [&](std::int64_t n) {
      const double dot = base::row_dot(output, doutput, n, checked_.head_dim_v);
      const double off = dlse.data == nullptr ? dot : dot - engine::number_at(dlse, n);
      delta[n] = static_cast<T>(off);
      if (bias_ && bias_->knows_queries()) {
        const double here = engine::number_at(lse, n);
        const bool empty = std::isinf(here) && here < 0;
        // dlse, and NaN where the row is.
        bias_->set_query(batch, head, n, empty ? T{0} : static_cast<T>(dot - off));
      }
    });
  }

  void run_tasks(const base::Buffer& workspace, engine::Turns& turns) {
    std::vector<Worker> workers;
    workers.reserve(static_cast<std::size_t>(plan_.threads));
    for (int w = 0; w < plan_.threads; ++w) {
      workers.emplace_back(
          call_, workspace.data() + static_cast<std::size_t>(w) * plan_.worker_bytes, group_);
    }
    const auto bundles = static_cast<std::int64_t>(plan_.bundles.size());
    base::parallel_for(plan_.tasks(), plan_.threads, [&](std::int64_t task, int w) {
      try {
        for (const auto& pair : plan_.bundles[static_cast<std::size_t>(task % bundles)]) {
          Worker& worker = workers[static_cast<std::size_t>(w)];
          worker.engine.run(emit(pair.batch, pair.head_kv, task / bundles, worker));
        }
      } catch (...) {
        turns.fail(std::current_exception());
        throw;
      }
    });
  }

  engine::BackwardTask<T> emit(std::int64_t batch, std::int64_t head_kv, std::int64_t range,
                               Worker& worker) const {
    for (std::int64_t g = 0; g < group_; ++g) {
      const std::int64_t head = head_kv * group_ + g;
      engine::BackwardHead<T>& rows = worker.heads[static_cast<std::size_t>(g)];
      rows.head = head;
      rows.query = checked_.query.source(batch, head);
      rows.doutput = tensors_.doutput.source(batch, head);
      rows.lse = tensors_.lse.source(batch, head);
      rows.delta = delta_ + first_row(batch, head);
      rows.dquery_sum = tensors_.dquery.target(batch, head);
      rows.dquery = {};
      if (copies_dquery_) {
        rows.dquery = rows.dquery_sum;
        rows.dquery_sum = {dquery_copy_ + first_row(batch, head) * checked_.head_dim,
                           engine::kDTypeOf<T>, checked_.head_dim, 1};
      }
      rows.first_turn = (batch * checked_.num_heads + head) * call_.query_blocks();
    }
    return {batch,
            call_.ranges.at(range),
            checked_.key.source(batch, head_kv),
            checked_.value.source(batch, head_kv),
            tensors_.dkey.target(batch, head_kv),
            tensors_.dvalue.target(batch, head_kv),
            worker.heads};
  }

  void count_tiles() {
    if (checked_.num_heads * checked_.seqlen_q == 0) return;
    const std::int64_t step = call_.rows_per_panel;
    const std::int64_t block = call_.kernel->key_block;
    const std::int64_t across = call_.ranges.blocks_met({0, checked_.seqlen_k}, block);
    for (std::int64_t b = 0; b < checked_.batch; ++b) {
      for (std::int64_t first = 0; first < checked_.seqlen_q; first += step) {
        const mask::Range queries{first, std::min(checked_.seqlen_q, first + step)};
        const mask::Range hull = mask_.visible_keys(b, queries);
        const std::int64_t tiles = call_.ranges.blocks_met(hull, block);
        tiles_visited_ += tiles * checked_.num_heads;
        tiles_skipped_ += (across - tiles) * checked_.num_heads;
        pairs_ += static_cast<double>(queries.size() * checked_.num_heads) *
                  static_cast<double>(hull.size());
      }
    }
  }

  const CheckedCall& checked_;
  const BackwardTensors& tensors_;
  const kernel::Kernel& kernel_;
  mask::BoundMask mask_;
  engine::BackwardCall<T> call_;
  engine::BackwardPlan plan_;
  std::optional<engine::BiasGradient<T>> bias_;
  std::int64_t group_ = 1;
  bool copies_dquery_ = false;
  T* delta_ = nullptr;        // [batch][num_heads][seqlen_q]
  T* dquery_copy_ = nullptr;  // [batch][num_heads][seqlen_q][head_dim]
  std::int64_t tiles_visited_ = 0;
  std::int64_t tiles_skipped_ = 0;
  double pairs_ = 0;
};

}  // namespace
}  // namespace exact

void attention_backward(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                        ConstPartial result, ConstPartial dresult, Gradients into,
                        const AttentionOptions& options, const Execution& execution) {
  const exact::CheckedCall checked =
      exact::check_call("attention_backward", query, key, value, options, execution);
  const engine::BackwardTensors tensors =
      engine::check_backward(checked, result, dresult, into, options);
  const auto run = [&](auto& backward) {
    const base::CallLog log;
    backward.run();
    log.write([&] {
      return exact::log_line("attention_backward", query, key, value, backward.describe());
    });
  };
  engine::with_pass<exact::ExactBackward>(query.dtype, run, checked, options, execution, tensors);
}

AttentionPlan plan_attention_backward(ConstTensorView query, ConstTensorView key,
                                      ConstTensorView value, const AttentionOptions& options,
                                      const Execution& execution) {
  const exact::CheckedCall checked =
      exact::check_call("attention_backward", query, key, value, options, execution);
  engine::BackwardTensors tensors = engine::planned_gradients(checked, /*with_key=*/true);
  if (is_given(options.bias)) {
    const ConstTensorView& bias = options.bias;
    tensors.dbias = {tensors.dquery.data, bias.dtype, bias.rank, bias.shape, bias.strides};
  }
  return engine::with_pass<exact::ExactBackward>(
      query.dtype, [](auto& backward) { return backward.describe(); }, checked, options, execution,
      tensors);
}

}  // namespace longspan
