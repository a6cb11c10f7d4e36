// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// From a checked call to the words of the engine: what forward and backward share, exact or hashed.
#pragma once

#include <string>

#include "engine/attention_call.h"
#include "engine/checked_call.h"
#include "kernels/registry.h"
#include "mask/bound_mask.h"

namespace longspan::engine {

inline mask::CallShape shape_of(const CheckedCall& checked) noexcept {
  return {checked.batch, checked.num_heads, checked.seqlen_q, checked.seqlen_k, checked.function};
}

inline mask::BoundMask bind_mask(const CheckedCall& checked, const AttentionOptions& options) {
  return {options.mask, options.query_offset, shape_of(checked),
          checked.alibi_slopes.data != nullptr};
}

template <class T>
void describe_call(const CheckedCall& checked, const AttentionOptions& options,
                   const Execution& execution, const kernel::KernelTable<T>& kernel,
                   const mask::BoundMask& mask, AttentionCall<T>& call) {
  call.function = checked.function;
  call.kernel = &kernel;
  call.mask = &mask;
  call.head_dim = checked.head_dim;
  call.head_dim_v = checked.head_dim_v;
  call.scale = checked.scale;
  call.softcap = options.softcap;
  call.bias = checked.bias;
  call.alibi_slopes = checked.alibi_slopes;
  call.sinks = checked.sinks;
  call.dropout = checked.dropout;
  call.stop = execution.stop;
  call.progress = execution.progress;
}

// body(pass) with the pass over the numbers in which this dtype is computed.
template <template <class> class Pass, class Body, class... Arguments>
auto with_pass(DType dtype, const Body& body, const Arguments&... arguments) {
  if (dtype == DType::kFloat64) {
    Pass<double> pass(arguments...);
    return body(pass);
  }
  Pass<float> pass(arguments...);
  return body(pass);
}

inline std::string log_line(const char* function, const ConstTensorView& query,
                            const ConstTensorView& key, const ConstTensorView& value,
                            const AttentionPlan& plan) {
  return std::string(function) + " " + name_of(query.dtype) + ", query " + shape_string(query) +
         ", key " + shape_string(key) + ", value " + shape_string(value) + ", kernel " +
         plan.kernel + ", " + std::to_string(plan.threads) + " threads, " +
         std::to_string(plan.tiles_visited) + " tiles visited, " +
         std::to_string(plan.tiles_skipped) + " skipped";
}

}  // namespace longspan::engine
