// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What a call of LSH attention decides before any score: buckets, order, and who meets whom, as the
// engine's own bookkeeping has them; and which part of it is shown.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "engine/checked_call.h"
#include "explain/steps.h"
#include "lsh/bucket_rule.h"
#include "lsh/rounds.h"
#include "mask/bound_mask.h"

namespace longspan::explain {

// Queries of a round that have one window: those of one chunk, or of one bucket.
struct Meeting {
  std::int64_t head = 0;
  std::int64_t round = 0;
  std::int64_t number = 0;            // of the chunk, or the bucket
  std::vector<std::int64_t> queries;  // that are shown, in the order of the round
  std::vector<std::int64_t> keys;     // of the window, each once, in its order
};

class LshView {
 public:
  LshView(const ConstTensorView& query, const ConstTensorView& key, const ConstTensorView& value,
          const LshOptions& options, const AttentionOptions& attention, const Execution& execution,
          const ExplainChoice& choice);

  const engine::CheckedCall& call() const noexcept { return call_; }
  const lsh::Rounds& rounds() const noexcept { return *rounds_; }
  const lsh::BucketFactors& factors() const noexcept { return factors_; }
  const mask::BoundMask& mask() const noexcept { return mask_; }
  bool shared() const noexcept { return shared_; }
  bool whole_buckets() const noexcept { return rounds().whole_buckets(); }
  std::int64_t batch() const noexcept { return choice_.batch; }
  mask::Range heads() const noexcept { return heads_; }
  const std::vector<std::int64_t>& queries() const noexcept { return queries_; }  // shown
  bool shows_all() const noexcept { return !choice_.rows && !choice_.chunks; }
  std::int64_t head_kv(std::int64_t head) const noexcept { return rounds().head_kv(head); }
  // Chunks of a round, or its buckets (the one of padding included).
  std::int64_t numbers() const noexcept;
  const char* number_name() const noexcept { return whole_buckets() ? "bucket" : "chunk"; }

  // The meetings that are shown; some may show no query and are left out.
  std::vector<Meeting> meetings() const;
  // The chunks (or the bucket) whose keys the queries of this number meet.
  std::vector<ChunkPlace> window(std::int64_t round, std::int64_t number) const;
  std::vector<std::int64_t> keys_of(std::int64_t head, ChunkPlace place) const;
  // Keys by (bucket, index): the order that chunks are cut from.
  const std::vector<std::int32_t>& keys_by_bucket(std::int64_t head, std::int64_t round) const {
    return orders_[static_cast<std::size_t>(head_kv(head) * rounds().count() + round)];
  }
  bool sees(std::int64_t head, std::int64_t query, std::int64_t key) const;

 private:
  std::vector<std::int64_t> members(std::int64_t head, std::int64_t round,
                                    std::int64_t number) const;
  void sort(const ConstTensorView& query, const ConstTensorView& key,
            const AttentionOptions& attention, const Execution& execution);
  void choose_queries();
  mask::Range shown_numbers() const;  // round * numbers() + number

  bool shared_;
  engine::CheckedCall call_;
  const ExplainChoice& choice_;
  mask::BoundMask mask_;
  lsh::BucketFactors factors_;
  std::optional<lsh::Rounds> rounds_;
  base::Buffer memory_;
  std::vector<std::vector<std::int32_t>> orders_;  // [kv head * rounds + round]
  mask::Range heads_;
  std::vector<std::int64_t> queries_;
  std::vector<bool> shown_;  // [seqlen_q]
};

}  // namespace longspan::explain
