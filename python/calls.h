// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What calls of exact attention, hashed attention and the cache have in common: tensors that come
// in, results and gradients that go out.
#pragma once

#include <functional>

#include "array.h"
#include "longspan/partial.h"
#include "options.h"

namespace longspan::python {

// The views are arranged: [..., seqlen, num_heads, dim].
struct Inputs {
  Inputs(nb::handle query, nb::handle key, nb::handle value, const CallOptions& options);

  // run() of work on these tensors. The library's complaint is a TypeError when the fault is that
  // their types differ.
  void run(const CallOptions& options, const std::function<void(const Execution&)>& work) const;

  Array query_array, key_array, value_array;
  ConstTensorView query, key, value;
};

// The result of a forward call, in new arrays and in `out`, when it is given.
class Outputs {
 public:
  // `query`, `value`: as they came, not arranged.
  Outputs(const ConstTensorView& query, const ConstTensorView& value, const CallOptions& options,
          bool want_lse, nb::handle out);
  const Partial& partial() const noexcept { return partial_; }
  // output, or (output, lse), of the kind of `like`; `last` is appended when it is given.
  nb::object take(nb::handle like, nb::object last = {}) const;

 private:
  nb::object output_;
  nb::object lse_;
  Array out_;
  NewArray new_output_;
  NewArray new_lse_;
  Partial partial_;
};

// What a backward call reads beside its inputs.
struct BackwardInputs {
  BackwardInputs(nb::handle doutput, nb::handle output, nb::handle lse, nb::handle dlse,
                 const CallOptions& options);
  ConstPartial result, dresult;

 private:
  Array doutput_array_, output_array_, lse_array_, dlse_array_;
};

// Gradients of what was given: (query, key, value, bias, sinks), None elsewhere.
class GradientOutputs {
 public:
  GradientOutputs(const Inputs& inputs, const CallOptions& options);
  const Gradients& views() const noexcept { return views_; }
  nb::tuple take(nb::handle like) const;

 private:
  NewArray query_, key_, value_, bias_, sinks_;
  Gradients views_;
};

// The type of lse and of sums: float64 for float64, else float32.
DType state_dtype(DType dtype) noexcept;

void bind_exact(nb::module_& module);
void bind_lsh(nb::module_& module);
void bind_kv_cache(nb::module_& module);

}  // namespace longspan::python
