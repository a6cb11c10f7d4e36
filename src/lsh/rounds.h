// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// All rounds of a call, sorted: which keys stand together in each, and where every query looks.
// A row has one number in each round, that of its chunk, or of its bucket where windows are whole
// buckets; a query meets the keys whose numbers lie in its window. Among equal numbers rows are in
// the order of their indices: what a causal mask leaves of a chunk is then its beginning.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "longspan/lsh_attention.h"
#include "lsh/bucket_rule.h"
#include "mask/bound_mask.h"
#include "mask/tile.h"

namespace longspan::lsh {

struct RoundsShape {
  std::int64_t batch = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_heads_kv = 0;
  std::int64_t seqlen_q = 0;
  std::int64_t seqlen_k = 0;
  bool shared = false;  // queries are the keys
};

// Chunks first .. first + count of one round, or that bucket.
struct Segment {
  std::int64_t round = 0;
  std::int64_t first = 0;
  std::int64_t count = 0;
};

class Rounds {
 public:
  // A sequence of one chunk is one round of one chunk that attends to itself.
  Rounds(const LshOptions& options, const RoundsShape& shape);
  void carve(base::Carver& carver);

  // What sort() allocates for itself.
  std::size_t sorting_bytes(DType vectors, std::int64_t head_dim, const BucketFactors& factors,
                            const Execution& execution, int threads) const;

  // Fills in everything, on so many threads. `bound`: the mask, bound to the call with positions
  // where queries are separate. The memory limit has been kept by whoever planned.
  void sort(ConstTensorView query, ConstTensorView key, const Mask& mask,
            const mask::BoundMask& bound, Execution execution, int threads);

  std::int64_t count() const noexcept { return rounds_; }
  std::int64_t chunks() const noexcept { return chunks_; }
  bool whole_buckets() const noexcept { return options_.whole_buckets; }
  const LshOptions& options() const noexcept { return options_; }
  const RoundsShape& shape() const noexcept { return shape_; }
  std::int64_t lists_of_key_head() const noexcept { return group_; }
  std::int64_t head_kv(std::int64_t head) const noexcept { return head / group_; }

  // Indices by (number, index).
  std::span<const std::int32_t> sorted_queries(std::int64_t b, std::int64_t h,
                                               std::int64_t round) const noexcept {
    return row(query_order_, (b * shape_.num_heads + h) * rounds_ + round, shape_.seqlen_q);
  }
  std::span<const std::int32_t> sorted_keys(std::int64_t b, std::int64_t h,
                                            std::int64_t round) const noexcept {
    return row(key_order_, (b * shape_.num_heads_kv + head_kv(h)) * rounds_ + round,
               shape_.seqlen_k);
  }
  // Indices by (bucket, index), which chunks are cut from: sorted anew, for those who show it.
  std::vector<std::int32_t> keys_by_bucket(std::int64_t b, std::int64_t h,
                                           std::int64_t round) const;
  // Buckets by index, padding in one more behind the last.
  std::span<const std::int32_t> query_buckets(std::int64_t b, std::int64_t h,
                                              std::int64_t round) const noexcept {
    return row(query_buckets_, (b * shape_.num_heads + h) * hashing_.num_hashes + round,
               shape_.seqlen_q);
  }
  std::span<const std::int32_t> key_buckets(std::int64_t b, std::int64_t h,
                                            std::int64_t round) const noexcept {
    return row(key_buckets_, (b * shape_.num_heads_kv + head_kv(h)) * hashing_.num_hashes + round,
               shape_.seqlen_k);
  }
  // Numbers of all rounds, [index][count()].
  const std::int32_t* query_numbers(std::int64_t b, std::int64_t h) const noexcept {
    return query_numbers_ + (b * shape_.num_heads + h) * shape_.seqlen_q * rounds_;
  }
  const std::int32_t* key_numbers(std::int64_t b, std::int64_t h) const noexcept {
    return key_numbers_ + (b * shape_.num_heads_kv + head_kv(h)) * shape_.seqlen_k * rounds_;
  }

  // Places of a bucket in the order of a round.
  mask::Range places_of_bucket(std::int64_t b, std::int64_t h, std::int64_t round,
                               std::int64_t bucket) const noexcept;
  // Chunks of a whole window: before, itself, after. Wrapped ones repeat where they are more than
  // the cycle.
  std::int64_t window() const noexcept {
    return options_.chunks_before + 1 + options_.chunks_after;
  }
  std::int64_t cycle() const noexcept {
    return options_.wrap == Wrap::kAll ? rounds_ * chunks_ : chunks_;
  }
  // The window of a query of this number without wrapping; count 0 when there are no keys.
  Segment plain_window(std::int64_t round, std::int64_t number) const noexcept {
    if (options_.whole_buckets) return {round, number, 1};
    const std::int64_t last = chunks_ - 1;
    const auto clamp = [&](std::int64_t n) { return n < 0 ? 0 : n > last ? last : n; };
    const std::int64_t first = clamp(number - options_.chunks_before);
    return {round, first, chunks_ == 0 ? 0 : clamp(number + options_.chunks_after) + 1 - first};
  }
  // The window of a query of this number, in order. With wrapping, of its first `members` chunks.
  // No chunk is met twice; segments of one round do not overlap.
  void window_of(std::int64_t round, std::int64_t number, std::int64_t members,
                 std::vector<Segment>& segments) const;
  // The same chunks one by one, repeated ones again: the n-th, n < window(). Wrapping only.
  ChunkPlace wrapped(std::int64_t round, std::int64_t chunk, std::int64_t n) const noexcept;

  // How often query i finds the key of its own index (shared queries and keys).
  double own_occurrences(std::int64_t b, std::int64_t h, std::int64_t i) const;

 private:
  static std::span<const std::int32_t> row(const std::int32_t* all, std::int64_t n,
                                           std::int64_t length) noexcept {
    return {all + n * length, static_cast<std::size_t>(length)};
  }
  void number_keys(const Execution& execution) const;
  void number_queries(const mask::BoundMask& bound, const Execution& execution);

  LshOptions options_;
  LshOptions hashing_;  // as the caller gave them
  RoundsShape shape_;
  std::int64_t group_;
  std::int64_t rounds_;
  std::int64_t chunks_;
  std::int32_t* key_buckets_ = nullptr;    // [batch][num_heads_kv][num_hashes][seqlen_k]
  std::int32_t* query_buckets_ = nullptr;  // those of shared queries are the keys'
  std::int32_t* key_order_ = nullptr;      // [batch][num_heads_kv][rounds][seqlen_k]
  std::int32_t* query_order_ = nullptr;
  std::int32_t* key_numbers_ = nullptr;
  std::int32_t* query_numbers_ = nullptr;
  std::int64_t* query_places_ = nullptr;  // [batch][seqlen_q]: the key that a query is level with
};

}  // namespace longspan::lsh
