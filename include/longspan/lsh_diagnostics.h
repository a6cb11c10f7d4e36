// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// How much of exact attention a call of LSH attention found: measured on sampled rows, so that it
// needs no memory of size seqlen_q x seqlen_k.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "longspan/lsh_attention.h"

namespace longspan {

// A ratio of two sums over sampled rows, and its 95 % confidence interval: 1.96 standard errors by
// the delta method, times sqrt(1 - share of the rows that were sampled). NaN where the denominator
// is 0: nothing is there to take a share of. One row of several has no interval (NaN).
struct Estimate {
  double value = 0;
  double low = 0;
  double high = 0;
};

// The buckets of one round, of all batch entries and heads of keys; by the keys that they hold,
// padding aside. Empty ones are only counted.
struct BucketSizes {
  std::int64_t smallest = 0;
  double mean = 0;
  std::int64_t largest = 0;
  std::int64_t empty = 0;
  double over_chunk = 0;  // share of the keys that are in buckets larger than a chunk
};

// A pair is a query and a key that the mask shows it. It is found where a window of some round
// holds the key, or the local window does. Pairs of a position with itself (shared query and key)
// have attention mass, but are not counted as cut or found again: every round holds them.
struct LshDiagnostics {
  std::int64_t rows = 0;  // sampled rows that see a key; all figures but bucket_sizes are of them
  // Mean share of a row's exact attention weights (those of keys, a sink aside) that is on pairs
  // which were found.
  Estimate recalled_mass;
  // The same with equal weights, the mean share of the keys of a row that were found: what hashing
  // gains is how far recalled_mass is above it.
  Estimate recalled_pairs;
  // Relative L2 of the output against exact attention: sqrt of (sum of |output - exact|^2) / (sum
  // of |exact|^2). The interval is that of the ratio, and its root taken.
  Estimate output_error;
  // Of the pairs in one bucket, round by round: the share that no window of the round holds, since
  // the edge of a chunk lies between them.
  Estimate cut_pairs;
  // How often a pair that some round found stands in windows: 1 is no duplicates.
  Estimate finds_per_pair;
  std::vector<BucketSizes> bucket_sizes;  // by round
};

// `output` is what lsh_attention() wrote for the same inputs and options; the call itself is not
// repeated. Exact attention is that over every pair the mask shows, in float64: for shared query
// and key over normalised keys with the self score, as lsh_attention() does it in one chunk.
//
// The rows (batch entry, head, query) that see a key are cut into `rows` equal parts, and one is
// drawn from each by Philox from options.seed: all of them where there are no more. Rows that only
// a dense mask or a predicate hides whole are drawn, and left out.
//
// A NaN in a sampled row makes the estimates that it enters NaN. Without rows all estimates are
// NaN. Bitwise the same for any number of threads. Time: rows x seqlen_k x (head_dim + head_dim_v),
// beside hashing and sorting. Workspace: lsh_diagnostics_workspace(). Errors: as lsh_attention()
// for the same arguments, whose plan has to fit execution.memory_limit too, and for an output of
// another shape or type, or rows < 1.
LshDiagnostics diagnose_lsh(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                            ConstTensorView output, const LshOptions& options = {},
                            const AttentionOptions& attention = {}, const Execution& execution = {},
                            std::int64_t rows = 256);

// Bytes that it allocates: 12 a round for each position and head, 8 for each separate query, what
// hashing allocates, and a thread 24 for each key (32 with a local window).
std::size_t lsh_diagnostics_workspace(ConstTensorView query, ConstTensorView key,
                                      ConstTensorView value, const LshOptions& options = {},
                                      const AttentionOptions& attention = {},
                                      const Execution& execution = {}, std::int64_t rows = 256);

}  // namespace longspan
