// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Hashes, sorts and numbers.
#include "lsh/rounds.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/parallel_for.h"
#include "base/round.h"
#include "lsh/hasher.h"
#include "lsh/sort.h"

namespace longspan::lsh {
namespace {

TensorView grid(std::int32_t* data, std::int64_t batch, std::int64_t heads, std::int64_t rounds,
                std::int64_t seqlen) {
  TensorView view{data, DType::kInt32, 4, {batch, heads, rounds, seqlen}, {}};
  view.strides = {heads * rounds * seqlen, rounds * seqlen, seqlen, 1};
  return view;
}

// Hashing wants one rank for vectors and buckets.
TensorView of_rank(TensorView view, int rank) {
  for (; view.rank > rank; --view.rank) {
    std::shift_left(view.shape.begin(), view.shape.end(), 1);
    std::shift_left(view.strides.begin(), view.strides.end(), 1);
  }
  return view;
}

}  // namespace

Rounds::Rounds(const LshOptions& options, const RoundsShape& shape)
    : options_(options),
      hashing_(options),
      shape_(shape),
      group_(shape.num_heads_kv > 0
                 ? std::max<std::int64_t>(shape.num_heads / shape.num_heads_kv, 1)
                 : 1) {
  if (shape.seqlen_k <= options.chunk_len) {
    options_.num_hashes = 1;
    options_.chunks_before = options_.chunks_after = 0;
    options_.wrap = Wrap::kNone;
    options_.whole_buckets = false;
  }
  rounds_ = options_.num_hashes;
  chunks_ = count_chunks(shape.seqlen_k, options.chunk_len);
}

void Rounds::carve(base::Carver& carver) {
  const std::int64_t keys = shape_.batch * shape_.num_heads_kv * shape_.seqlen_k;
  const std::int64_t queries = shape_.batch * shape_.num_heads * shape_.seqlen_q;
  key_buckets_ = carver.take<std::int32_t>(keys * hashing_.num_hashes);
  key_order_ = carver.take<std::int32_t>(keys * rounds_);
  key_numbers_ = carver.take<std::int32_t>(keys * rounds_);
  query_buckets_ = key_buckets_;
  query_order_ = key_order_;
  query_numbers_ = key_numbers_;
  if (shape_.shared || queries == 0) return;
  query_buckets_ = carver.take<std::int32_t>(queries * hashing_.num_hashes);
  query_order_ = carver.take<std::int32_t>(queries * rounds_);
  query_numbers_ = carver.take<std::int32_t>(queries * rounds_);
  query_places_ = carver.take<std::int64_t>(shape_.batch * shape_.seqlen_q);
}

void Rounds::sort(ConstTensorView query, ConstTensorView key, const Mask& mask,
                  const mask::BoundMask& bound, Execution execution, int threads) {
  // Nothing to order, however many batch entries there may be.
  if (shape_.num_heads * (shape_.seqlen_q + shape_.seqlen_k) == 0) return;
  execution.threads = threads;
  execution.memory_limit = 0;
  const TensorView keys =
      grid(key_buckets_, shape_.batch, shape_.num_heads_kv, hashing_.num_hashes, shape_.seqlen_k);
  const TensorView queries =
      grid(query_buckets_, shape_.batch, shape_.num_heads, hashing_.num_hashes, shape_.seqlen_q);
  if (shape_.shared) {
    hash_vectors(query, of_rank(keys, query.rank), hashing_, mask, execution);
  } else {
    hash_vectors(query, key, of_rank(queries, query.rank), of_rank(keys, query.rank), hashing_,
                 mask, execution);
  }
  TensorView buckets = keys;  // of the rounds that there are
  buckets.shape[2] = rounds_;
  sort_by_bucket(buckets,
                 grid(key_order_, shape_.batch, shape_.num_heads_kv, rounds_, shape_.seqlen_k),
                 execution);
  if (!shape_.shared) number_queries(bound, execution);
  number_keys(execution);
}

std::size_t Rounds::sorting_bytes(DType vectors, std::int64_t head_dim,
                                  const BucketFactors& factors, const Execution& execution,
                                  int threads) const {
  const RotationSource rotations{{}, hashing_.seed, head_dim, hashing_.num_hashes, factors.columns};
  const std::size_t hashing =
      vectors == DType::kFloat64 ? Hasher<double>::planned_bytes(
                                       rotations, factors, shape_.num_heads_kv, execution, threads)
                                 : Hasher<float>::planned_bytes(
                                       rotations, factors, shape_.num_heads_kv, execution, threads);
  const BucketSort sort(std::max(shape_.seqlen_q, shape_.seqlen_k));
  return std::max(hashing, static_cast<std::size_t>(threads) * sort.bytes());
}

// Then from (bucket, index) to (chunk, index): keys in the order of their indices go to their
// chunk's next place.
void Rounds::number_keys(const Execution& execution) const {
  const std::int64_t lists = shape_.batch * shape_.num_heads_kv, seqlen = shape_.seqlen_k;
  base::parallel_for(
      lists, base::resolve_threads(execution.threads, lists), [&](std::int64_t list, int) {
        base::check_stop(execution.stop, "lsh_attention");
        std::int32_t* numbers = key_numbers_ + list * seqlen * rounds_;
        std::vector<std::int64_t> next(static_cast<std::size_t>(chunks_));
        for (std::int64_t round = 0; round < rounds_; ++round) {
          std::int32_t* order = key_order_ + (list * rounds_ + round) * seqlen;
          const std::int32_t* buckets =
              key_buckets_ + (list * hashing_.num_hashes + round) * seqlen;
          for (std::int64_t chunk = 0; chunk < chunks_; ++chunk) {
            const std::int64_t begin = chunk * options_.chunk_len;
            const std::int64_t end = begin + std::min(options_.chunk_len, seqlen - begin);
            next[chunk] = begin;
            for (std::int64_t place = begin; place < end; ++place) {
              const std::int64_t key = order[place];
              numbers[key * rounds_ + round] =
                  options_.whole_buckets ? buckets[key] : static_cast<std::int32_t>(chunk);
            }
          }
          if (options_.whole_buckets) continue;
          for (std::int64_t key = 0; key < seqlen; ++key) {
            order[next[numbers[key * rounds_ + round]]++] = static_cast<std::int32_t>(key);
          }
        }
      });
}

std::vector<std::int32_t> Rounds::keys_by_bucket(std::int64_t b, std::int64_t h,
                                                 std::int64_t round) const {
  const std::span<const std::int32_t> buckets = key_buckets(b, h, round);
  std::vector<std::int32_t> keys(buckets.size());
  std::iota(keys.begin(), keys.end(), 0);
  std::stable_sort(keys.begin(), keys.end(), [&](std::int32_t x, std::int32_t y) {
    return buckets[static_cast<std::size_t>(x)] < buckets[static_cast<std::size_t>(y)];
  });
  return keys;
}

// Ranks first, in the place of the queries' future order; then numbers; then queries sorted by
// them. What is sorted is not negative: until then numbers are one larger.
void Rounds::number_queries(const mask::BoundMask& bound, const Execution& execution) {
  const std::int64_t lists = shape_.batch * shape_.num_heads, seqlen = shape_.seqlen_q;
  for (std::int64_t row = 0; row < shape_.batch * seqlen; ++row) {
    query_places_[row] = bound.query_place(row / seqlen, row % seqlen);
  }
  const TensorView ranks = grid(query_order_, shape_.batch, shape_.num_heads, rounds_, seqlen);
  if (!options_.whole_buckets) {
    TensorView queries =
        grid(query_buckets_, shape_.batch, shape_.num_heads, hashing_.num_hashes, seqlen);
    TensorView keys =
        grid(key_buckets_, shape_.batch, shape_.num_heads_kv, hashing_.num_hashes, shape_.seqlen_k);
    queries.shape[2] = keys.shape[2] = rounds_;
    ConstTensorView places{query_places_, DType::kInt64, 2, {shape_.batch, seqlen}, {}};
    places.strides = {seqlen, 1, 0, 0};
    rank_queries(queries, keys,
                 grid(key_order_, shape_.batch, shape_.num_heads_kv, rounds_, shape_.seqlen_k),
                 places, ranks, execution);
  }
  base::parallel_for(
      lists, base::resolve_threads(execution.threads, lists), [&](std::int64_t list, int) {
        base::check_stop(execution.stop, "lsh_attention");
        std::int32_t* numbers = query_numbers_ + list * seqlen * rounds_;
        for (std::int64_t round = 0; round < rounds_; ++round) {
          const std::int32_t* rank = query_order_ + (list * rounds_ + round) * seqlen;
          const std::int32_t* buckets =
              query_buckets_ + (list * hashing_.num_hashes + round) * seqlen;
          for (std::int64_t i = 0; i < seqlen; ++i) {
            // A query before all keys looks as one of the first chunk does, one chunk earlier.
            const std::int64_t number = options_.whole_buckets ? buckets[i]
                                        : rank[i] == 0         ? -1
                                                               : (rank[i] - 1) / options_.chunk_len;
            numbers[i * rounds_ + round] = static_cast<std::int32_t>(number + 1);
          }
        }
      });
  TensorView sorted_by = grid(query_numbers_, shape_.batch, shape_.num_heads, rounds_, seqlen);
  sorted_by.strides[2] = 1;
  sorted_by.strides[3] = rounds_;
  sort_by_bucket(sorted_by, ranks, execution);
  for (std::int64_t n = 0; n < lists * seqlen * rounds_; ++n) --query_numbers_[n];
}

mask::Range Rounds::places_of_bucket(std::int64_t b, std::int64_t h, std::int64_t round,
                                     std::int64_t bucket) const noexcept {
  const std::span<const std::int32_t> order = sorted_keys(b, h, round);
  const std::int32_t* numbers = key_numbers(b, h);
  const auto below = [&](std::int64_t limit) {
    return std::partition_point(
               order.begin(), order.end(),
               [&](std::int32_t key) { return numbers[key * rounds_ + round] < limit; }) -
           order.begin();
  };
  return {below(bucket), below(bucket + 1)};
}

ChunkPlace Rounds::wrapped(std::int64_t round, std::int64_t chunk, std::int64_t n) const noexcept {
  const bool all = options_.wrap == Wrap::kAll;
  const std::int64_t at = (all ? round * chunks_ : 0) + chunk - options_.chunks_before + n;
  const std::int64_t place = (at % cycle() + cycle()) % cycle();
  return {all ? place / chunks_ : round, place % chunks_};
}

void Rounds::window_of(std::int64_t round, std::int64_t number, std::int64_t members,
                       std::vector<Segment>& segments) const {
  segments.clear();
  if (options_.wrap == Wrap::kNone) {
    segments.push_back(plain_window(round, number));
    return;
  }
  for (std::int64_t n = 0; n < std::min(members, cycle());) {
    const ChunkPlace at = wrapped(round, number, n);
    const std::int64_t count = std::min({members - n, cycle() - n, chunks_ - at.chunk});
    segments.push_back({at.round, at.chunk, count});
    n += count;
  }
}

double Rounds::own_occurrences(std::int64_t b, std::int64_t h, std::int64_t i) const {
  if (options_.dedup != Dedup::kNone) return 1;
  if (options_.wrap == Wrap::kNone) return static_cast<double>(rounds_);
  const std::int32_t* numbers = key_numbers(b, h) + i * rounds_;
  double found = 0;
  for (std::int64_t round = 0; round < rounds_; ++round) {
    for (std::int64_t n = 0; n < window(); ++n) {
      const ChunkPlace at = wrapped(round, numbers[round], n);
      found += numbers[at.round] == at.chunk ? 1 : 0;
    }
  }
  return found;
}

}  // namespace longspan::lsh
