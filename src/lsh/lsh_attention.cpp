// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// LSH attention: rounds are sorted, then attended one after the other by all threads.
#include "longspan/lsh_attention.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/call_log.h"
#include "base/check.h"
#include "base/parallel_for.h"
#include "base/visit_dtype.h"
#include "engine/call_setup.h"
#include "engine/checked_call.h"
#include "engine/gathered_worker.h"
#include "engine/panel_rows.h"
#include "lsh/bucket_rule.h"
#include "lsh/checked_options.h"
#include "lsh/groups.h"
#include "lsh/key_factor.h"
#include "lsh/padding.h"
#include "lsh/rounds.h"

namespace longspan {
namespace lsh {
namespace {

using engine::CheckedCall;

constexpr const char* kFunction = "lsh_attention";

struct Results {
  engine::TensorAxes output;
  engine::TensorAxes lse;
};

// Terms that say which keys are near, alone: what the local window holds whoever is visible.
Mask local_terms(const Mask& mask, const std::array<std::int64_t, 2>& sides) {
  Mask local = window(sides[0], sides[1]);
  for (const MaskTerm& term : mask.terms()) {
    if (term.kind == MaskKind::kDocuments) local = local & Mask(term);
  }
  return local;
}

template <class T>
class LshForward {
 public:
  LshForward(const ConstTensorView& query, const ConstTensorView& key, const CheckedCall& checked,
             const LshOptions& options, const AttentionOptions& attention,
             const Execution& execution, DType output)
      : query_(query),
        key_(key),
        shared_(!is_given(key)),
        checked_(checked),
        attention_(attention),
        execution_(execution),
        kernel_(kernel::choose_kernel(execution.kernel)),
        mask_(attention.mask, attention.query_offset, engine::shape_of(checked),
              !shared_ || is_given(attention.alibi_slopes),
              shared_ ? "alibi" : "lsh_attention of separate query and key"),
        rounds_(options, {checked.batch, checked.num_heads, checked.num_heads_kv, checked.seqlen_q,
                          checked.seqlen_k, shared_}),
        factors_(bucket_factors(kFunction, options, checked.seqlen_k)),
        copies_output_(output != engine::kDTypeOf<T>) {
    bind_masks(options);
    engine::describe_call(checked, attention, execution,
                          kernel_.template table<T>(checked.query.dtype), mask_, call_);
    if (shared_) call_.scale = score_scale(options.key_norm, checked.head_dim);
    choose_sizes();
    choose_threads();
  }

  LshPlan describe() const {
    LshPlan plan;
    plan.kernel = kernel_.name;
    plan.threads = threads_;
    plan.num_hashes = rounds_.count();
    plan.num_buckets = factors_.factors;
    plan.num_chunks = rounds_.chunks();
    plan.tasks = tasks();
    plan.workspace_bytes = total_bytes(threads_);
    plan.flop = 2.0 * static_cast<double>(checked_.head_dim + checked_.head_dim_v) *
                static_cast<double>(lists()) * pairs_of_list();
    return plan;
  }

  void run(const Results& results) {
    workspace_ = base::Buffer(workspace_bytes(threads_));
    base::Carver carver(workspace_.data());
    carve(carver);
    std::vector<Worker> workers;
    workers.reserve(static_cast<std::size_t>(threads_));
    for (int w = 0; w < threads_; ++w) {
      workers.emplace_back(*this, workspace_.data() + workspace_bytes(w));
    }
    Execution sorting = execution_;
    sorting.threads = threads_;
    sorting.memory_limit = 0;  // kept by the plan
    rounds_.sort(query_, key_, attention_.mask, places_of_queries(), sorting);
    measure_rows();
    const std::int64_t phases = rounds_.count() + (local_ ? 1 : 0);
    if (call_.progress != nullptr) {
      call_.progress->total +=
          phases * lists() * base::ceil_div(checked_.seqlen_q, call_.rows_per_panel);
    }
    for (std::int64_t phase = 0; phase < phases; ++phase) {
      base::parallel_for(tasks(), threads_, [&](std::int64_t task, int w) {
        attend(results, phase, phases, task, workers[static_cast<std::size_t>(w)]);
      });
    }
  }

 private:
  struct Worker {
    Worker(const LshForward& forward, std::byte* memory)
        : engine(forward.call_, memory),
          groups(forward.rounds_, forward.sizes(),
                 forward.local_only_ ? &*forward.local_only_ : nullptr) {}
    engine::GatheredWorker<T> engine;
    Groups groups;
  };

  void bind_masks(const LshOptions& options) {
    const mask::CallShape shape = engine::shape_of(checked_);
    const bool positions = !shared_ || is_given(attention_.alibi_slopes);
    if (options.local_window) {
      const Mask local = local_terms(attention_.mask, *options.local_window);
      local_.emplace(
          attention_.mask & window((*options.local_window)[0], (*options.local_window)[1]),
          attention_.query_offset, shape, positions);
      local_only_.emplace(local, attention_.query_offset, shape);
    }
    if (shared_ && options.self_overrides_padding) {
      own_.emplace(without_padding(attention_.mask), attention_.query_offset, shape);
    }
  }

  // Choices that change bits hang on shapes and the kernel alone.
  void choose_sizes() {
    constexpr std::int64_t kPanels = 8;
    constexpr std::int64_t kRunsKept = 16;
    constexpr std::int64_t kTaskQueries = 1024;
    const kernel::KernelTable<T>& kernel = *call_.kernel;
    const LshOptions& options = rounds_.options();
    const std::int64_t widest = std::int64_t{kernel.lanes} * kernel.vectors;
    const std::int64_t chunk = std::clamp<std::int64_t>(
        options.chunk_len, 1, std::max<std::int64_t>(checked_.seqlen_k, 1));
    const bool by_chunk = shared_ && !options.whole_buckets && !local_;
    call_.group_queries = by_chunk ? std::min(chunk, kPanels * widest) : kPanels * widest;
    call_.rows_per_panel =
        by_chunk ? engine::choose_panel_rows(kernel, call_.group_queries, 0) : widest;
    call_.run_keys =
        options.whole_buckets || local_ ? kernel.key_block : std::min(kernel.key_block, chunk);
    call_.runs_kept =
        std::clamp<std::int64_t>(Groups::runs_of_window(rounds_, call_.run_keys), 1, kRunsKept);
    call_.columns = Groups::columns(rounds_, rounds_.count() - 1);
    call_.element_bytes = static_cast<std::int64_t>(size_of(checked_.query.dtype));
    const std::int64_t unit = by_chunk && chunk < kTaskQueries ? chunk : call_.group_queries;
    task_queries_ =
        base::round_up(std::min(kTaskQueries, std::max<std::int64_t>(checked_.seqlen_q, 1)), unit);
  }

  void choose_threads() {
    base::Carver counted;
    carve(counted);
    shared_bytes_ = counted.used();
    worker_bytes_ =
        base::round_up(engine::GatheredWorker<T>::workspace_bytes(call_), base::kAlignment);
    threads_ = base::resolve_threads(execution_.threads, tasks());
    const std::size_t limit = execution_.memory_limit;
    while (limit > 0 && threads_ > 1 && total_bytes(threads_) > limit) --threads_;
    base::require(
        limit == 0 || total_bytes(threads_) <= limit,
        [&] {
          return std::string(kFunction) + ": no plan fits memory_limit; the least workspace is " +
                 std::to_string(total_bytes(threads_)) + " bytes, the limit " +
                 std::to_string(limit);
        },
        ErrorCode::kOutOfMemory);
  }

  Groups::Sizes sizes() const noexcept { return {call_.group_queries, call_.run_keys}; }
  std::int64_t lists() const noexcept { return checked_.batch * checked_.num_heads; }
  std::int64_t tasks_of_list() const noexcept {
    return base::ceil_div(checked_.seqlen_q, task_queries_);
  }
  std::int64_t tasks() const noexcept { return lists() * tasks_of_list(); }

  double pairs_of_list() const {
    const auto queries = static_cast<double>(checked_.seqlen_q);
    const auto keys = static_cast<double>(checked_.seqlen_k);
    const auto rounds = static_cast<double>(rounds_.count());
    const LshOptions& options = rounds_.options();
    double window = std::min(
        keys, static_cast<double>(options.chunk_len) * static_cast<double>(rounds_.window()));
    if (options.whole_buckets) window = keys / static_cast<double>(factors_.buckets);
    double pairs = rounds * queries * window;
    for (std::int64_t begin = 0; local_ && begin < checked_.seqlen_q;
         begin += call_.group_queries) {
      const mask::Range seen = local_->visible_keys(
          0, 0, {begin, std::min(begin + call_.group_queries, checked_.seqlen_q)});
      pairs += static_cast<double>(seen.size() * call_.group_queries);
    }
    return pairs;
  }

  void carve(base::Carver& carver) {
    rounds_.carve(carver);
    const std::int64_t rows = lists() * checked_.seqlen_q;
    if (shared_) key_factor_ = carver.take<T>(rows);
    bounds_ = carver.take<T>(rows);
    reference_ = carver.take<T>(rows);
    sum_ = carver.take<T>(rows);
    if (copies_output_) numerator_ = carver.take<T>(rows * checked_.head_dim_v);
    if (!shared_) places_ = carver.take<std::int64_t>(checked_.batch * checked_.seqlen_q);
    if (local_) all_ = carver.take<std::int32_t>(std::max(checked_.seqlen_q, checked_.seqlen_k));
  }

  std::size_t workspace_bytes(int threads) const noexcept {
    return shared_bytes_ + static_cast<std::size_t>(threads) * worker_bytes_;
  }

  // With what hashing and sorting allocate.
  std::size_t total_bytes(int threads) const noexcept {
    return workspace_bytes(threads) +
           rounds_.sorting_bytes(threads, checked_.head_dim, factors_.columns, sizeof(T));
  }

  std::span<const std::int64_t> places_of_queries() {
    if (shared_) return {};
    const std::int64_t rows = checked_.batch * checked_.seqlen_q;
    for (std::int64_t row = 0; row < rows; ++row) {
      places_[row] = mask_.query_place(row / checked_.seqlen_q, row % checked_.seqlen_q);
    }
    return {places_, static_cast<std::size_t>(rows)};
  }

  static double squares_of(const engine::RowSource& rows, std::int64_t n, std::int64_t dim) {
    return base::visit_floating(rows.dtype, [&](auto tag) {
      const auto* row = static_cast<const decltype(tag)*>(rows.data) + n * rows.row_stride;
      const std::int64_t stride = rows.dim_stride;
      if (stride == 1) {
        return sum_of_squares([&](std::int64_t d) { return double{base::to_float(row[d])}; }, dim);
      }
      return sum_of_squares([&](std::int64_t d) { return double{base::to_float(row[d * stride])}; },
                            dim);
    });
  }

  // Factors of keys, and bounds of scores: with itself a row of shared vectors has its largest, by
  // Cauchy and Schwarz, since keys are no longer than 1; else the longest key says it.
  void measure_rows() {
    if (local_) std::iota(all_, all_ + std::max(checked_.seqlen_q, checked_.seqlen_k), 0);
    std::vector<double> longest(static_cast<std::size_t>(shared_ ? 0 : lists()));
    base::parallel_for(static_cast<std::int64_t>(longest.size()), threads_,
                       [&](std::int64_t list, int) { longest[list] = longest_key(list); });
    // Heads of a position one after the other: their rows stand together.
    constexpr std::int64_t kTaskRows = 256;
    const std::int64_t parts = base::ceil_div(checked_.seqlen_q, kTaskRows);
    const double scale = std::fabs(call_.scale);
    base::parallel_for(checked_.batch * parts, threads_, [&](std::int64_t task, int) {
      const std::int64_t b = task / parts, begin = task % parts * kTaskRows;
      for (std::int64_t n = begin; n < std::min(begin + kTaskRows, checked_.seqlen_q); ++n) {
        for (std::int64_t h = 0; h < checked_.num_heads; ++h) {
          const std::int64_t list = b * checked_.num_heads + h;
          const std::int64_t at = list * checked_.seqlen_q + n;
          const double squares = squares_of(checked_.query.source(b, h), n, checked_.head_dim);
          if (shared_) {
            const double factor =
                key_factor(squares, checked_.head_dim, rounds_.options().key_norm);
            key_factor_[at] = static_cast<T>(factor);
            bounds_[at] = static_cast<T>(scale * squares * factor);
          } else {
            bounds_[at] = static_cast<T>(scale * std::sqrt(squares) * longest[list]);
          }
        }
      }
    });
  }

  // That is finite.
  double longest_key(std::int64_t list) const {
    const std::int64_t b = list / checked_.num_heads, h = list % checked_.num_heads;
    const engine::RowSource key = checked_.key.source(b, rounds_.head_kv(h));
    double longest = 0;
    for (std::int64_t n = 0; n < checked_.seqlen_k; ++n) {
      const double length = std::sqrt(squares_of(key, n, checked_.head_dim));
      if (std::isfinite(length)) longest = std::max(longest, length);
    }
    return longest;
  }

  void attend(const Results& results, std::int64_t phase, std::int64_t phases, std::int64_t task,
              Worker& worker) {
    const std::int64_t list = task / tasks_of_list();
    const std::int64_t b = list / checked_.num_heads, h = list % checked_.num_heads;
    const std::int64_t begin = task % tasks_of_list() * task_queries_;
    const mask::Range places{begin, std::min(begin + task_queries_, checked_.seqlen_q)};
    const bool is_local = local_ && phase == 0;
    const std::int64_t round = phase - (local_ ? 1 : 0);
    engine::GatheredForward<T> head = describe_head(results, list);
    head.first_phase = phase == 0;
    head.last_phase = phase == phases - 1;
    const std::function<double(std::int64_t)> own = [&](std::int64_t i) {
      return own_count(b, h, i);
    };
    head.own.count = &own;
    if (is_local) {
      head.mask = &*local_;
    } else {
      head.numbers = {rounds_.key_numbers(b, h), rounds_.count(), Groups::columns(rounds_, round)};
    }
    worker.engine.begin(head);
    const auto run = [&](const engine::GatheredGroup& group) { worker.engine.run(group); };
    if (is_local) {
      const auto count = static_cast<std::size_t>(std::max(checked_.seqlen_q, checked_.seqlen_k));
      worker.groups.of_mask(b, h, places, *local_, {all_, count}, run);
    } else {
      worker.groups.of_round(b, h, round, places, run);
    }
  }

  engine::GatheredForward<T> describe_head(const Results& results, std::int64_t list) const {
    const std::int64_t b = list / checked_.num_heads, h = list % checked_.num_heads;
    const std::int64_t row = list * checked_.seqlen_q;
    engine::GatheredForward<T> head;
    head.batch = b;
    head.head = h;
    head.query = checked_.query.source(b, h);
    head.key = checked_.key.source(b, rounds_.head_kv(h));
    head.value = checked_.value.source(b, rounds_.head_kv(h));
    head.bounds = bounds_ + row;
    head.mask = &mask_;
    head.rows.reference = reference_ + row;
    head.rows.sum = sum_ + row;
    head.rows.output = results.output.target(b, h);
    head.rows.lse = results.lse.target(b, h);
    head.rows.numerator = head.rows.output;
    if (copies_output_) {
      head.rows.numerator = {numerator_ + row * checked_.head_dim_v, engine::kDTypeOf<T>,
                             checked_.head_dim_v, 1};
    }
    if (shared_) {
      head.key_factors = key_factor_ + row;
      head.hides_own_index = true;
      head.own.scores = bounds_ + row;
      head.own.added = rounds_.options().self_rule == SelfRule::kAdded;
      head.own.score = rounds_.options().self_score;
    }
    return head;
  }

  static bool sees(const mask::BoundMask& mask, std::int64_t b, std::int64_t h, std::int64_t i) {
    std::uint64_t word = 0;
    mask.fill_bits(b, h, {i, 1}, {i, 1}, {&word, 1});
    return word != 0;
  }

  // How often a position counts itself: once in its local window, else in every window of chunks.
  double own_count(std::int64_t b, std::int64_t h, std::int64_t i) const {
    if (!sees(own_ ? *own_ : mask_, b, h, i)) return 0;
    if (local_only_ && sees(*local_only_, b, h, i)) return 1;
    return rounds_.own_occurrences(b, h, i);
  }

  const ConstTensorView query_;
  const ConstTensorView key_;
  const bool shared_;
  const CheckedCall& checked_;
  const AttentionOptions& attention_;
  const Execution& execution_;
  const kernel::Kernel& kernel_;
  mask::BoundMask mask_;
  std::optional<mask::BoundMask> local_;       // the mask and the local window
  std::optional<mask::BoundMask> local_only_;  // the window alone
  std::optional<mask::BoundMask> own_;         // what decides whether a position sees itself
  Rounds rounds_;
  BucketFactors factors_;
  bool copies_output_;
  engine::GatheredCall<T> call_;
  std::int64_t task_queries_ = 1;
  std::size_t shared_bytes_ = 0;
  std::size_t worker_bytes_ = 0;
  int threads_ = 1;
  base::Buffer workspace_;
  T* key_factor_ = nullptr;  // [batch][num_heads][seqlen]
  T* bounds_ = nullptr;      // [batch][num_heads][seqlen_q]
  T* reference_ = nullptr;   // likewise
  T* sum_ = nullptr;
  T* numerator_ = nullptr;          // [batch][num_heads][seqlen_q][head_dim_v]
  std::int64_t* places_ = nullptr;  // [batch][seqlen_q]
  std::int32_t* all_ = nullptr;     // 0, 1, 2, ...
};

CheckedCall check_lsh_call(const ConstTensorView& query, const ConstTensorView& key,
                           const ConstTensorView& value, const LshOptions& options,
                           const AttentionOptions& attention, const Execution& execution) {
  const Vectors vectors = is_given(key) ? Vectors::kSeparate : Vectors::kShared;
  check_options(kFunction, options, vectors);
  check_scores(kFunction, attention, vectors);
  const CheckedCall checked =
      engine::check_call(query, is_given(key) ? key : query, value, attention, execution);
  base::require(checked.seqlen_q <= INT32_MAX && checked.seqlen_k <= INT32_MAX, [&] {
    return std::string(kFunction) + ": seqlen must stay below 2^31; found query " +
           shape_string(query) + ", value " + shape_string(value);
  });
  return checked;
}

// body(LshForward<T>&) with the T in which this dtype is computed.
template <class Body>
auto with_forward(const ConstTensorView& query, const ConstTensorView& key,
                  const CheckedCall& checked, const LshOptions& options,
                  const AttentionOptions& attention, const Execution& execution, DType output,
                  const Body& body) {
  if (checked.query.dtype == DType::kFloat64) {
    LshForward<double> forward(query, key, checked, options, attention, execution, output);
    return body(forward);
  }
  LshForward<float> forward(query, key, checked, options, attention, execution, output);
  return body(forward);
}

}  // namespace
}  // namespace lsh

void lsh_attention(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                   Partial result, const LshOptions& options, const AttentionOptions& attention,
                   const Execution& execution) {
  const lsh::CheckedCall checked =
      lsh::check_lsh_call(query, key, value, options, attention, execution);
  engine::ResultChecker checker(lsh::kFunction, checked);
  lsh::Results results;
  results.output = checker.output(result.output);
  results.lse = checker.lse(result.lse);
  lsh::with_forward(query, key, checked, options, attention, execution, result.output.dtype,
                    [&](auto& forward) {
                      const base::CallLog log;
                      forward.run(results);
                      log.write([&] {
                        const LshPlan plan = forward.describe();
                        return std::string(lsh::kFunction) + " " + name_of(query.dtype) +
                               ", query " + shape_string(query) + ", value " + shape_string(value) +
                               ", kernel " + plan.kernel + ", " + std::to_string(plan.threads) +
                               " threads, " + std::to_string(plan.num_hashes) + " rounds of " +
                               std::to_string(plan.num_chunks) + " chunks";
                      });
                    });
}

LshPlan plan_lsh_attention(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                           const LshOptions& options, const AttentionOptions& attention,
                           const Execution& execution) {
  const lsh::CheckedCall checked =
      lsh::check_lsh_call(query, key, value, options, attention, execution);
  return lsh::with_forward(query, key, checked, options, attention, execution, query.dtype,
                           [](auto& forward) { return forward.describe(); });
}

}  // namespace longspan
