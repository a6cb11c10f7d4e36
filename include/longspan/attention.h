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

// score = scale * (query . key), then softcap * tanh(score / softcap) when softcap > 0, then +
// bias, then - slope * |i + query_offset - j| (ALiBi), then the mask. Views with data == nullptr
// are absent.
struct AttentionOptions {
  std::optional<double> scale;  // default 1 / sqrt(head_dim); must be finite
  double softcap = 0;           // 0: off
  QueryOffset query_offset;  // needed by causal, window, prefix and ALiBi when seqlen_q != seqlen_k
  Mask mask;                 // default: everything is visible
  ConstTensorView
      bias;  // floating, broadcastable to [batch, num_heads, seqlen_q, seqlen_k]; -inf excludes
  ConstTensorView alibi_slopes;  // floating, [num_heads] or [batch, num_heads]
  ConstTensorView sinks;  // floating, [num_heads]: logit of a virtual key of value 0, part of lse
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

// What attention() would do, without doing it.
struct AttentionPlan {
  std::string kernel;            // name from kernels()
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
