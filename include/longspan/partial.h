// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The mergeable summary of attention over a set of keys, and the one rule that merges summaries.
//
// Attention over a set of keys A, with scores s_j, is summarised per query row by
//   lse(A)    = ln sum_{j in A} exp(s_j)                 (natural log; -inf when A is empty)
//   output(A) = sum_{j in A} exp(s_j - lse(A)) value_j   (0 when A is empty)
// and summaries over disjoint key sets merge to the summary of their union. Any number of parts, in
// any order: key chunks (Rabe & Staats 2021), hash rounds (Kitaev et al. 2020), cached prefixes,
// machines.
#pragma once

#include <span>

#include "longspan/execution.h"
#include "longspan/tensor.h"

namespace longspan {

// output: [batch, seqlen, num_heads, head_dim_v], any floating dtype. lse: [batch, num_heads,
// seqlen], float32 or float64. Ranks 3 ([seqlen, num_heads, head_dim_v] with lse [num_heads,
// seqlen]) and 2 ([seqlen, head_dim_v] with lse [seqlen]) stand for batch 1 and one head. Any
// strides.
struct Partial {
  TensorView output;
  TensorView lse;
};

struct ConstPartial {
  ConstTensorView output;
  ConstTensorView lse;
  ConstPartial() = default;
  ConstPartial(ConstTensorView o, ConstTensorView l) : output(o), lse(l) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  ConstPartial(const Partial& p) : output(p.output), lse(p.lse) {}
};

// Writes the identity of the merge: output 0, lse -inf.
void clear(Partial into);

// into <- into merged with every part. Shapes must agree; dtypes may differ. Sums are taken in
// float64 and rounded once, so a thousand parts in one call lose nothing to their number. A part
// (or `into`) whose lse is -inf is skipped: its output is not read, and merging with it changes no
// bit. A row with an lse of +inf or NaN becomes NaN. `into` must not overlap a part. Empty tensors
// are allowed. Allocates O(parts) and runs on execution.threads threads. Throws Error
// (kInvalidArgument) naming the part and both shapes or dtypes.
void merge(Partial into, std::span<const ConstPartial> parts, const Execution& execution = {});

}  // namespace longspan
