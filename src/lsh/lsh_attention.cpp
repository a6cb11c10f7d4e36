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
#include "engine/call_setup.h"
#include "engine/checked_call.h"
#include "engine/checked_result.h"
#include "engine/gathered_worker.h"
#include "engine/running_rows.h"
#include "lsh/lsh_call.h"
#include "lsh/recorded_lsh_attention.h"

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
  LshForward(const LshInputs& inputs, const LshOptions& options, const AttentionOptions& attention,
             const Execution& execution, const Results& results, engine::Recorder* recorder)
      : lsh_(inputs, options, attention, execution,
             recorder == nullptr ? inputs.checked.query.dtype : engine::kDTypeOf<T>,
             /*panels_by_depth=*/false, recorder),
        checked_(inputs.checked),
        results_(results),
        numerator_(results.output.target(0, 0), checked_.seqlen_q, checked_.head_dim_v) {
    constexpr std::int64_t kTaskQueries = 1024;
    const std::int64_t chunk = options.chunk_len, group = lsh_.engine_call().group_queries;
    const std::int64_t unit = lsh_.groups_are_chunks() && chunk < kTaskQueries ? chunk : group;
    task_queries_ =
        base::round_up(std::min(kTaskQueries, std::max<std::int64_t>(checked_.seqlen_q, 1)), unit);
    worker_bytes_ = base::round_up(engine::GatheredWorker<T>::workspace_bytes(lsh_.engine_call()),
                                   base::kAlignment);
    threads_ = choose_threads(
        kFunction, execution, lsh_.lists() * tasks_of_list(),
        [&](int threads) { return total_bytes(threads); },
        [&] {
          lsh_.spare_memory();
          numerator_.spare_memory();
        });
    total_bytes_ = total_bytes(threads_);
  }

  LshPlan describe() const {
    LshPlan plan = lsh_.describe_plan(static_cast<double>(checked_.head_dim + checked_.head_dim_v));
    plan.threads = threads_;
    plan.tasks = lsh_.lists() * tasks_of_list();
    plan.workspace_bytes = total_bytes_;
    return plan;
  }
  std::string log_line() const { return lsh_.log_line(kFunction, describe()); }

  void run() {
    if (lsh_.lists() * checked_.seqlen_q == 0) return;
    const base::Buffer workspace(total_bytes_ - lsh_.sorting_bytes(threads_));
    base::Carver carver(workspace.data());
    carve(carver, at_once(threads_));
    std::vector<Worker> workers;
    workers.reserve(static_cast<std::size_t>(threads_));
    for (int w = 0; w < threads_; ++w) {
      workers.emplace_back(lsh_, carver.take<std::byte>(static_cast<std::int64_t>(worker_bytes_)));
    }
    lsh_.begin(threads_);
    const std::int64_t step = at_once(threads_);
    for (std::int64_t first = 0; first < lsh_.key_heads(); first += step) {
      lsh_.open(first, std::min(step, lsh_.key_heads() - first), threads_);
      measure_rows();
      for (std::int64_t phase = 0; phase < lsh_.phases(); ++phase) run_phase(phase, workers);
      finish();
    }
  }

 private:
  using List = typename LshCall<T>::List;
  struct Worker {
    Worker(const LshCall<T>& call, std::byte* memory)
        : engine(call.engine_call(), memory), groups(call.make_groups()) {}
    engine::GatheredWorker<T> engine;
    Groups groups;
  };

  std::int64_t tasks_of_list() const noexcept {
    return base::ceil_div(checked_.seqlen_q, task_queries_);
  }
  std::int64_t at_once(int threads) const noexcept {
    return lsh_.key_heads_at_once(threads, lsh_.lists_of_key_head() * tasks_of_list());
  }

  void carve(base::Carver& carver, std::int64_t open_key_heads) {
    lsh_.carve(carver, open_key_heads);
    const std::int64_t lists = open_key_heads * lsh_.lists_of_key_head();
    bounds_ = carver.take<T>(lists * checked_.seqlen_q);
    reference_ = carver.take<T>(lists * checked_.seqlen_q);
    sum_ = carver.take<T>(lists * checked_.seqlen_q);
    numerator_.carve(carver, lists);
  }

  // With what sorting allocates for itself.
  std::size_t total_bytes(int threads) {
    base::Carver counted;
    carve(counted, at_once(threads));
    return counted.used() + static_cast<std::size_t>(threads) * worker_bytes_ +
           lsh_.sorting_bytes(threads);
  }

  // Factors of keys, and bounds of scores: with itself a row of shared vectors has its largest, by
  // Cauchy and Schwarz, since keys are no longer than 1; else the longest key says it.
  void measure_rows() {
    std::vector<double> longest(
        static_cast<std::size_t>(lsh_.shared() ? 0 : lsh_.open_key_heads()));
    base::parallel_for(static_cast<std::int64_t>(longest.size()), threads_,
                       [&](std::int64_t n, int) {
                         longest[n] = longest_key(lsh_.list_at(n * lsh_.lists_of_key_head()));
                       });
    const double scale = std::fabs(lsh_.engine_call().scale);
    lsh_.for_parts(checked_.seqlen_q, threads_, [&](const List& list, mask::Range rows) {
      for (std::int64_t n = rows.begin; n < rows.end; ++n) {
        T& bound = bounds_[lsh_.row_of(list, n)];
        if (lsh_.shared()) {
          bound = lsh_.measure_shared(list, n);
        } else {
          const double squares = lsh_.length_of(lsh_.query_rows(list), n).squares;
          bound = static_cast<T>(scale * std::sqrt(squares) * longest[list.key_place]);
        }
      }
    });
  }

  // That is finite.
  double longest_key(const List& list) const {
    const engine::RowSource key = lsh_.key_rows(list);
    double longest = 0;
    for (std::int64_t n = 0; n < checked_.seqlen_k; ++n) {
      const double length = std::sqrt(lsh_.length_of(key, n).squares);
      if (std::isfinite(length)) longest = std::max(longest, length);
    }
    return longest;
  }

  void run_phase(std::int64_t phase, std::vector<Worker>& workers) {
    const std::int64_t tasks = tasks_of_list();
    base::parallel_for(lsh_.open_lists() * tasks, threads_, [&](std::int64_t task, int w) {
      const std::int64_t begin = task % tasks * task_queries_;
      attend(lsh_.list_at(task / tasks), phase,
             {begin, std::min(begin + task_queries_, checked_.seqlen_q)},
             workers[static_cast<std::size_t>(w)]);
    });
  }

  void attend(const List& list, std::int64_t phase, mask::Range places, Worker& worker) {
    engine::GatheredForward<T> head = describe(list, phase);
    head.phase = phase;
    worker.engine.begin(head);
    lsh_.emit(list, phase, places, worker.groups,
              [&](const engine::GatheredGroup& group) { worker.engine.run(group); });
  }

  void finish() {
    const std::int64_t tasks = tasks_of_list();
    base::parallel_for(lsh_.open_lists() * tasks, threads_, [&](std::int64_t task, int) {
      const List list = lsh_.list_at(task / tasks);
      engine::GatheredForward<T> head = describe(list, /*phase=*/0);
      const std::function<double(std::int64_t)> own = [&](std::int64_t i) {
        return lsh_.own_count(list, i);
      };
      head.own.count = &own;
      const std::int64_t begin = task % tasks * task_queries_;
      engine::finish_rows(lsh_.engine_call(), head,
                          {begin, std::min(begin + task_queries_, checked_.seqlen_q)});
    });
  }

  engine::GatheredForward<T> describe(const List& list, std::int64_t phase) const {
    engine::GatheredForward<T> head;
    lsh_.describe(list, phase, head);
    const std::int64_t row = lsh_.row_of(list, 0);
    // A recorded panel looks for its true maxima.
    if (lsh_.engine_call().recorder == nullptr) head.bounds = bounds_ + row;
    head.rows.reference = reference_ + row;
    head.rows.sum = sum_ + row;
    head.rows.output = results_.output.target(list.b, list.h);
    head.rows.lse = results_.lse.target(list.b, list.h);
    head.rows.numerator = numerator_.rows(list.place, head.rows.output);
    head.own = lsh_.own_pair();
    if (lsh_.shared()) head.own.scores = bounds_ + row;
    return head;
  }

  LshCall<T> lsh_;
  const CheckedCall& checked_;
  const Results& results_;
  engine::ListSums<T> numerator_;
  std::int64_t task_queries_ = 1;
  std::size_t worker_bytes_ = 0;
  std::size_t total_bytes_ = 0;
  int threads_ = 1;
  T* bounds_ = nullptr;     // [open lists][seqlen_q]
  T* reference_ = nullptr;  // likewise
  T* sum_ = nullptr;
};

void run_forward(const ConstTensorView& query, const ConstTensorView& key,
                 const ConstTensorView& value, const Partial& result, const LshOptions& options,
                 const AttentionOptions& attention, const Execution& execution,
                 engine::Recorder* recorder) {
  const CheckedCall checked =
      check_lsh_call(kFunction, query, key, value, options, attention, execution);
  engine::ResultChecker checker(checked);
  Results results;
  results.output = checker.output(result.output);
  results.lse = checker.lse(result.lse);
  const auto run = [](auto& forward) {
    const base::CallLog log;
    forward.run();
    log.write([&] { return forward.log_line(); });
  };
  engine::with_pass<lsh::LshForward>(query.dtype, run, lsh::LshInputs{query, key, checked}, options,
                                     attention, execution, results, recorder);
}

}  // namespace

void record_lsh_attention(const ConstTensorView& query, const ConstTensorView& key,
                          const ConstTensorView& value, const Partial& result,
                          const LshOptions& options, const AttentionOptions& attention,
                          Execution execution, engine::Recorder& recorder) {
  execution.threads = 1;
  run_forward(query, key, value, result, options, attention, execution, &recorder);
}

}  // namespace lsh

void lsh_attention(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                   Partial result, const LshOptions& options, const AttentionOptions& attention,
                   const Execution& execution) {
  lsh::run_forward(query, key, value, result, options, attention, execution, nullptr);
}

LshPlan plan_lsh_attention(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                           const LshOptions& options, const AttentionOptions& attention,
                           const Execution& execution) {
  const lsh::CheckedCall checked =
      lsh::check_lsh_call(lsh::kFunction, query, key, value, options, attention, execution);
  lsh::Results results;  // the plan asks how they lie, no more
  results.output =
      engine::planned_tensor(checked.query.dtype, checked.num_heads, checked.head_dim_v);
  return engine::with_pass<lsh::LshForward>(
      query.dtype, [](auto& forward) { return forward.describe(); },
      lsh::LshInputs{query, key, checked}, options, attention, execution, results,
      static_cast<engine::Recorder*>(nullptr));
}

}  // namespace longspan
