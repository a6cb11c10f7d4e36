// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Shapes of results, and who owns them.
#include "calls.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "longspan/error.h"
#include "run.h"

namespace longspan::python {
namespace {

std::span<const std::int64_t> shape_of(const ConstTensorView& view) {
  return {view.shape.data(), static_cast<std::size_t>(view.rank)};
}

// [..., seqlen, num_heads, dim] -> [..., num_heads, seqlen]. Ranks that the library will refuse
// give what they give.
NewArray new_lse(const ConstTensorView& query) {
  Extents shape = query.shape;
  if (query.rank >= 3) std::swap(shape[query.rank - 3], shape[query.rank - 2]);
  const auto axes = static_cast<std::size_t>(std::max(0, query.rank - 1));
  return {{shape.data(), axes}, state_dtype(query.dtype)};
}

// The gradient of `view`, where there is one.
Result gradient(const ConstTensorView& view, DType dtype) {
  return is_given(view) ? Result(NewArray(shape_of(view), dtype)) : Result();
}

}  // namespace

DType state_dtype(DType dtype) noexcept {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

void work_on(std::initializer_list<DType> types, const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    const bool mixed =
        std::adjacent_find(types.begin(), types.end(), std::not_equal_to()) != types.end();
    if (error.code() != ErrorCode::kInvalidArgument || !mixed) throw;
    throw nb::type_error(error.what());
  }
}

Inputs::Inputs(nb::handle q, nb::handle k, nb::handle v, const CallOptions& options, NoKey no_key)
    : query_array(q, "query", Numbers::kFloating),
      key_array(no_key == NoKey::kQuery ? Array::optional(k, "key", Numbers::kFloating)
                                        : Array(k, "key", Numbers::kFloating)),
      value_array(v, "value", Numbers::kFloating),
      query(options.arranged(query_array.view())),
      key(options.arranged(key_array.view())),
      value(options.arranged(value_array.view())) {}

void Inputs::run(const CallOptions& options,
                 const std::function<void(const Execution&)>& work) const {
  const ConstTensorView& keys = is_given(key) ? key : query;
  work_on({query.dtype, keys.dtype, value.dtype},
          [&] { python::run(products(query, keys), options.execution(), work); });
}

nb::object Result::take(nb::handle like) const {
  if (!object.is_valid()) return nb::none();
  return is_given ? object : as_kind_of(like, object);
}

Outputs::Outputs(const ConstTensorView& query, const ConstTensorView& value,
                 const CallOptions& options, nb::handle lse, nb::handle out) {
  if (out.is_none()) {
    Extents shape = query.shape;
    if (query.rank >= 1 && value.rank >= 1) shape[query.rank - 1] = value.shape[value.rank - 1];
    output_ = Result(NewArray({shape.data(), static_cast<std::size_t>(query.rank)}, query.dtype));
  } else {
    output_ = Result(out, "out");
  }
  partial_.output = options.arranged(output_.array.output_view());
  if (lse.is(Py_False)) return;
  lse_ = lse.is(Py_True) ? Result(new_lse(options.arranged(query))) : Result(lse, "lse");
  partial_.lse = lse_.array.output_view();
}

nb::object Outputs::take(nb::handle like, nb::object last) const {
  nb::object output = output_.take(like);
  const bool has_lse = lse_.object.is_valid();
  if (!has_lse && !last.is_valid()) return output;
  nb::list results;
  results.append(output);
  if (has_lse) results.append(lse_.take(like));
  if (last.is_valid()) results.append(last);
  return nb::tuple(results);
}

BackwardInputs::BackwardInputs(nb::handle doutput, nb::handle output, nb::handle lse,
                               nb::handle dlse, const CallOptions& options)
    : doutput_array_(doutput, "doutput", Numbers::kFloating),
      output_array_(output, "output", Numbers::kFloating),
      lse_array_(lse, "lse", Numbers::kFloating),
      dlse_array_(Array::optional(dlse, "dlse", Numbers::kFloating)) {
  result = {options.arranged(output_array_.view()), lse_array_.view()};
  dresult = {options.arranged(doutput_array_.view()), dlse_array_.view()};
}

GradientOutputs::GradientOutputs(const Inputs& inputs, const CallOptions& options,
                                 nb::handle into) {
  if (into.is_none()) {
    const DType dtype = inputs.query.dtype;
    query_ = gradient(inputs.query_array.view(), dtype);
    key_ = gradient(inputs.key_array.view(), dtype);
    value_ = gradient(inputs.value_array.view(), dtype);
    bias_ = gradient(options.attention().bias, state_dtype(dtype));
    sinks_ = gradient(options.attention().sinks, state_dtype(dtype));
  } else {
    const auto arrays = nb::cast<nb::tuple>(into);
    Result* const results[] = {&query_, &key_, &value_, &bias_, &sinks_};
    const char* const names[] = {"dquery", "dkey", "dvalue", "dbias", "dsinks"};
    for (std::size_t n = 0; n < std::size(results); ++n) {
      if (!arrays[n].is_none()) *results[n] = Result(arrays[n], names[n]);
    }
  }
  views_.query = options.arranged(query_.array.output_view());
  views_.key = options.arranged(key_.array.output_view());
  views_.value = options.arranged(value_.array.output_view());
  views_.bias = bias_.array.output_view();
  views_.sinks = sinks_.array.output_view();
}

nb::tuple GradientOutputs::take(nb::handle like) const {
  return nb::make_tuple(query_.take(like), key_.take(like), value_.take(like), bias_.take(like),
                        sinks_.take(like));
}

}  // namespace longspan::python
