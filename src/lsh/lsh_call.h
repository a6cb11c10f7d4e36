// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What is the same for a whole call of LSH attention, forward or backward: the rounds, the masks,
// and how a head is said in the words of the engine. A list is the queries of one head of one batch
// entry; lists that share keys belong to one key head. Some key heads are open at a time, their
// rows side by side. Each goes through phases, one after the other: the local window, when there is
// one, then the rounds.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "base/buffer.h"
#include "engine/checked_call.h"
#include "engine/gathered_call.h"
#include "engine/list_rows.h"
#include "kernels/registry.h"
#include "longspan/lsh_attention.h"
#include "lsh/bucket_rule.h"
#include "lsh/groups.h"
#include "lsh/key_factor.h"
#include "lsh/rounds.h"

namespace longspan::lsh {

// Checks options, query, key (absent: shared) and value.
engine::CheckedCall check_lsh_call(const char* function, const ConstTensorView& query,
                                   const ConstTensorView& key, const ConstTensorView& value,
                                   const LshOptions& options, const AttentionOptions& attention,
                                   const Execution& execution);

// Terms that say which keys are near, alone: what the local window holds whoever is visible.
Mask local_terms(const Mask& mask, const std::array<std::int64_t, 2>& sides);

bool sees(const mask::BoundMask& mask, std::int64_t b, std::int64_t h, std::int64_t query,
          std::int64_t key);

// As many threads as there are tasks for and as the memory limit allows. Where it is exceeded
// `spare_memory` makes `bytes` less before threads are given up.
int choose_threads(const char* function, const Execution& execution, std::int64_t tasks,
                   const std::function<std::size_t(int)>& bytes,
                   const std::function<void()>& spare_memory);

struct LshInputs {
  ConstTensorView query;
  ConstTensorView key;  // absent: shared
  const engine::CheckedCall& checked;
};

template <class T>
class LshCall {
 public:
  struct RowLength {
    double squares = 0;  // of its numbers, their sum
    double factor = 1;   // that makes a key of it
  };
  struct List {
    std::int64_t b = 0;
    std::int64_t h = 0;
    std::int64_t head_kv = 0;
    std::int64_t place = 0;      // among the open lists
    std::int64_t key_place = 0;  // of its key head among the open ones
  };

  // `operands`: what the kernel is chosen for. `panels_by_depth`: products sum over the queries of
  // panels. The arguments must outlive the call.
  LshCall(const LshInputs& inputs, const LshOptions& options, const AttentionOptions& attention,
          const Execution& execution, DType operands, bool panels_by_depth,
          engine::Recorder* recorder = nullptr);
  LshCall(const LshCall&) = delete;
  LshCall& operator=(const LshCall&) = delete;

  const engine::CheckedCall& checked() const noexcept { return inputs_.checked; }
  const engine::GatheredCall<T>& engine_call() const noexcept { return call_; }
  const Rounds& rounds() const noexcept { return rounds_; }
  bool shared() const noexcept { return !is_given(inputs_.key); }
  // Groups are the queries of one chunk.
  bool groups_are_chunks() const noexcept {
    return shared() && !rounds_.options().whole_buckets && !local_;
  }
  std::int64_t lists() const noexcept { return checked().batch * checked().num_heads; }
  std::int64_t key_heads() const noexcept { return checked().batch * checked().num_heads_kv; }
  std::int64_t lists_of_key_head() const noexcept { return rounds_.lists_of_key_head(); }
  std::int64_t phases() const noexcept { return rounds_.count() + (local_ ? 1 : 0); }
  bool is_local(std::int64_t phase) const noexcept { return local_ && phase == 0; }
  const mask::BoundMask* local_mask() const noexcept { return local_ ? &*local_ : nullptr; }
  std::int64_t round_of(std::int64_t phase) const noexcept { return phase - (local_ ? 1 : 0); }
  Groups make_groups() const;

  // How many key heads to open at once, so that every thread has some of the tasks of a phase.
  std::int64_t key_heads_at_once(int threads, std::int64_t tasks_of_key_head) const noexcept;
  void carve(base::Carver& carver, std::int64_t open_key_heads);
  void spare_memory() noexcept {
    for (engine::ListRows* copy : {&query_copy_, &key_copy_, &value_copy_}) copy->spare_memory();
  }
  // What hashing and sorting allocate beside that.
  std::size_t sorting_bytes(int threads) const;

  // Hashes and sorts all rounds; says how much there is to do.
  void begin(int threads);
  void open(std::int64_t first_key_head, std::int64_t count, int threads);
  std::int64_t open_key_heads() const noexcept { return open_key_heads_; }
  std::int64_t open_lists() const noexcept { return open_key_heads_ * lists_of_key_head(); }
  List list_at(std::int64_t place) const noexcept;  // of the open ones
  // [place of the list][seqlen_q]
  std::int64_t row_of(const List& list, std::int64_t n) const noexcept {
    return list.place * checked().seqlen_q + n;
  }

  // Rows of an open list, gathered at little cost.
  engine::RowSource query_rows(const List& list) const noexcept;
  engine::RowSource key_rows(const List& list) const noexcept;
  engine::RowSource value_rows(const List& list) const noexcept;
  RowLength length_of(const engine::RowSource& rows, std::int64_t n) const;
  // Of a shared row: its factor as a key, which is kept, and its score with itself.
  T measure_shared(const List& list, std::int64_t n);
  // Rows 0 .. seqlen of each open list in parts: body(list, rows).
  void for_parts(std::int64_t seqlen, int threads,
                 const std::function<void(const List&, mask::Range)>& body) const;

  // What an open list is in a phase.
  void describe(const List& list, std::int64_t phase, engine::GatheredHead<T>& head) const;
  // Its groups of queries at these places: of the order of a round, or positions.
  void emit(const List& list, std::int64_t phase, mask::Range places, Groups& groups,
            const Groups::Body& body) const;
  // The pair of a position with itself; without scores and count.
  engine::OwnPair<T> own_pair() const;
  // How often a position counts itself: once in its local window, else in every window of chunks.
  double own_count(const List& list, std::int64_t i) const;

  // What plans of both directions say; 2 FLOP for each pair and component, `dims` components.
  LshPlan describe_plan(double dims) const;
  std::string log_line(const char* function, const LshPlan& plan) const;

 private:
  void bind_masks();
  void choose_sizes(bool panels_by_depth);
  double pairs_of_list() const;

  const LshInputs inputs_;
  const LshOptions& options_;
  const AttentionOptions& attention_;
  const Execution& execution_;
  const kernel::Kernel& kernel_;
  mask::BoundMask mask_;
  std::optional<mask::BoundMask> local_;       // the mask and the local window
  std::optional<mask::BoundMask> local_only_;  // the window alone
  std::optional<mask::BoundMask> own_;         // what decides whether a position sees itself
  Rounds rounds_;
  BucketFactors factors_;
  engine::GatheredCall<T> call_;
  engine::ListRows query_copy_;
  engine::ListRows key_copy_;  // of separate keys
  engine::ListRows value_copy_;
  std::int64_t first_key_head_ = 0;
  std::int64_t open_key_heads_ = 0;
  T* key_factor_ = nullptr;      // [open lists][seqlen], of shared vectors
  std::int32_t* all_ = nullptr;  // 0, 1, 2, ..., with a local window
};

}  // namespace longspan::lsh
