// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// One call of LSH attention on owning tensors, and its literal float64 answer.
#pragma once

#include <string>
#include <vector>

#include "longspan/lsh_attention.h"
#include "reference/lsh_reference.h"
#include "support/backward.h"
#include "support/call.h"

namespace longspan::test {

struct LshInputs {
  bool shared = true;
  Tensor query, key, value;  // key: of separate ones
  LshOptions lsh;
  AttentionOptions options;
  std::vector<Tensor> kept;  // what options refer to

  Tensor keep(Tensor tensor) { return kept.emplace_back(std::move(tensor)); }
  ConstTensorView key_view() const { return shared ? ConstTensorView{} : key.view(); }
};

// Shared vectors, value as wide; chunks of 16.
LshInputs normal_lsh(const std::vector<std::int64_t>& shape, DType dtype, std::uint64_t seed);
// Two heads of keys for four of queries, causal, the last query level with the last key.
LshInputs separate_lsh(DType dtype, std::int64_t seqlen_q, std::int64_t seqlen_k,
                       std::uint64_t seed);
// One entry of the batch; nothing of nothing.
Tensor entry_of(const Tensor& tensor, std::int64_t batch);
LshInputs entry_of(const LshInputs& inputs, std::int64_t batch);
// One number of each row of query and value from position `first` on is `poison`.
LshInputs poisoned(const LshInputs& inputs, std::int64_t first, double poison);
// Windows are whole buckets, and there is but one.
void put_into_one_bucket(LshInputs& separate);

Output run_lsh_as(DType output, const LshInputs& inputs, const Execution& execution = {},
                  Layout layout = Layout::kRowMajor);
Output run_lsh(const LshInputs& inputs, const Execution& execution = {});

// The definition, with the buckets that hash_vectors() gives.
reference::LshAttention definition_of(const LshInputs& inputs);
reference::LshResult truth_of(const LshInputs& inputs);
// By the row of the table of this type.
testing::AssertionResult matches(const Output& result, const reference::LshResult& truth,
                                 DType row);

// Of shared vectors query is the gradient of query_key, and there is none of keys.
GradientTensors run_lsh_backward(const LshInputs& inputs, const Output& result,
                                 const Derivatives& derivatives, const Execution& execution = {});
Derivatives normal_derivatives(const LshInputs& inputs, DType output, std::uint64_t seed);
reference::AttentionGradients gradient_truth_of(const LshInputs& inputs,
                                                const Derivatives& derivatives);
// By the tolerances of `row`, of the sums of the absolute terms where terms cancel.
testing::AssertionResult matches(const Gradients& gradients,
                                 const reference::AttentionGradients& truth, DType row);

}  // namespace longspan::test
