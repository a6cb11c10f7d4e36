// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What calls of exact attention, hashed attention and the cache have in common: tensors that come
// in, results and gradients that go out.
#pragma once

#include <functional>
#include <initializer_list>
#include <utility>

#include "array.h"
#include "longspan/partial.h"
#include "options.h"

namespace longspan::python {

// Does `work` on tensors of these types. The library's complaint is a TypeError when they differ.
void work_on(std::initializer_list<DType> types, const std::function<void()>& work);

// What key=None is: nothing that is computed with, or the query, with which it is one tensor.
enum class NoKey : std::uint8_t { kRefused, kQuery };

// The views are arranged: [..., seqlen, num_heads, dim].
struct Inputs {
  Inputs(nb::handle query, nb::handle key, nb::handle value, const CallOptions& options,
         NoKey no_key);

  // run() of work on these tensors, and their types must not differ.
  void run(const CallOptions& options, const std::function<void(const Execution&)>& work) const;

  Array query_array, key_array, value_array;
  ConstTensorView query, key, value;
};

// An array that a call writes to: the caller's, or a new one.
struct Result {
  Result() = default;  // absent
  explicit Result(NewArray made) : object(std::move(made.object)), array(std::move(made.array)) {}
  Result(nb::handle given, const char* name)
      : object(nb::borrow(given)), array(Array::output(given, name)), is_given(true) {}

  // What the caller gave, or the new array as one of the kind of `like`; None when absent.
  nb::object take(nb::handle like) const;

  nb::object object;
  Array array;
  bool is_given = false;
};

// The result of a forward call, in new arrays or in those that are given.
class Outputs {
 public:
  // `query`, `value`: as they came, not arranged. `lse`: an array, True for a new one, or False.
  Outputs(const ConstTensorView& query, const ConstTensorView& value, const CallOptions& options,
          nb::handle lse, nb::handle out);
  const Partial& partial() const noexcept { return partial_; }
  // output, or (output, lse), of the kind of `like`; `last` is appended when it is given.
  nb::object take(nb::handle like, nb::object last = {}) const;

 private:
  Result output_, lse_;
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

// Gradients of what was given, (query, key, value, bias, sinks), None elsewhere: new arrays, or
// those of the tuple `into`, whose None are not computed.
class GradientOutputs {
 public:
  GradientOutputs(const Inputs& inputs, const CallOptions& options, nb::handle into);
  const Gradients& views() const noexcept { return views_; }
  nb::tuple take(nb::handle like) const;

 private:
  Result query_, key_, value_, bias_, sinks_;
  Gradients views_;
};

// The type of lse and of sums: float64 for float64, else float32.
DType state_dtype(DType dtype) noexcept;

void bind_exact(nb::module_& module);
void bind_lsh(nb::module_& module);
void bind_weights(nb::module_& module);
void bind_explain(nb::module_& module);
void bind_kv_cache(nb::module_& module);
void bind_lsh_cache(nb::module_& module);
void bind_jax(nb::module_& module);  // where XLA's headers were found

}  // namespace longspan::python
