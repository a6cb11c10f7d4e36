// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// LSH attention by its definition, pair by pair: O(seqlen^2 rounds), float64. Every pair is looked
// for in the window of every round; what de-duplication leaves of it is its weight there.
#pragma once

#include <cstdint>
#include <vector>

#include "longspan/attention.h"
#include "longspan/lsh_attention.h"

namespace longspan::reference {

// Buckets of vectors [batch, seqlen, heads, head_dim] (or of lower rank) by rotations [heads_kv,
// head_dim, num_hashes, columns], as [batch, heads, num_hashes, seqlen].
struct Hashed {
  std::vector<std::int64_t> buckets;
  // How far the best product of a bucket is ahead of the second best, in lengths of the vector
  // (the least of its factors): what rounding must stay below.
  std::vector<double> gaps;
};
Hashed hash_buckets(const ConstTensorView& vectors, const ConstTensorView& rotations,
                    const std::vector<std::int64_t>& factors);

// Positions sorted by (bucket, position).
std::vector<std::int64_t> sorted_by_bucket(const std::vector<std::int64_t>& buckets);

// The places of one round's sorted positions that a chunk attends to as (round, chunk), by the
// words of the definition.
std::vector<ChunkPlace> window_of_chunk(const LshOptions& options, std::int64_t chunks,
                                        ChunkPlace at);

// Keys from vectors, row by row of head_dim.
std::vector<double> normalized_rows(const std::vector<double>& rows, std::int64_t head_dim,
                                    KeyNorm norm);

// output, magnitude (the same with |value|): [batch, seqlen_q, heads, head_dim_v]; lse: [batch,
// heads, seqlen_q]; by rounds: [batch, heads, rounds, seqlen_q(, head_dim_v)]. A sequence of one
// chunk has one round. A local window is one round more, the last.
struct LshResult {
  std::vector<double> output, magnitude, lse, round_output, round_lse;
  std::int64_t rounds = 0;
  std::int64_t pairs_found = 0, pairs_found_again = 0;  // by any round; by more than one, or twice
};

// With respect to query, key and value, row-major in their own shapes; of shared query and key all
// stands in `query`. And the same sums over the absolute values of their terms.
struct LshGradients {
  std::vector<double> query, key, value, sinks;
};
struct LshGradientResult {
  LshGradients sum, magnitude;
};

// What one row has of exact attention, which is that over all pairs that it sees.
struct LshRowDiagnosis {
  bool sees = false;
  double recalled_mass = 0;   // share of the weights of keys that is on pairs in some window
  double recalled_pairs = 0;  // likewise of the pairs
  std::vector<double> exact;  // output
  // Pairs but that with itself: in one bucket, round by round, and not in the window of that round;
  // in some window of rounds, and in how many of them.
  std::int64_t in_one_bucket = 0, cut = 0, found = 0, finds = 0;
};

// `buckets`: [batch, heads, num_hashes, seqlen] as hash_vectors() lays them out; padding is moved
// behind all others. They may be absent for a sequence of one chunk. Of the options, what concerns
// hashing is not read.
class LshAttention {
 public:
  LshAttention(const ConstTensorView& query_key, const ConstTensorView& value,
               const ConstTensorView& buckets, const LshOptions& lsh,
               const AttentionOptions& attention);
  LshAttention(const ConstTensorView& query, const ConstTensorView& key,
               const ConstTensorView& value, const ConstTensorView& query_buckets,
               const ConstTensorView& key_buckets, const LshOptions& lsh,
               const AttentionOptions& attention);

  // Sequences of one chunk are attended once; the lab attends them in every round.
  bool short_is_plain = true;

  LshResult all() const;
  LshRowDiagnosis diagnosis(std::int64_t batch, std::int64_t head, std::int64_t query) const;
  // Of sum(output * doutput) + sum(lse * dlse); dlse may be absent.
  LshGradientResult gradients(const ConstTensorView& doutput, const ConstTensorView& dlse) const;

 private:
  using Counts = std::vector<std::int64_t>;  // one for each key

  // A key that the row sees, in some round.
  struct Pair {
    std::int64_t key = 0;
    std::int64_t found = 0;  // how often it stands in windows
    double score = 0;
    double slope = 0;            // d score / d (query . key)
    double slope_terms = 0;      // the same with the terms of the softcap's derivative added up
    double total = 0;            // sum of the weights
    std::vector<double> weight;  // by round
  };
  struct Head {  // what the rows of one head have in common
    std::int64_t batch = 0, head = 0;
    std::vector<std::vector<std::int64_t>> orders;  // by round: keys sorted
  };
  // Weighted exponentials of one row or one round of it.
  struct Row {
    double lse = 0;
    std::vector<double> output, magnitude;
  };

  void read(const ConstTensorView& query, const ConstTensorView& key, const ConstTensorView& value,
            const ConstTensorView& query_buckets, const ConstTensorView& key_buckets);
  bool plain() const { return short_is_plain && seqlen_k_ <= lsh_.chunk_len; }
  std::int64_t rounds() const { return plain() ? 1 : num_hashes_; }
  bool is_local(std::int64_t batch, std::int64_t query, std::int64_t key) const;
  bool is_padding(std::int64_t batch, std::int64_t head_kv, std::int64_t key) const;
  bool sees(std::int64_t batch, std::int64_t head, std::int64_t query, std::int64_t key) const;
  Head head_of(std::int64_t batch, std::int64_t head) const;
  std::int64_t key_position(std::int64_t batch, std::int64_t query) const;
  // How often each key stands in the window of a query.
  Counts window_of(const Head& head, std::int64_t round, std::int64_t query) const;
  std::vector<Pair> pairs_of(const Head& head, std::int64_t query) const;
  void score(const Head& head, std::int64_t query, Pair& pair) const;
  // All rounds (-1), sinks included, or one.
  Row row_of(const Head& head, const std::vector<Pair>& pairs, std::int64_t round) const;
  void add_key_gradient(LshGradientResult& result) const;

  std::int64_t query_bucket(const Head& head, std::int64_t round, std::int64_t query) const;
  std::int64_t key_bucket(const Head& head, std::int64_t round, std::int64_t key) const;
  std::int64_t query_row(const Head& head, std::int64_t query) const {
    return (head.batch * seqlen_q_ + query) * heads_ + head.head;
  }
  std::int64_t key_row(const Head& head, std::int64_t key) const {
    return (head.batch * seqlen_k_ + key) * heads_kv_ + head.head / (heads_ / heads_kv_);
  }

  bool shared_;
  LshOptions lsh_;
  AttentionOptions attention_;
  std::int64_t batch_ = 1, seqlen_q_ = 0, seqlen_k_ = 0, heads_ = 1, heads_kv_ = 1, dim_ = 0,
               dim_v_ = 0, num_hashes_ = 0;
  double scale_ = 1;
  std::vector<double> query_, key_, value_;  // key_: normalised where shared
  std::vector<std::int64_t> query_buckets_, key_buckets_;
};

}  // namespace longspan::reference
