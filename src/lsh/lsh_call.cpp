// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Rounds, masks and sizes of a call.
#include "lsh/lsh_call.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <string>

#include "base/check.h"
#include "base/fit_memory.h"
#include "base/parallel_for.h"
#include "base/row_sums.h"
#include "base/visit_dtype.h"
#include "engine/call_setup.h"
#include "engine/panel_rows.h"
#include "lsh/checked_options.h"
#include "lsh/padding.h"

namespace longspan::lsh {
namespace {

using engine::CheckedCall;

RoundsShape shape_of_rounds(const CheckedCall& checked, bool shared) {
  return {checked.batch,    checked.num_heads, checked.num_heads_kv,
          checked.seqlen_q, checked.seqlen_k,  shared};
}

}  // namespace

Mask local_terms(const Mask& mask, const std::array<std::int64_t, 2>& sides) {
  Mask local = window(sides[0], sides[1]);
  for (const MaskTerm& term : mask.terms()) {
    if (term.kind == MaskKind::kDocuments) local = local & Mask(term);
  }
  return local;
}

bool sees(const mask::BoundMask& mask, std::int64_t b, std::int64_t h, std::int64_t query,
          std::int64_t key) {
  std::uint64_t word = 0;
  mask.fill_bits(b, h, {query, query + 1}, {key, key + 1}, {&word, 1});
  return word != 0;
}

int choose_threads(const char* function, const Execution& execution, std::int64_t tasks,
                   const std::function<std::size_t(int)>& bytes,
                   const std::function<void()>& spare_memory) {
  int threads = base::resolve_threads(execution.threads, tasks);
  bool spared = false;
  base::fit_memory(
      function, execution.memory_limit, [&] { return bytes(threads); },
      [&] {
        if (spared) return base::give_up_thread(threads);
        spare_memory();
        return spared = true;
      });
  return threads;
}

CheckedCall check_lsh_call(const char* function, const ConstTensorView& query,
                           const ConstTensorView& key, const ConstTensorView& value,
                           const LshOptions& options, const AttentionOptions& attention,
                           const Execution& execution) {
  const Vectors vectors = is_given(key) ? Vectors::kSeparate : Vectors::kShared;
  check_options(function, options, vectors);
  check_scores(function, attention, vectors);
  const CheckedCall checked =
      engine::check_call(function, query, is_given(key) ? key : query, value, attention, execution);
  base::require(checked.seqlen_q <= INT32_MAX && checked.seqlen_k <= INT32_MAX, [&] {
    return std::string(function) + ": seqlen must stay below 2^31; found query " +
           shape_string(query) + ", value " + shape_string(value);
  });
  return checked;
}

template <class T>
LshCall<T>::LshCall(const LshInputs& inputs, const LshOptions& options,
                    const AttentionOptions& attention, const Execution& execution, DType operands,
                    bool panels_by_depth, engine::Recorder* recorder)
    : inputs_(inputs),
      options_(options),
      attention_(attention),
      execution_(execution),
      kernel_(kernel::choose_kernel(execution.kernel)),
      mask_(attention.mask, attention.query_offset, engine::shape_of(inputs.checked),
            !shared() || is_given(attention.alibi_slopes),
            shared() ? "alibi" : "lsh_attention of separate query and key"),
      rounds_(options, shape_of_rounds(inputs.checked, shared())),
      factors_(bucket_factors("lsh_attention", options, inputs.checked.seqlen_k)) {
  bind_masks();
  engine::describe_call(inputs.checked, attention, execution, kernel_.template table<T>(operands),
                        mask_, call_);
  call_.recorder = recorder;
  if (shared()) call_.scale = score_scale(options.key_norm, inputs.checked.head_dim);
  const CheckedCall& call = inputs.checked;
  query_copy_ = {call.query.source(0, 0), call.seqlen_q, call.head_dim};
  if (!shared()) key_copy_ = {call.key.source(0, 0), call.seqlen_k, call.head_dim};
  value_copy_ = {call.value.source(0, 0), call.seqlen_k, call.head_dim_v};
  choose_sizes(panels_by_depth);
}

template <class T>
void LshCall<T>::bind_masks() {
  const mask::CallShape shape = engine::shape_of(checked());
  const bool positions = !shared() || is_given(attention_.alibi_slopes);
  if (options_.local_window) {
    const auto [left, right] = *options_.local_window;
    local_.emplace(attention_.mask & window(left, right), attention_.query_offset, shape,
                   positions);
    local_only_.emplace(local_terms(attention_.mask, *options_.local_window),
                        attention_.query_offset, shape);
  }
  if (shared() && options_.self_overrides_padding) {
    own_.emplace(without_padding(attention_.mask), attention_.query_offset, shape);
  }
}

// Choices that change bits depend on shapes and the kernel alone.
template <class T>
void LshCall<T>::choose_sizes(bool panels_by_depth) {
  constexpr std::int64_t kPanels = 8;
  constexpr std::int64_t kRunsKept = 16;
  const kernel::KernelTable<T>& kernel = *call_.kernel;
  const std::int64_t multiple = panels_by_depth ? kernel.format.depth_multiple : 1;
  const std::int64_t widest =
      engine::choose_panel_rows(kernel, std::int64_t{kernel.lanes} * kernel.vectors, 0, multiple);
  const std::int64_t chunk = std::clamp<std::int64_t>(
      options_.chunk_len, 1, std::max<std::int64_t>(checked().seqlen_k, 1));
  call_.group_queries = groups_are_chunks() ? std::min(chunk, kPanels * widest) : kPanels * widest;
  call_.rows_per_panel = groups_are_chunks()
                             ? engine::choose_panel_rows(kernel, call_.group_queries, 0, multiple)
                             : widest;
  call_.run_keys =
      rounds_.whole_buckets() || local_ ? kernel.key_block : std::min(kernel.key_block, chunk);
  call_.runs_kept =
      std::clamp<std::int64_t>(Groups::runs_of_window(rounds_, call_.run_keys), 1, kRunsKept);
  call_.columns = Groups::columns(rounds_, rounds_.count() - 1);
}

template <class T>
Groups LshCall<T>::make_groups() const {
  return Groups(rounds_, {call_.group_queries, call_.run_keys},
                local_only_ ? &*local_only_ : nullptr);
}

template <class T>
std::int64_t LshCall<T>::key_heads_at_once(int threads,
                                           std::int64_t tasks_of_key_head) const noexcept {
  constexpr std::int64_t kTasksOfThread = 4;
  const std::int64_t wanted =
      base::ceil_div(kTasksOfThread * threads, std::max<std::int64_t>(tasks_of_key_head, 1));
  return std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(key_heads(), 1));
}

template <class T>
void LshCall<T>::carve(base::Carver& carver, std::int64_t open_key_heads) {
  const std::int64_t open_lists = open_key_heads * lists_of_key_head();
  rounds_.carve(carver);
  if (shared()) key_factor_ = carver.take<T>(open_lists * checked().seqlen_k);
  if (local_) all_ = carver.take<std::int32_t>(std::max(checked().seqlen_q, checked().seqlen_k));
  query_copy_.carve(carver, open_lists);
  key_copy_.carve(carver, open_key_heads);
  value_copy_.carve(carver, open_key_heads);
}

template <class T>
std::size_t LshCall<T>::sorting_bytes(int threads) const {
  return rounds_.sorting_bytes(checked().query.dtype, checked().head_dim, factors_, execution_,
                               threads);
}

template <class T>
void LshCall<T>::begin(int threads) {
  rounds_.sort(inputs_.query, inputs_.key, attention_.mask, mask_, execution_, threads);
  if (local_) std::iota(all_, all_ + std::max(checked().seqlen_q, checked().seqlen_k), 0);
  if (call_.progress != nullptr) {
    call_.progress->total += phases() * lists() * checked().seqlen_q;
  }
}

template <class T>
typename LshCall<T>::List LshCall<T>::list_at(std::int64_t place) const noexcept {
  List list;
  list.place = place;
  list.key_place = place / lists_of_key_head();
  const std::int64_t key_head = first_key_head_ + list.key_place;
  list.b = key_head / checked().num_heads_kv;
  list.head_kv = key_head % checked().num_heads_kv;
  list.h = list.head_kv * lists_of_key_head() + place % lists_of_key_head();
  return list;
}

template <class T>
engine::RowSource LshCall<T>::query_rows(const List& list) const noexcept {
  return query_copy_.rows(list.place, checked().query.source(list.b, list.h));
}

template <class T>
engine::RowSource LshCall<T>::key_rows(const List& list) const noexcept {
  if (shared()) return query_rows(list);
  return key_copy_.rows(list.key_place, checked().key.source(list.b, list.head_kv));
}

template <class T>
engine::RowSource LshCall<T>::value_rows(const List& list) const noexcept {
  return value_copy_.rows(list.key_place, checked().value.source(list.b, list.head_kv));
}

template <class T>
void LshCall<T>::open(std::int64_t first_key_head, std::int64_t count, int threads) {
  first_key_head_ = first_key_head;
  open_key_heads_ = count;
  for_parts(std::max(checked().seqlen_q, checked().seqlen_k), threads,
            [&](const List& list, mask::Range part) {
              query_copy_.load(list.place, checked().query.source(list.b, list.h), part);
              if (list.place % lists_of_key_head() != 0) return;
              const std::int64_t n = list.key_place;
              key_copy_.load(n, checked().key.source(list.b, list.head_kv), part);
              value_copy_.load(n, checked().value.source(list.b, list.head_kv), part);
            });
}

template <class T>
void LshCall<T>::for_parts(std::int64_t seqlen, int threads,
                           const std::function<void(const List&, mask::Range)>& body) const {
  constexpr std::int64_t kPartRows = 1024;
  const std::int64_t parts = base::ceil_div(seqlen, kPartRows);
  base::parallel_for(open_lists() * parts, threads, [&](std::int64_t task, int) {
    const std::int64_t begin = task % parts * kPartRows;
    body(list_at(task / parts), {begin, std::min(begin + kPartRows, seqlen)});
  });
}

template <class T>
typename LshCall<T>::RowLength LshCall<T>::length_of(const engine::RowSource& rows,
                                                     std::int64_t n) const {
  const std::int64_t dim = checked().head_dim;
  RowLength length;
  length.squares = base::sum_of_squares(rows, n, dim);
  if (shared()) length.factor = key_factor(length.squares, dim, options_.key_norm);
  return length;
}

template <class T>
T LshCall<T>::measure_shared(const List& list, std::int64_t n) {
  const RowLength length = length_of(query_rows(list), n);
  key_factor_[row_of(list, n)] = static_cast<T>(length.factor);
  return static_cast<T>(std::fabs(call_.scale) * length.squares * length.factor);
}

template <class T>
void LshCall<T>::describe(const List& list, std::int64_t phase,
                          engine::GatheredHead<T>& head) const {
  head.batch = list.b;
  head.head = list.h;
  head.query = query_rows(list);
  head.key = key_rows(list);
  head.value = value_rows(list);
  head.mask = &mask_;
  head.hides_own_index = shared();
  if (shared()) {
    head.key_factors = key_factor_ + row_of(list, 0);
    head.constant_factor = constant_factor(options_.key_norm);
  }
  if (is_local(phase)) {
    head.mask = &*local_;
  } else {
    head.numbers = {rounds_.key_numbers(list.b, list.h), rounds_.count(),
                    Groups::columns(rounds_, round_of(phase))};
  }
}

template <class T>
void LshCall<T>::emit(const List& list, std::int64_t phase, mask::Range places, Groups& groups,
                      const Groups::Body& body) const {
  if (is_local(phase)) {
    const auto count = static_cast<std::size_t>(std::max(checked().seqlen_q, checked().seqlen_k));
    groups.of_mask(list.b, places, *local_, {all_, count}, body);
  } else {
    groups.of_round(list.b, list.h, round_of(phase), places, body);
  }
}

template <class T>
engine::OwnPair<T> LshCall<T>::own_pair() const {
  engine::OwnPair<T> own;
  own.added = options_.self_rule == SelfRule::kAdded;
  own.score = options_.self_score;
  return own;
}

template <class T>
double LshCall<T>::own_count(const List& list, std::int64_t i) const {
  if (!sees(own_ ? *own_ : mask_, list.b, list.h, i, i)) return 0;
  if (local_only_ && sees(*local_only_, list.b, list.h, i, i)) return 1;
  return rounds_.own_occurrences(list.b, list.h, i);
}

template <class T>
double LshCall<T>::pairs_of_list() const {
  const auto queries = static_cast<double>(checked().seqlen_q);
  const auto keys = static_cast<double>(checked().seqlen_k);
  const auto rounds = static_cast<double>(rounds_.count());
  double window = std::min(keys, static_cast<double>(rounds_.options().chunk_len) *
                                     static_cast<double>(rounds_.window()));
  if (rounds_.options().whole_buckets) window = keys / static_cast<double>(factors_.buckets);
  double pairs = rounds * queries * window;
  for (std::int64_t begin = 0; local_ && begin < checked().seqlen_q; begin += call_.group_queries) {
    const mask::Range seen =
        local_->visible_keys(0, {begin, std::min(begin + call_.group_queries, checked().seqlen_q)});
    pairs += static_cast<double>(seen.size() * call_.group_queries);
  }
  return pairs;
}

template <class T>
LshPlan LshCall<T>::describe_plan(double dims) const {
  LshPlan plan;
  plan.kernel = kernel_.name;
  plan.num_hashes = rounds_.count();
  plan.num_buckets = factors_.factors;
  plan.num_chunks = rounds_.chunks();
  plan.flop = 2.0 * dims * static_cast<double>(lists()) * pairs_of_list();
  return plan;
}

template <class T>
std::string LshCall<T>::log_line(const char* function, const LshPlan& plan) const {
  const CheckedCall& call = checked();
  return std::string(function) + " " + name_of(call.query.dtype) + ", query " +
         shape_string(inputs_.query) + ", value head_dim " + std::to_string(call.head_dim_v) +
         ", kernel " + plan.kernel + ", " + std::to_string(plan.threads) + " threads, " +
         std::to_string(plan.num_hashes) + " rounds of " + std::to_string(plan.num_chunks) +
         " chunks";
}

template class LshCall<float>;
template class LshCall<double>;

}  // namespace longspan::lsh
