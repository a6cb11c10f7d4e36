// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Exact attention in chunks (Rabe & Staats 2021, arXiv 2112.05682), memory independent of seqlen_q
// x seqlen_k.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "longspan/error.h"
#include "longspan/execution.h"
#include "longspan/mask.h"
#include "longspan/partial.h"
#include "longspan/tensor.h"

namespace longspan {

// Standard dropout: each weight is dropped from the numerator with this probability and the rest
// are scaled by 1 / (1 - probability); lse is that of all weights. Which ones are dropped is a
// function of (seed, batch, head, query, key) alone: Philox 4x32-10 with key = seed and counter
// (key / 4, query, head, batch), indices of the tensors; key j takes word j mod 4 and is kept when
// it is >= probability * 2^32. At probability 1 every output is 0.
struct Dropout {
  double probability = 0;  // of dropping a weight, in [0, 1]; 0: off, no bit changes
  std::uint64_t seed = 0;
};

// score = scale * (query . key), then softcap * tanh(score / softcap) when softcap > 0, then +
// bias, then - slope * |i + query_offset - j| (ALiBi), then the mask. Views may be absent
// (is_given). Scores must stay within 0.69 of the largest number of the type that is computed in:
// they are kept in units of ln 2. Below, as with a bias of its lowest number, they exclude as -inf
// does; above, they make their row NaN.
struct AttentionOptions {
  std::optional<double> scale;  // default 1 / sqrt(head_dim); must be finite
  double softcap = 0;           // 0: off
  QueryOffset query_offset;  // needed by causal, window, prefix and ALiBi when seqlen_q != seqlen_k
  Mask mask;                 // default: everything is visible
  ConstTensorView
      bias;  // floating, broadcastable to [batch, num_heads, seqlen_q, seqlen_k]; -inf excludes
  ConstTensorView alibi_slopes;  // floating, [num_heads] or [batch, num_heads]
  ConstTensorView sinks;  // floating, [num_heads]: logit of a virtual key of value 0, part of lse
  Dropout dropout;
};

// query: [batch, seqlen_q, num_heads, head_dim]; key: [batch, seqlen_k, num_heads_kv, head_dim];
// value: [batch, seqlen_k, num_heads_kv, head_dim_v]; num_heads % num_heads_kv == 0 (grouped
// queries: keys and values are never expanded). Rank 3 is [seqlen, num_heads, dim], rank 2 [seqlen,
// dim]; all of one rank. Any strides. query, key and value share one dtype of float32, float64,
// float16, bfloat16; float64 computes in float64, all others in float32. result.output: that dtype
// or float32, [batch, seqlen_q, num_heads, head_dim_v]; result.lse: float32 (float64 for float64)
// [batch, num_heads, seqlen_q], lower ranks as in partial.h; result.lse may be absent.
//
// A row that sees no key gets output 0 and lse -inf. Any extent but head_dim and head_dim_v may be
// 0. Results are bitwise the same for any number of threads, and for a batch entry alone or in any
// batch. The outputs must not overlap the inputs or each other, from their first byte to their
// last. Workspace is allocated once at the entry, O(threads), see plan_attention. With
// LONGSPAN_LOG=1 in the environment one line a call goes to stderr. Throws Error; a call that threw
// has unspecified outputs.
void attention(ConstTensorView query, ConstTensorView key, ConstTensorView value, Partial result,
               const AttentionOptions& options = {}, const Execution& execution = {});

// Where gradients go; an absent one (is_given) is not computed. query, key, value: the
// shapes of the inputs, the output's dtype or float32. bias: the shape of the bias, float32
// (float64 for float64 inputs), summed over the axes that it broadcasts along. sinks: [num_heads],
// likewise.
struct Gradients {
  TensorView query;
  TensorView key;
  TensorView value;
  TensorView bias;
  TensorView sinks;
};

// The gradients of sum(output * dresult.output) + sum(lse * dresult.lse), where result is what
// attention() gave for the same inputs and options (its lse is required) and dresult is the
// gradient with respect to it; dresult.lse may be absent (0). The weights are computed again from
// lse, tile by tile (Dao et al. 2022):
//   P = exp(score - lse), D_i = doutput_i . output_i - dlse_i, dP = doutput value^T,
//   dS = P * (dP - D), dquery = scale dS key, dkey = scale dS^T query, dvalue = P^T doutput.
// Sums are taken in float32 (float64 for float64), key and value gradients over the heads of a
// group as well. Memory beside the tensors: O(threads), one number for each row and head, and one
// float32 copy of the query's gradient where its type is narrower. A row that sees no key gives
// zero gradients; excluded pairs contribute nothing, even where they hold NaN or inf. Bitwise the
// same for any number of threads. Overlap, threads, errors: as attention().
void attention_backward(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                        ConstPartial result, ConstPartial dresult, Gradients into,
                        const AttentionOptions& options = {}, const Execution& execution = {});

// What attention() would do, without doing it.
struct AttentionPlan {
  std::string kernel;            // name from kernels()
  bool decode = false;           // few queries: keys and values are read once for a whole group
  int threads = 1;               // threads that will work
  std::int64_t query_chunk = 0;  // queries handled together
  std::int64_t key_chunk = 0;    // keys summarised before a merge
  std::int64_t tasks = 0;
  std::int64_t tiles_visited = 0;   // tiles of (a panel of queries) x (a key block)
  std::int64_t tiles_skipped = 0;   // tiles that the mask hides whole
  std::size_t workspace_bytes = 0;  // allocated at the entry, all threads together
  double flop = 0;                  // 2 (head_dim + head_dim_v) for each pair of a visited tile
};
AttentionPlan plan_attention(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                             const AttentionOptions& options = {}, const Execution& execution = {});

// The same for attention_backward() with all gradients in the query's dtype; flop counts the five
// products: 2 (3 head_dim + 2 head_dim_v) for each pair.
AttentionPlan plan_attention_backward(ConstTensorView query, ConstTensorView key,
                                      ConstTensorView value, const AttentionOptions& options = {},
                                      const Execution& execution = {});

// The paper's own summary of one chunk of keys (Figure 1, summarize_chunk), per query row over all
// visible keys: max = max_j s_j, sum = sum_j exp(s_j - max), numerator = sum_j exp(s_j - max)
// value_j. An empty row gives -inf, 0, 0. numerator: [batch, seqlen_q, num_heads, head_dim_v]; sum,
// max: [batch, seqlen_q, num_heads]; all float32 (float64 for float64); lower ranks drop the same
// axes as the query. options.sinks must be absent.
struct ChunkSummary {
  TensorView numerator;
  TensorView sum;
  TensorView max;
};
void summarize_chunk(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                     ChunkSummary into, const AttentionOptions& options = {},
                     const Execution& execution = {});

}  // namespace longspan
