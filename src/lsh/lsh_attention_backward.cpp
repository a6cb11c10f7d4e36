// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The backward pass of LSH attention: the tiles of the forward pass once more, with the lse of all
// rounds together. Buckets are found again as the forward pass found them.
#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/call_log.h"
#include "base/check.h"
#include "base/parallel_for.h"
#include "base/row_sums.h"
#include "engine/backward_tensors.h"
#include "engine/call_setup.h"
#include "engine/checked_call.h"
#include "engine/checked_result.h"
#include "engine/delta.h"
#include "engine/gathered_gradients.h"
#include "longspan/lsh_attention.h"
#include "lsh/key_shares.h"
#include "lsh/lsh_call.h"

namespace longspan {
namespace lsh {
namespace {

using engine::BackwardTensors;
using engine::CheckedCall;
using engine::RowSource;
using engine::RowTarget;

constexpr const char* kFunction = "lsh_attention_backward";

template <class T>
class LshBackward {
 public:
  LshBackward(const LshInputs& inputs, const LshOptions& options, const AttentionOptions& attention,
              const Execution& execution, const BackwardTensors& tensors)
      : lsh_(inputs, options, attention, execution, operands(inputs.checked, tensors),
             /*panels_by_depth=*/true),
        checked_(inputs.checked),
        tensors_(tensors),
        doutput_(tensors.doutput.source(0, 0), checked_.seqlen_q, checked_.head_dim_v),
        dquery_(tensors.dquery.target(0, 0), checked_.seqlen_q, checked_.head_dim),
        dkey_(tensors.dkey.target(0, 0), checked_.seqlen_k, checked_.head_dim),
        dvalue_(tensors.dvalue.target(0, 0), checked_.seqlen_k, checked_.head_dim_v) {
    const engine::GatheredCall<T>& call = lsh_.engine_call();
    if (const mask::BoundMask* local = lsh_.local_mask()) {
      local_shares_.emplace(lsh_.rounds(), *local, call.run_keys);
    }
    round_shares_.emplace(lsh_.rounds());
    for (const auto& turn : round_shares_->turns()) {
      longest_turn_ = std::max(longest_turn_, static_cast<std::int64_t>(turn.size()));
    }
    worker_bytes_ = base::round_up(engine::GatheredGradients<T>::workspace_bytes(call, wanted()),
                                   base::kAlignment);
    threads_ = choose_threads(
        kFunction, execution, lsh_.key_heads() * longest_turn_,
        [&](int threads) { return total_bytes(threads); },
        [&] {
          lsh_.spare_memory();
          doutput_.spare_memory();
          for (engine::ListSums<T>* sums : {&dquery_, &dkey_, &dvalue_}) sums->spare_memory();
        });
    total_bytes_ = total_bytes(threads_);
  }

  LshPlan describe() const {
    LshPlan plan =
        lsh_.describe_plan(static_cast<double>(3 * checked_.head_dim + 2 * checked_.head_dim_v));
    plan.threads = threads_;
    plan.tasks = lsh_.key_heads() * longest_turn_;
    plan.workspace_bytes = total_bytes_;
    return plan;
  }
  std::string log_line() const { return lsh_.log_line(kFunction, describe()); }

  void run() {
    if (lsh_.lists() * checked_.seqlen_q > 0) return run_key_heads();
    clear_unseen_keys();
    reduce_sinks();
  }

 private:
  using List = typename LshCall<T>::List;
  struct Worker {
    Worker(const LshCall<T>& call, engine::WantedGradients wanted, std::byte* memory)
        : engine(call.engine_call(), wanted, memory), groups(call.make_groups()) {}
    engine::GatheredGradients<T> engine;
    Groups groups;
  };

  void run_key_heads() {
    const base::Buffer workspace(total_bytes_ - lsh_.sorting_bytes(threads_));
    base::Carver carver(workspace.data());
    const std::int64_t step = lsh_.key_heads_at_once(threads_, longest_turn_);
    carve(carver, step);
    std::vector<Worker> workers;
    workers.reserve(static_cast<std::size_t>(threads_));
    for (int w = 0; w < threads_; ++w) {
      workers.emplace_back(lsh_, wanted(),
                           carver.take<std::byte>(static_cast<std::int64_t>(worker_bytes_)));
    }
    lsh_.begin(threads_);
    for (std::int64_t first = 0; first < lsh_.key_heads(); first += step) {
      lsh_.open(first, std::min(step, lsh_.key_heads() - first), threads_);
      begin_rows();
      for (std::int64_t phase = 0; phase < lsh_.phases(); ++phase) run_phase(phase, workers);
      end_rows();
    }
    reduce_sinks();
  }

  void reduce_sinks() const {
    if (!is_given(tensors_.dsinks)) return;
    engine::reduce_sinks(checked_, tensors_.lse, delta_, tensors_.dsinks);
  }

  // Operands are of one type: where doutput is wider than the inputs, they are widened.
  static DType operands(const CheckedCall& checked, const BackwardTensors& tensors) {
    const DType doutput = tensors.doutput.dtype;
    return doutput == checked.query.dtype ? doutput : engine::kDTypeOf<T>;
  }

  // Shared keys are queries, too.
  engine::WantedGradients wanted() const noexcept {
    return {dquery_.wanted(), lsh_.shared() ? dquery_.wanted() : dkey_.wanted(), dvalue_.wanted()};
  }

  void carve(base::Carver& carver, std::int64_t open_key_heads) {
    const std::int64_t open_lists = open_key_heads * lsh_.lists_of_key_head();
    lsh_.carve(carver, open_key_heads);
    delta_ = carver.take<T>(lsh_.lists() * checked_.seqlen_q);
    if (lsh_.shared()) own_scores_ = carver.take<T>(open_lists * checked_.seqlen_q);
    doutput_.carve(carver, open_lists);
    dquery_.carve(carver, open_lists);
    dkey_.carve(carver, open_key_heads);
    dvalue_.carve(carver, open_key_heads);
  }

  // With what sorting allocates for itself.
  std::size_t total_bytes(int threads) {
    base::Carver counted;
    carve(counted, lsh_.key_heads_at_once(threads, longest_turn_));
    return counted.used() + static_cast<std::size_t>(threads) * worker_bytes_ +
           lsh_.sorting_bytes(threads);
  }

  T* delta_of(const List& list) const noexcept {
    return delta_ + (list.b * checked_.num_heads + list.h) * checked_.seqlen_q;
  }
  RowSource doutput_rows(const List& list) const noexcept {
    return doutput_.rows(list.place, tensors_.doutput.source(list.b, list.h));
  }
  RowTarget dquery_rows(const List& list) const noexcept {
    return dquery_.rows(list.place, tensors_.dquery.target(list.b, list.h));
  }
  RowTarget dkey_rows(const List& list) const noexcept {
    return dkey_.rows(list.key_place, tensors_.dkey.target(list.b, list.head_kv));
  }
  RowTarget dvalue_rows(const List& list) const noexcept {
    return dvalue_.rows(list.key_place, tensors_.dvalue.target(list.b, list.head_kv));
  }

  // delta of every row, and what its pair with itself adds: the first of all sums.
  void begin_rows() {
    if (!lsh_.shared()) clear_keys();
    lsh_.for_parts(checked_.seqlen_q, threads_, [&](const List& list, mask::Range rows) {
      doutput_.load(list.place, tensors_.doutput.source(list.b, list.h), rows);
      const RowSource output = tensors_.output.source(list.b, list.h);
      engine::for_fetched(rows, {output, doutput_rows(list)}, checked_.head_dim_v,
                          [&](std::int64_t n) { begin_row(list, n, output); });
    });
  }

  void begin_row(const List& list, std::int64_t n, const RowSource& output) {
    const RowSource dlse = tensors_.dlse.source(list.b, list.h);
    double delta = base::row_dot(output, doutput_rows(list), n, checked_.head_dim_v);
    if (dlse.data != nullptr) delta -= engine::number_at(dlse, n);
    delta_of(list)[n] = static_cast<T>(delta);
    if (lsh_.shared()) {
      own_scores_[lsh_.row_of(list, n)] = lsh_.measure_shared(list, n);
      set_own(list, n, delta);
    } else {
      set_row(dquery_rows(list), n, checked_.head_dim, [](std::int64_t) { return 0.0; });
    }
  }

  // Keys without queries.
  void clear_unseen_keys() const {
    if (checked_.num_heads_kv * checked_.seqlen_k == 0) return;
    const std::vector<T> zeros(
        static_cast<std::size_t>(std::max(checked_.head_dim, checked_.head_dim_v)));
    const auto clear = [&](const engine::TensorAxes& gradient, std::int64_t dim, std::int64_t b,
                           std::int64_t h) {
      if (gradient.data == nullptr) return;
      lsh_.engine_call().kernel->store_rows(gradient.target(b, h), 0, checked_.seqlen_k, dim,
                                            zeros.data(), 0, T{1});
    };
    for (std::int64_t b = 0; b < checked_.batch; ++b) {
      for (std::int64_t h = 0; h < checked_.num_heads_kv; ++h) {
        clear(tensors_.dkey, checked_.head_dim, b, h);
        clear(tensors_.dvalue, checked_.head_dim_v, b, h);
      }
    }
  }

  void clear_keys() const {
    base::parallel_for(lsh_.open_key_heads(), threads_, [&](std::int64_t key_head, int) {
      const List list = lsh_.list_at(key_head * lsh_.lists_of_key_head());
      for (std::int64_t n = 0; n < checked_.seqlen_k; ++n) {
        set_row(dkey_rows(list), n, checked_.head_dim, [](std::int64_t) { return 0.0; });
        set_row(dvalue_rows(list), n, checked_.head_dim_v, [](std::int64_t) { return 0.0; });
      }
    });
  }

  template <class Number>
  static void set_row(const RowTarget& target, std::int64_t n, std::int64_t dim,
                      const Number& number) {
    if (target.data == nullptr) return;
    T* row = static_cast<T*>(target.data) + n * target.row_stride;
    for (std::int64_t d = 0; d < dim; ++d) row[d * target.dim_stride] = static_cast<T>(number(d));
  }

  // query . key of a row with itself is f |row|^2 with f the factor of the key, which is
  // 1 / length, so that its gradient is f (2 - f^2 |row|^2) row, or 2 f row where f is constant.
  void set_own(const List& list, std::int64_t n, double delta) const {
    const RowSource query = lsh_.query_rows(list), doutput = doutput_rows(list);
    const engine::OwnScore score = own_score(list, n);
    const double weight = own_weight(list, n, score.score);
    double dquery = 0;
    if (weight != 0 && score.slope != 0) {  // NaN, too
      // Summed as delta is: where a row sees itself alone, both are equal.
      const double dweight = base::sum_of(checked_.head_dim_v, [&](std::int64_t d) {
        return engine::component(doutput, n, d) * engine::component(lsh_.value_rows(list), n, d);
      });
      const auto [squares, factor] = lsh_.length_of(query, n);
      const bool constant = factor >= constant_factor(lsh_.rounds().options().key_norm);
      const double bent = constant ? 2 : 2 - factor * factor * squares;
      dquery = weight * (dweight - delta) * score.slope * lsh_.engine_call().scale * factor * bent;
    }
    set_row(dquery_rows(list), n, checked_.head_dim, [&](std::int64_t d) {
      return dquery == 0 ? 0 : dquery * engine::component(query, n, d);
    });
    set_row(dvalue_rows(list), n, checked_.head_dim_v, [&](std::int64_t d) {
      return weight == 0 ? 0 : weight * engine::component(doutput, n, d);
    });
  }

  engine::OwnScore own_score(const List& list, std::int64_t n) const {
    engine::OwnPair<T> own = lsh_.own_pair();
    own.scores = own_scores_ + lsh_.row_of(list, 0);
    return engine::own_score(lsh_.engine_call(), own, list.b, list.h, n);
  }

  double own_weight(const List& list, std::int64_t n, double score) const {
    const double lse = engine::number_at(tensors_.lse.source(list.b, list.h), n);
    if ((std::isinf(lse) && lse < 0) || score < lse - engine::kNoWeightBelow) return 0;
    const double count = lsh_.own_count(list, n);
    if (count == 0) return 0;
    // Rounded as lse is: where a row sees itself alone, both are equal.
    return std::exp(static_cast<double>(static_cast<T>(score + std::log(count))) - lse);
  }

  void run_phase(std::int64_t phase, std::vector<Worker>& workers) const {
    const KeyShares& shares = lsh_.is_local(phase) ? *local_shares_ : *round_shares_;
    const std::int64_t round = std::max<std::int64_t>(lsh_.round_of(phase), 0);
    for (const std::vector<std::int64_t>& turn : shares.turns()) {
      const auto size = static_cast<std::int64_t>(turn.size());
      base::parallel_for(lsh_.open_key_heads() * size, threads_, [&](std::int64_t task, int w) {
        const std::int64_t share = turn[static_cast<std::size_t>(task % size)];
        for (std::int64_t g = 0; g < lsh_.lists_of_key_head(); ++g) {
          const List list = lsh_.list_at(task / size * lsh_.lists_of_key_head() + g);
          run_share(list, phase, shares.places(list.b, list.h, round, share),
                    workers[static_cast<std::size_t>(w)]);
        }
      });
    }
  }

  void run_share(const List& list, std::int64_t phase, mask::Range places, Worker& worker) const {
    engine::GatheredBackward<T> head;
    lsh_.describe(list, phase, head);
    head.doutput = doutput_rows(list);
    head.lse = tensors_.lse.source(list.b, list.h);
    head.delta = delta_of(list);
    head.dquery = dquery_rows(list);
    head.dkey = dkey_rows(list);
    head.dvalue = dvalue_rows(list);
    worker.engine.begin(head);
    lsh_.emit(list, phase, places, worker.groups,
              [&](const engine::GatheredGroup& group) { worker.engine.run(group); });
    worker.engine.end();
  }

  void end_rows() const {
    const kernel::KernelTable<T>& kernel = *lsh_.engine_call().kernel;
    lsh_.for_parts(std::max(checked_.seqlen_q, checked_.seqlen_k), threads_,
                   [&](const List& list, mask::Range part) {
                     dquery_.store(kernel, list.place, tensors_.dquery.target(list.b, list.h),
                                   part);
                     if (list.place % lsh_.lists_of_key_head() != 0) return;
                     const std::int64_t n = list.key_place;
                     dkey_.store(kernel, n, tensors_.dkey.target(list.b, list.head_kv), part);
                     dvalue_.store(kernel, n, tensors_.dvalue.target(list.b, list.head_kv), part);
                   });
  }

  LshCall<T> lsh_;
  const CheckedCall& checked_;
  const BackwardTensors& tensors_;
  engine::ListRows doutput_;
  engine::ListSums<T> dquery_;
  engine::ListSums<T> dkey_;  // of separate keys
  engine::ListSums<T> dvalue_;
  std::optional<KeyShares> local_shares_;
  std::optional<KeyShares> round_shares_;
  std::int64_t longest_turn_ = 0;
  std::size_t worker_bytes_ = 0;
  std::size_t total_bytes_ = 0;
  int threads_ = 1;
  T* delta_ = nullptr;       // [batch][num_heads][seqlen_q]
  T* own_scores_ = nullptr;  // [open lists][seqlen_q], of shared vectors
};

}  // namespace
}  // namespace lsh

void lsh_attention_backward(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                            ConstPartial result, ConstPartial dresult, Gradients into,
                            const LshOptions& options, const AttentionOptions& attention,
                            const Execution& execution) {
  const lsh::CheckedCall checked =
      lsh::check_lsh_call(lsh::kFunction, query, key, value, options, attention, execution);
  base::require(is_given(key) || !is_given(into.key), [] {
    return std::string(lsh::kFunction) +
           ": dkey is asked for, but query and key are shared; their gradient is dquery";
  });
  const lsh::BackwardTensors tensors =
      engine::check_backward(checked, result, dresult, into, attention);
  const auto run = [](auto& backward) {
    const base::CallLog log;
    backward.run();
    log.write([&] { return backward.log_line(); });
  };
  engine::with_pass<lsh::LshBackward>(query.dtype, run, lsh::LshInputs{query, key, checked},
                                      options, attention, execution, tensors);
}

LshPlan plan_lsh_attention_backward(ConstTensorView query, ConstTensorView key,
                                    ConstTensorView value, const LshOptions& options,
                                    const AttentionOptions& attention, const Execution& execution) {
  const lsh::CheckedCall checked =
      lsh::check_lsh_call(lsh::kFunction, query, key, value, options, attention, execution);
  const lsh::BackwardTensors tensors = engine::planned_gradients(checked, is_given(key));
  return engine::with_pass<lsh::LshBackward>(
      query.dtype, [](auto& backward) { return backward.describe(); },
      lsh::LshInputs{query, key, checked}, options, attention, execution, tensors);
}

}  // namespace longspan
