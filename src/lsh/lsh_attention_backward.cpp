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
#include "engine/backward_tensors.h"
#include "engine/checked_call.h"
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

// Sums of T over all rounds: the gradient itself, or a copy that is rounded to it at the end.
template <class T>
class GradientSum {
 public:
  GradientSum(const engine::TensorAxes& into, std::int64_t batch, std::int64_t heads,
              std::int64_t seqlen, std::int64_t dim)
      : into_(into), batch_(batch), heads_(heads), seqlen_(seqlen), dim_(dim) {}

  bool wanted() const noexcept { return into_.data != nullptr; }
  void carve(base::Carver& carver) {
    if (copies()) copy_ = carver.take<T>(batch_ * heads_ * seqlen_ * dim_);
  }
  RowTarget rows(std::int64_t b, std::int64_t h) const noexcept {
    if (!copies()) return into_.target(b, h);
    return {copy_ + (b * heads_ + h) * seqlen_ * dim_, engine::kDTypeOf<T>, dim_, 1};
  }
  // row(d) for every component of row n.
  template <class Number>
  void set(std::int64_t b, std::int64_t h, std::int64_t n, const Number& number) const {
    if (!wanted()) return;
    const RowTarget target = rows(b, h);
    T* row = static_cast<T*>(target.data) + n * target.row_stride;
    for (std::int64_t d = 0; d < dim_; ++d) row[d * target.dim_stride] = number(d);
  }
  void clear(int threads) const {
    for_lists(threads, [&](std::int64_t b, std::int64_t h) {
      for (std::int64_t n = 0; n < seqlen_; ++n) set(b, h, n, [](std::int64_t) { return T{0}; });
    });
  }
  void finish(const kernel::KernelTable<T>& kernel, int threads) const {
    if (!copies()) return;
    for_lists(threads, [&](std::int64_t b, std::int64_t h) {
      kernel.store_rows(into_.target(b, h), 0, seqlen_, dim_,
                        static_cast<const T*>(rows(b, h).data), dim_, T{1});
    });
  }

 private:
  bool copies() const noexcept { return wanted() && into_.dtype != engine::kDTypeOf<T>; }
  template <class Body>
  void for_lists(int threads, const Body& body) const {
    base::parallel_for(batch_ * heads_, threads,
                       [&](std::int64_t list, int) { body(list / heads_, list % heads_); });
  }

  engine::TensorAxes into_;
  std::int64_t batch_, heads_, seqlen_, dim_;
  T* copy_ = nullptr;
};

template <class T>
class LshBackward {
 public:
  LshBackward(const typename LshCall<T>::Tensors& inputs, const LshOptions& options,
              const AttentionOptions& attention, const Execution& execution,
              const BackwardTensors& tensors)
      : lsh_(inputs, options, attention, execution, operands(inputs.checked, tensors),
             /*panels_by_depth=*/true),
        checked_(inputs.checked),
        tensors_(tensors),
        dquery_(tensors.dquery, checked_.batch, checked_.num_heads, checked_.seqlen_q,
                checked_.head_dim),
        dkey_(tensors.dkey, checked_.batch, checked_.num_heads_kv, checked_.seqlen_k,
              checked_.head_dim),
        dvalue_(tensors.dvalue, checked_.batch, checked_.num_heads_kv, checked_.seqlen_k,
                checked_.head_dim_v) {
    engine::GatheredCall<T>& call = lsh_.engine_call();
    call.element_bytes =
        std::max(call.element_bytes, static_cast<std::int64_t>(size_of(tensors.doutput.dtype)));
    if (const mask::BoundMask* local = lsh_.local_mask()) {
      local_shares_.emplace(lsh_.rounds(), *local, call.run_keys);
    }
    round_shares_.emplace(lsh_.rounds());
    base::Carver counted;
    carve(counted);
    shared_bytes_ = counted.used();
    worker_bytes_ =
        base::round_up(engine::GatheredGradients<T>::workspace_bytes(call), base::kAlignment);
    threads_ = lsh_.choose_threads(kFunction, tasks(), shared_bytes_, worker_bytes_);
  }

  LshPlan describe() const {
    LshPlan plan =
        lsh_.describe_plan(static_cast<double>(3 * checked_.head_dim + 2 * checked_.head_dim_v));
    plan.threads = threads_;
    plan.tasks = tasks();
    plan.workspace_bytes = lsh_.bytes(threads_, shared_bytes_, worker_bytes_);
    return plan;
  }
  std::string log_line() const { return lsh_.log_line(kFunction, describe()); }

  void run() {
    const base::Buffer workspace(shared_bytes_ +
                                 static_cast<std::size_t>(threads_) * worker_bytes_);
    base::Carver carver(workspace.data());
    carve(carver);
    std::vector<Worker> workers;
    workers.reserve(static_cast<std::size_t>(threads_));
    for (int w = 0; w < threads_; ++w) {
      workers.emplace_back(
          lsh_, wanted(),
          workspace.data() + shared_bytes_ + static_cast<std::size_t>(w) * worker_bytes_);
    }
    lsh_.sort(threads_);
    prepare_rows();
    const engine::GatheredCall<T>& call = lsh_.engine_call();
    if (call.progress != nullptr) {
      call.progress->total +=
          lsh_.phases() * lsh_.lists() * base::ceil_div(checked_.seqlen_q, call.rows_per_panel);
    }
    for (std::int64_t phase = 0; phase < lsh_.phases(); ++phase) run_phase(phase, workers);
    for (const GradientSum<T>* sum : {&dquery_, &dkey_, &dvalue_}) {
      sum->finish(*call.kernel, threads_);
    }
    if (is_given(tensors_.dsinks)) {
      engine::reduce_sinks(checked_, tensors_.lse, delta_, tensors_.dsinks);
    }
  }

 private:
  struct Worker {
    Worker(const LshCall<T>& call, engine::WantedGradients wanted, std::byte* memory)
        : engine(call.engine_call(), wanted, memory), groups(call.make_groups()) {}
    engine::GatheredGradients<T> engine;
    Groups groups;
  };

  // Operands are of one type: where doutput is wider than the inputs, they are widened.
  static DType operands(const CheckedCall& checked, const BackwardTensors& tensors) {
    const DType doutput = tensors.doutput.dtype;
    return doutput == checked.query.dtype ? doutput : engine::kDTypeOf<T>;
  }

  // Shared keys are queries, too.
  engine::WantedGradients wanted() const noexcept {
    return {dquery_.wanted(), lsh_.shared() ? dquery_.wanted() : dkey_.wanted(), dvalue_.wanted()};
  }

  void carve(base::Carver& carver) {
    lsh_.carve(carver);
    const std::int64_t rows = lsh_.lists() * checked_.seqlen_q;
    delta_ = carver.take<T>(rows);
    if (lsh_.shared()) own_scores_ = carver.take<T>(rows);
    for (GradientSum<T>* sum : {&dquery_, &dkey_, &dvalue_}) sum->carve(carver);
  }

  std::int64_t lists_kv() const noexcept { return checked_.batch * checked_.num_heads_kv; }
  // Of the longest turn.
  std::int64_t tasks() const noexcept {
    std::size_t most = 0;
    for (const auto& turn : round_shares_->turns()) most = std::max(most, turn.size());
    return lists_kv() * static_cast<std::int64_t>(most);
  }

  // delta of every row, and what its pair with itself adds: the first of all sums.
  void prepare_rows() {
    if (!lsh_.shared()) {
      for (const GradientSum<T>* sum : {&dquery_, &dkey_, &dvalue_}) sum->clear(threads_);
    }
    lsh_.for_rows(threads_, [&](std::int64_t b, std::int64_t h, std::int64_t n) {
      const std::int64_t at = (b * checked_.num_heads + h) * checked_.seqlen_q + n;
      const RowSource dlse = tensors_.dlse.source(b, h);
      double delta = engine::row_dot(tensors_.output.source(b, h), tensors_.doutput.source(b, h), n,
                                     checked_.head_dim_v);
      if (dlse.data != nullptr) delta -= engine::number_at(dlse, n);
      delta_[at] = static_cast<T>(delta);
      if (!lsh_.shared()) return;
      own_scores_[at] = lsh_.measure_shared(b, h, n);
      set_own(b, h, n, delta);
    });
  }

  // query . key of a row with itself is f |row|^2 with f the factor of the key, which is
  // 1 / length, so that its gradient is f (2 - f^2 |row|^2) row, or 2 f row where f is constant.
  void set_own(std::int64_t b, std::int64_t h, std::int64_t n, double delta) const {
    const RowSource query = checked_.query.source(b, h);
    const RowSource doutput = tensors_.doutput.source(b, h);
    const double weight = own_weight(b, h, n);
    double dquery = 0;
    if (weight != 0) {  // NaN, too
      const double dweight = dot_of(doutput, checked_.value.source(b, h), n);
      const auto [squares, factor] = lsh_.length_of(query, n);
      const bool constant = factor >= constant_factor(lsh_.rounds().options().key_norm);
      const double bent = constant ? 2 : 2 - factor * factor * squares;
      const double slope = own_score(b, h, n).slope * lsh_.engine_call().scale;
      if (slope != 0) dquery = weight * (dweight - delta) * slope * factor * bent;
    }
    dquery_.set(b, h, n, [&](std::int64_t d) {
      return dquery == 0 ? T{0} : static_cast<T>(dquery * engine::component(query, n, d));
    });
    dvalue_.set(b, h, n, [&](std::int64_t d) {
      return weight == 0 ? T{0} : static_cast<T>(weight * engine::component(doutput, n, d));
    });
  }

  double dot_of(const RowSource& a, const RowSource& b, std::int64_t n) const {
    double sum = 0;
    for (std::int64_t d = 0; d < checked_.head_dim_v; ++d) {
      sum += engine::component(a, n, d) * engine::component(b, n, d);
    }
    return sum;
  }

  engine::OwnScore own_score(std::int64_t b, std::int64_t h, std::int64_t n) const {
    engine::OwnPair<T> own = lsh_.own_pair();
    own.scores = own_scores_ + (b * checked_.num_heads + h) * checked_.seqlen_q;
    return engine::own_score(lsh_.engine_call(), own, b, h, n);
  }

  double own_weight(std::int64_t b, std::int64_t h, std::int64_t n) const {
    const double lse = engine::number_at(tensors_.lse.source(b, h), n);
    const double score = own_score(b, h, n).score;
    if ((std::isinf(lse) && lse < 0) || score < lse - engine::kFar) return 0;
    const double count = lsh_.own_count(b, h, n);
    if (count == 0) return 0;
    // Rounded as lse is: where a row sees itself alone, both are equal.
    return std::exp(static_cast<double>(static_cast<T>(score + std::log(count))) - lse);
  }

  void run_phase(std::int64_t phase, std::vector<Worker>& workers) const {
    const KeyShares& shares = lsh_.is_local(phase) ? *local_shares_ : *round_shares_;
    for (const std::vector<std::int64_t>& turn : shares.turns()) {
      const auto size = static_cast<std::int64_t>(turn.size());
      base::parallel_for(lists_kv() * size, threads_, [&](std::int64_t task, int w) {
        const std::int64_t b = task / size / checked_.num_heads_kv;
        const std::int64_t head_kv = task / size % checked_.num_heads_kv;
        const std::int64_t group = checked_.num_heads / checked_.num_heads_kv;
        const std::int64_t share = turn[static_cast<std::size_t>(task % size)];
        for (std::int64_t h = head_kv * group; h < (head_kv + 1) * group; ++h) {
          const mask::Range places =
              shares.places(b, h, std::max<std::int64_t>(lsh_.round_of(phase), 0), share);
          run_share(b, h, phase, places, workers[static_cast<std::size_t>(w)]);
        }
      });
    }
  }

  void run_share(std::int64_t b, std::int64_t h, std::int64_t phase, mask::Range places,
                 Worker& worker) const {
    engine::GatheredBackward<T> head;
    lsh_.describe(b, h, phase, head);
    head.doutput = tensors_.doutput.source(b, h);
    head.lse = tensors_.lse.source(b, h);
    head.delta = delta_ + (b * checked_.num_heads + h) * checked_.seqlen_q;
    const std::int64_t head_kv = lsh_.rounds().head_kv(h);
    head.dquery = dquery_.rows(b, h);
    if (!lsh_.shared()) head.dkey = dkey_.rows(b, head_kv);
    head.dvalue = dvalue_.rows(b, head_kv);
    worker.engine.begin(head);
    lsh_.emit(b, h, phase, places, worker.groups,
              [&](const engine::GatheredGroup& group) { worker.engine.run(group); });
    worker.engine.end();
  }

  LshCall<T> lsh_;
  const CheckedCall& checked_;
  const BackwardTensors& tensors_;
  GradientSum<T> dquery_;
  GradientSum<T> dkey_;  // of separate keys
  GradientSum<T> dvalue_;
  std::optional<KeyShares> local_shares_;
  std::optional<KeyShares> round_shares_;
  std::size_t shared_bytes_ = 0;
  std::size_t worker_bytes_ = 0;
  int threads_ = 1;
  T* delta_ = nullptr;       // [batch][num_heads][seqlen_q]
  T* own_scores_ = nullptr;  // likewise, of shared vectors
};

template <class Body>
auto with_backward(const ConstTensorView& query, const ConstTensorView& key,
                   const CheckedCall& checked, const LshOptions& options,
                   const AttentionOptions& attention, const Execution& execution,
                   const BackwardTensors& tensors, const Body& body) {
  if (checked.query.dtype == DType::kFloat64) {
    LshBackward<double> backward({query, key, checked}, options, attention, execution, tensors);
    return body(backward);
  }
  LshBackward<float> backward({query, key, checked}, options, attention, execution, tensors);
  return body(backward);
}

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
      engine::check_backward(lsh::kFunction, checked, result, dresult, into, attention);
  lsh::with_backward(query, key, checked, options, attention, execution, tensors,
                     [](auto& backward) {
                       const base::CallLog log;
                       backward.run();
                       log.write([&] { return backward.log_line(); });
                     });
}

LshPlan plan_lsh_attention_backward(ConstTensorView query, ConstTensorView key,
                                    ConstTensorView value, const LshOptions& options,
                                    const AttentionOptions& attention, const Execution& execution) {
  const lsh::CheckedCall checked =
      lsh::check_lsh_call(lsh::kFunction, query, key, value, options, attention, execution);
  const lsh::BackwardTensors tensors = engine::planned_gradients(checked, is_given(key));
  return lsh::with_backward(query, key, checked, options, attention, execution, tensors,
                            [](auto& backward) { return backward.describe(); });
}

}  // namespace longspan
