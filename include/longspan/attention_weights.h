// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Where attention went: the weights of exact attention, computed again from lse, of the rows and
// keys that are asked for. Nothing of size seqlen_q x seqlen_k is made on the way.
#pragma once

#include "longspan/attention.h"

namespace longspan {

// What is wanted; an absent one (is_given) is not computed. Numbers are float32 (float64 for
// float64 inputs). Rank 3 inputs have results without the batch, rank 2 without the heads, too.
struct AttentionWeights {
  TensorView weights{};      // [batch, num_heads, rows, seqlen_k]
  TensorView top_keys{};     // [batch, num_heads, rows, k], int64: keys of the k largest weights
  TensorView top_weights{};  // [batch, num_heads, rows, k]: those weights
  TensorView column_sums{};  // [batch, num_heads, seqlen_k]: of the weights that a key receives
};

// The weights P = exp(score - lse) (Dao et al. 2022, algorithm 4) of the call attention(query, key,
// ..., options) whose lse this is; scores as in AttentionOptions. Sinks are part of lse: a row sums
// to 1 less the sink's weight. Dropout acts after the weights and must be off.
//
// rows: int32 or int64, [rows], numbers of queries in any order, a row as often as it is named;
// absent: every query. Every result is of these rows.
//
// weights: 0 exactly where a key is hidden, even where it holds NaN, and in rows whose lse is -inf.
// top_keys, top_weights: by falling weight, equal ones by rising key, NaN before all others. Where
// a row sees fewer than k keys the rest is key -1, weight 0. k is any number; each of the two may
// be absent.
// column_sums: taken in float64, row by row in their order, and rounded once.
//
// Any extent but head_dim may be 0. Bitwise the same for any number of threads; a row has the same
// bits with any other rows. Chunks of `execution` are not used. The results must not overlap the
// inputs or each other. Workspace is allocated once at the entry: for each thread a block of keys,
// some panels of queries and their k best, and 8 bytes a row. Time: 2 head_dim operations for each
// pair of a tile that the mask leaves, twice with column_sums and others. Throws Error; a call that
// threw has unspecified results.
void attention_weights(ConstTensorView query, ConstTensorView key, ConstTensorView lse,
                       const AttentionWeights& into, ConstTensorView rows = {},
                       const AttentionOptions& options = {}, const Execution& execution = {});

}  // namespace longspan
