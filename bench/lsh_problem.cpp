// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Memory and calls of a problem of LSH attention.
#include "lsh_problem.h"

namespace longspan::bench {

LshProblem::LshProblem(const Shape& shape, const LshOptions& options, bool backward)
    : shape_(shape),
      options_(options),
      query_key_(shape.dtype, {1, shape.seqlen_q, shape.heads, shape.head_dim}),
      value_(shape.dtype, {1, shape.seqlen_q, shape.heads, shape.head_dim}),
      output_(shape.dtype, {1, shape.seqlen_q, shape.heads, shape.head_dim}),
      lse_(DType::kFloat32, {1, shape.heads, shape.seqlen_q}),
      buckets_(DType::kInt32, {1, shape.heads, options.num_hashes, shape.seqlen_q}),
      order_(DType::kInt32, {1, shape.heads, options.num_hashes, shape.seqlen_q}) {
  attention_.mask = causal();
  query_key_.fill_normal(1);
  value_.fill_normal(3);
  if (!backward) return;
  for (int n = 0; n < 3; ++n) {
    arrays_of_backward_.emplace_back(
        shape.dtype,
        std::initializer_list<std::int64_t>{1, shape.seqlen_q, shape.heads, shape.head_dim});
  }
  arrays_of_backward_[0].fill_normal(4);
  gradients_.query = arrays_of_backward_[1].view();
  gradients_.value = arrays_of_backward_[2].view();
}

LshPlan LshProblem::plan(bool backward, const Execution& execution) const {
  const auto plan = backward ? plan_lsh_attention_backward : plan_lsh_attention;
  return plan(query_key(), {}, value(), options_, attention_, execution);
}

void LshProblem::forward(const Execution& execution) const {
  lsh_attention(query_key(), {}, value(), result(), options_, attention_, execution);
}

void LshProblem::backward(const Execution& execution) const {
  lsh_attention_backward(query_key(), {}, value(), result(), {doutput(), {}}, gradients_, options_,
                         attention_, execution);
}

void LshProblem::hash(const Execution& execution) const {
  hash_vectors(query_key(), buckets_.view(), options_, {}, execution);
}

void LshProblem::sort(const Execution& execution) const {
  sort_by_bucket(buckets(), order_.view(), execution);
}

}  // namespace longspan::bench
