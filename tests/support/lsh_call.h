// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// One call of LSH attention on owning tensors, and its literal float64 answer.
#pragma once

#include <string>
#include <vector>

#include "longspan/lsh_attention.h"
#include "reference/lsh_reference.h"
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

Output run_lsh_as(DType output, const LshInputs& inputs, const Execution& execution = {},
                  Layout layout = Layout::kRowMajor);
Output run_lsh(const LshInputs& inputs, const Execution& execution = {});

// The definition, with the buckets that hash_vectors() gives.
reference::LshAttention definition_of(const LshInputs& inputs);
reference::LshResult truth_of(const LshInputs& inputs);
// By the row of the table of this type.
testing::AssertionResult matches(const Output& result, const reference::LshResult& truth,
                                 DType row);

}  // namespace longspan::test
