// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Checks what a backward call is given, and where its gradients go.
#include "engine/backward_tensors.h"

#include <string>

#include "base/check.h"

namespace longspan::engine {

BackwardTensors check_backward(const CheckedCall& checked, const ConstPartial& result,
                               const ConstPartial& dresult, const Gradients& into,
                               const AttentionOptions& options) {
  const auto say = [&](const char* words) { return std::string(checked.function) + ": " + words; };
  base::require(is_given(result.lse) || element_count(result.lse) == 0,
                [&] { return say("result.lse must be given: weights are computed from it"); });
  base::require(result.output.dtype == dresult.output.dtype, [&] {
    return say("doutput must be ") + name_of(result.output.dtype) + " as the output; found " +
           name_of(dresult.output.dtype);
  });
  ResultChecker checker(checked);
  BackwardTensors t;
  t.output = checker.output_input("output", result.output);
  t.lse = checker.lse_input("lse", result.lse);
  t.doutput = checker.output_input("doutput", dresult.output);
  if (is_given(dresult.lse)) t.dlse = checker.lse_input("dlse", dresult.lse);
  t.dquery = checker.gradient("dquery", into.query, "bshe");
  t.dkey = checker.gradient("dkey", into.key, "bkge");
  t.dvalue = checker.gradient("dvalue", into.value, "bkgd");
  base::require(!is_given(into.bias) || is_given(options.bias),
                [&] { return say("dbias is asked for, but the call has no bias"); });
  base::require(!is_given(into.sinks) || is_given(options.sinks),
                [&] { return say("dsinks are asked for, but the call has no sinks"); });
  if (is_given(into.bias)) checker.gradient_like("dbias", into.bias, options.bias);
  if (is_given(into.sinks)) checker.gradient_like("dsinks", into.sinks, options.sinks);
  t.dbias = into.bias;
  t.dsinks = into.sinks;
  return t;
}

BackwardTensors planned_gradients(const CheckedCall& checked, bool with_key) {
  const DType dtype = checked.query.dtype;
  BackwardTensors tensors;
  tensors.doutput = planned_tensor(dtype, checked.num_heads, checked.head_dim_v);
  tensors.dquery = planned_tensor(dtype, checked.num_heads, checked.head_dim);
  if (with_key) tensors.dkey = planned_tensor(dtype, checked.num_heads_kv, checked.head_dim);
  tensors.dvalue = planned_tensor(dtype, checked.num_heads_kv, checked.head_dim_v);
  return tensors;
}

}  // namespace longspan::engine
