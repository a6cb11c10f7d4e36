// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Which chunks are attended to: by a chunk, and by a query among sorted keys.
#include <algorithm>
#include <string>

#include "base/check.h"
#include "base/parallel_for.h"
#include "base/round.h"
#include "longspan/lsh_attention.h"
#include "lsh/checked_options.h"
#include "lsh/index_grid.h"

namespace longspan {
namespace {

using base::require;

}  // namespace

std::int64_t count_chunks(std::int64_t seqlen, std::int64_t chunk_len) {
  require(seqlen >= 0 && chunk_len >= 1, [&] {
    return "count_chunks: seqlen must not be negative and chunk_len at least 1; found " +
           std::to_string(seqlen) + " and " + std::to_string(chunk_len);
  });
  return seqlen / chunk_len + (seqlen % chunk_len != 0 ? 1 : 0);
}

ChunkWindow::ChunkWindow(const LshOptions& options, std::int64_t chunks, ChunkPlace at)
    : chunks_(chunks) {
  lsh::check_options("ChunkWindow", options, lsh::Vectors::kShared);
  require(at.round >= 0 && at.round < options.num_hashes && at.chunk >= 0 && at.chunk < chunks,
          [&] {
            return "ChunkWindow: expected a chunk of " + std::to_string(options.num_hashes) +
                   " rounds of " + std::to_string(chunks) + "; found chunk " +
                   std::to_string(at.chunk) + " of round " + std::to_string(at.round);
          });
  const std::int64_t before = options.chunks_before, after = options.chunks_after;
  size_ = before + 1 + after;
  first_round_ = options.wrap == Wrap::kAll ? 0 : at.round;
  cycle_ = options.wrap == Wrap::kAll ? options.num_hashes * chunks : chunks;
  first_ = (options.wrap == Wrap::kAll ? at.round * chunks : 0) + at.chunk - before;
  if (options.wrap == Wrap::kNone) {
    const std::int64_t end = std::min(first_ + size_, chunks);
    first_ = std::max<std::int64_t>(first_, 0);
    size_ = end - first_;
  }
}

ChunkPlace ChunkWindow::operator[](std::int64_t n) const noexcept {
  const std::int64_t at = ((first_ + n) % cycle_ + cycle_) % cycle_;
  return {first_round_ + at / chunks_, at % chunks_};
}

namespace lsh {
namespace {

constexpr const char* kRankQueries = "rank_queries";

// (bucket, position) of a key is at most that of a query.
struct SortedKeys {
  IndexRow buckets;
  IndexRow positions;
  std::int64_t count;

  std::int64_t rank_of(std::int64_t bucket, std::int64_t position) const noexcept {
    std::int64_t low = 0, high = count;  // ranks below `low` are too small, from `high` on not
    while (low < high) {
      const std::int64_t middle = low + (high - low) / 2;
      const std::int64_t key = positions[middle], b = buckets[key];
      if (b < bucket || (b == bucket && key <= position)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

struct RankGrids {
  IndexGrid queries;
  IndexGrid keys;
  IndexGrid order;
  IndexGrid positions;  // of queries; without data: their indices
  bool positions_by_batch = false;
  IndexGrid ranks;
};

RankGrids check_ranks(const ConstTensorView& query_buckets, const ConstTensorView& key_buckets,
                      const ConstTensorView& sorted_positions,
                      const ConstTensorView& query_positions, const TensorView& ranks) {
  RankGrids grids;
  grids.queries = check_index_input(kRankQueries, "query_buckets", query_buckets);
  grids.keys = check_index_input(kRankQueries, "key_buckets", key_buckets);
  grids.order = check_index_input(kRankQueries, "sorted_positions", sorted_positions);
  grids.ranks = check_index_result(kRankQueries, "ranks", ranks, grids.keys.shape[3]);
  require_shape(kRankQueries, "sorted_positions", sorted_positions, "that of key_buckets",
                key_buckets);
  require_shape(kRankQueries, "ranks", ranks, "that of query_buckets", query_buckets);
  const auto [batch, heads, rounds, seqlen_q] = grids.queries.shape;
  const std::int64_t heads_kv = grids.keys.shape[1];
  require(query_buckets.rank == key_buckets.rank && batch == grids.keys.shape[0] &&
              rounds == grids.keys.shape[2] && (heads_kv == 0 ? heads == 0 : heads % heads_kv == 0),
          [&] {
            return "rank_queries: query_buckets and key_buckets must have one batch and "
                   "num_hashes, and num_heads a multiple of num_heads_kv; found " +
                   shape_string(query_buckets) + " and " + shape_string(key_buckets);
          });
  if (is_given(query_positions)) {
    grids.positions = check_index_input(kRankQueries, "query_positions", query_positions);
    grids.positions_by_batch = query_positions.rank == 2;
    const bool fits = query_positions.rank <= 2 && grids.positions.shape[3] == seqlen_q &&
                      (query_positions.rank == 1 || query_positions.shape[0] == batch);
    require(fits, [&] {
      return "rank_queries: query_positions must have shape [seqlen_q] or [batch, seqlen_q]; "
             "found " +
             shape_string(query_positions) + " for query_buckets " + shape_string(query_buckets);
    });
  }
  for (const auto& [name, input] :
       {std::pair{"query_buckets", query_buckets}, std::pair{"key_buckets", key_buckets},
        std::pair{"sorted_positions", sorted_positions},
        std::pair{"query_positions", query_positions}}) {
    require_apart(kRankQueries, "ranks", ranks, name, input);
  }
  return grids;
}

void require_positions(const SortedKeys& keys) {
  for (std::int64_t n = 0; n < keys.count; ++n) {
    const std::int64_t p = keys.positions[n];
    require(p >= 0 && p < keys.count, [&] {
      return "rank_queries: sorted_positions must be in 0.." + std::to_string(keys.count - 1) +
             "; found " + std::to_string(p);
    });
  }
}

}  // namespace
}  // namespace lsh

void rank_queries(ConstTensorView query_buckets, ConstTensorView key_buckets,
                  ConstTensorView sorted_positions, ConstTensorView query_positions,
                  TensorView ranks, const Execution& execution) {
  lsh::check_threads(lsh::kRankQueries, execution);
  const lsh::RankGrids grids =
      lsh::check_ranks(query_buckets, key_buckets, sorted_positions, query_positions, ranks);
  const bool given = is_given(query_positions);
  const std::int64_t rows = grids.queries.rows(), rounds = grids.queries.shape[2];
  const std::int64_t heads = grids.queries.shape[1], heads_kv = grids.keys.shape[1];
  base::parallel_for(
      rows, base::resolve_threads(execution.threads, rows), [&](std::int64_t row, int) {
        base::check_stop(execution.stop, lsh::kRankQueries);
        const std::int64_t round = row % rounds, head = row / rounds % heads;
        const std::int64_t batch = row / rounds / heads, head_kv = head / (heads / heads_kv);
        const lsh::SortedKeys sorted{grids.keys.row(batch, head_kv, round),
                                     grids.order.row(batch, head_kv, round), grids.keys.shape[3]};
        lsh::require_positions(sorted);
        const lsh::IndexRow buckets = grids.queries.row(row), into = grids.ranks.row(row);
        const lsh::IndexRow own = grids.positions.row(0, 0, grids.positions_by_batch ? batch : 0);
        for (std::int64_t i = 0; i < grids.queries.shape[3]; ++i) {
          into.set(i, sorted.rank_of(buckets[i], given ? own[i] : i));
        }
      });
}

ChunkRange chunks_of_rank(const LshOptions& options, std::int64_t seqlen_k, std::int64_t rank) {
  lsh::check_options("chunks_of_rank", options, lsh::Vectors::kSeparate);
  require(seqlen_k >= 0 && rank >= 0 && rank <= seqlen_k, [&] {
    return "chunks_of_rank: rank must be in 0.." + std::to_string(seqlen_k) +
           " (seqlen_k); found " + std::to_string(rank);
  });
  const std::int64_t chunks = count_chunks(seqlen_k, options.chunk_len);
  if (chunks == 0) return {};
  const std::int64_t chunk = rank == 0 ? -1 : (rank - 1) / options.chunk_len;
  const auto clamp = [&](std::int64_t n) { return std::clamp<std::int64_t>(n, 0, chunks - 1); };
  return {clamp(chunk - options.chunks_before), clamp(chunk + options.chunks_after) + 1};
}

}  // namespace longspan
