// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// LSH attention: rounds are sorted, then attended one after the other by all threads.
#include "longspan/lsh_attention.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/call_log.h"
#include "base/parallel_for.h"
#include "engine/checked_call.h"
#include "engine/gathered_worker.h"
#include "lsh/lsh_call.h"

namespace longspan {
namespace lsh {
namespace {

using engine::CheckedCall;

constexpr const char* kFunction = "lsh_attention";

struct Results {
  engine::TensorAxes output;
  engine::TensorAxes lse;
};

template <class T>
class LshForward {
 public:
  LshForward(const typename LshCall<T>::Tensors& tensors, const LshOptions& options,
             const AttentionOptions& attention, const Execution& execution, DType output)
      : lsh_(tensors, options, attention, execution, tensors.checked.query.dtype,
             /*panels_by_depth=*/false),
        checked_(tensors.checked),
        copies_output_(output != engine::kDTypeOf<T>) {
    constexpr std::int64_t kTaskQueries = 1024;
    const std::int64_t chunk = options.chunk_len, group = lsh_.engine_call().group_queries;
    const std::int64_t unit = lsh_.groups_are_chunks() && chunk < kTaskQueries ? chunk : group;
    task_queries_ =
        base::round_up(std::min(kTaskQueries, std::max<std::int64_t>(checked_.seqlen_q, 1)), unit);
    base::Carver counted;
    carve(counted);
    shared_bytes_ = counted.used();
    worker_bytes_ = base::round_up(engine::GatheredWorker<T>::workspace_bytes(lsh_.engine_call()),
                                   base::kAlignment);
    threads_ = lsh_.choose_threads(kFunction, tasks(), shared_bytes_, worker_bytes_);
  }

  LshPlan describe() const {
    LshPlan plan = lsh_.describe_plan(static_cast<double>(checked_.head_dim + checked_.head_dim_v));
    plan.threads = threads_;
    plan.tasks = tasks();
    plan.workspace_bytes = lsh_.bytes(threads_, shared_bytes_, worker_bytes_);
    return plan;
  }

  std::string log_line() const { return lsh_.log_line(kFunction, describe()); }

  void run(const Results& results) {
    const base::Buffer workspace(shared_bytes_ +
                                 static_cast<std::size_t>(threads_) * worker_bytes_);
    base::Carver carver(workspace.data());
    carve(carver);
    std::vector<Worker> workers;
    workers.reserve(static_cast<std::size_t>(threads_));
    for (int w = 0; w < threads_; ++w) {
      workers.emplace_back(
          lsh_, workspace.data() + shared_bytes_ + static_cast<std::size_t>(w) * worker_bytes_);
    }
    lsh_.sort(threads_);
    measure_rows();
    const engine::GatheredCall<T>& call = lsh_.engine_call();
    if (call.progress != nullptr) {
      call.progress->total +=
          lsh_.phases() * lsh_.lists() * base::ceil_div(checked_.seqlen_q, call.rows_per_panel);
    }
    for (std::int64_t phase = 0; phase < lsh_.phases(); ++phase) {
      base::parallel_for(tasks(), threads_, [&](std::int64_t task, int w) {
        attend(results, phase, task, workers[static_cast<std::size_t>(w)]);
      });
    }
  }

 private:
  struct Worker {
    Worker(const LshCall<T>& call, std::byte* memory)
        : engine(call.engine_call(), memory), groups(call.make_groups()) {}
    engine::GatheredWorker<T> engine;
    Groups groups;
  };

  std::int64_t tasks_of_list() const noexcept {
    return base::ceil_div(checked_.seqlen_q, task_queries_);
  }
  std::int64_t tasks() const noexcept { return lsh_.lists() * tasks_of_list(); }

  void carve(base::Carver& carver) {
    lsh_.carve(carver);
    const std::int64_t rows = lsh_.lists() * checked_.seqlen_q;
    bounds_ = carver.take<T>(rows);
    reference_ = carver.take<T>(rows);
    sum_ = carver.take<T>(rows);
    if (copies_output_) numerator_ = carver.take<T>(rows * checked_.head_dim_v);
  }

  // Factors of keys, and bounds of scores: with itself a row of shared vectors has its largest, by
  // Cauchy and Schwarz, since keys are no longer than 1; else the longest key says it.
  void measure_rows() {
    std::vector<double> longest(static_cast<std::size_t>(lsh_.shared() ? 0 : lsh_.lists()));
    base::parallel_for(static_cast<std::int64_t>(longest.size()), threads_,
                       [&](std::int64_t list, int) { longest[list] = longest_key(list); });
    const double scale = std::fabs(lsh_.engine_call().scale);
    lsh_.for_rows(threads_, [&](std::int64_t b, std::int64_t h, std::int64_t n) {
      const std::int64_t list = b * checked_.num_heads + h;
      T& bound = bounds_[list * checked_.seqlen_q + n];
      if (lsh_.shared()) {
        bound = lsh_.measure_shared(b, h, n);
      } else {
        const double squares = lsh_.length_of(checked_.query.source(b, h), n).squares;
        bound = static_cast<T>(scale * std::sqrt(squares) * longest[list]);
      }
    });
  }

  // That is finite.
  double longest_key(std::int64_t list) const {
    const std::int64_t b = list / checked_.num_heads, h = list % checked_.num_heads;
    const engine::RowSource key = checked_.key.source(b, lsh_.rounds().head_kv(h));
    double longest = 0;
    for (std::int64_t n = 0; n < checked_.seqlen_k; ++n) {
      const double length = std::sqrt(lsh_.length_of(key, n).squares);
      if (std::isfinite(length)) longest = std::max(longest, length);
    }
    return longest;
  }

  void attend(const Results& results, std::int64_t phase, std::int64_t task, Worker& worker) {
    const std::int64_t list = task / tasks_of_list();
    const std::int64_t b = list / checked_.num_heads, h = list % checked_.num_heads;
    const std::int64_t begin = task % tasks_of_list() * task_queries_;
    const mask::Range places{begin, std::min(begin + task_queries_, checked_.seqlen_q)};
    engine::GatheredForward<T> head;
    lsh_.describe(b, h, phase, head);
    describe_rows(results, list, head);
    head.first_phase = phase == 0;
    head.last_phase = phase == lsh_.phases() - 1;
    const std::function<double(std::int64_t)> own = [&](std::int64_t i) {
      return lsh_.own_count(b, h, i);
    };
    head.own.count = &own;
    worker.engine.begin(head);
    lsh_.emit(b, h, phase, places, worker.groups,
              [&](const engine::GatheredGroup& group) { worker.engine.run(group); });
  }

  void describe_rows(const Results& results, std::int64_t list,
                     engine::GatheredForward<T>& head) const {
    const std::int64_t row = list * checked_.seqlen_q;
    head.bounds = bounds_ + row;
    head.rows.reference = reference_ + row;
    head.rows.sum = sum_ + row;
    head.rows.output = results.output.target(head.batch, head.head);
    head.rows.lse = results.lse.target(head.batch, head.head);
    head.rows.numerator = head.rows.output;
    if (copies_output_) {
      head.rows.numerator = {numerator_ + row * checked_.head_dim_v, engine::kDTypeOf<T>,
                             checked_.head_dim_v, 1};
    }
    head.own = lsh_.own_pair();
    if (lsh_.shared()) head.own.scores = head.bounds;
  }

  LshCall<T> lsh_;
  const CheckedCall& checked_;
  bool copies_output_;
  std::int64_t task_queries_ = 1;
  std::size_t shared_bytes_ = 0;
  std::size_t worker_bytes_ = 0;
  int threads_ = 1;
  T* bounds_ = nullptr;     // [batch][num_heads][seqlen_q]
  T* reference_ = nullptr;  // likewise
  T* sum_ = nullptr;
  T* numerator_ = nullptr;  // [batch][num_heads][seqlen_q][head_dim_v]
};

// body(LshForward<T>&) with the T in which this dtype is computed.
template <class Body>
auto with_forward(const ConstTensorView& query, const ConstTensorView& key,
                  const CheckedCall& checked, const LshOptions& options,
                  const AttentionOptions& attention, const Execution& execution, DType output,
                  const Body& body) {
  if (checked.query.dtype == DType::kFloat64) {
    LshForward<double> forward({query, key, checked}, options, attention, execution, output);
    return body(forward);
  }
  LshForward<float> forward({query, key, checked}, options, attention, execution, output);
  return body(forward);
}

}  // namespace
}  // namespace lsh

void lsh_attention(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                   Partial result, const LshOptions& options, const AttentionOptions& attention,
                   const Execution& execution) {
  const lsh::CheckedCall checked =
      lsh::check_lsh_call(lsh::kFunction, query, key, value, options, attention, execution);
  engine::ResultChecker checker(lsh::kFunction, checked);
  lsh::Results results;
  results.output = checker.output(result.output);
  results.lse = checker.lse(result.lse);
  lsh::with_forward(query, key, checked, options, attention, execution, result.output.dtype,
                    [&](auto& forward) {
                      const base::CallLog log;
                      forward.run(results);
                      log.write([&] { return forward.log_line(); });
                    });
}

LshPlan plan_lsh_attention(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                           const LshOptions& options, const AttentionOptions& attention,
                           const Execution& execution) {
  const lsh::CheckedCall checked =
      lsh::check_lsh_call(lsh::kFunction, query, key, value, options, attention, execution);
  return lsh::with_forward(query, key, checked, options, attention, execution, query.dtype,
                           [](auto& forward) { return forward.describe(); });
}

}  // namespace longspan
