// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Shapes of results, and who owns them.
#include "calls.h"

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

NewArray new_gradient(const ConstTensorView& view, DType dtype) {
  return is_given(view) ? NewArray(shape_of(view), dtype) : NewArray();
}

nb::object object_or_none(const NewArray& array, nb::handle like) {
  return array.object.is_valid() ? as_kind_of(like, array.object) : nb::none();
}

}  // namespace

DType state_dtype(DType dtype) noexcept {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

Inputs::Inputs(nb::handle q, nb::handle k, nb::handle v, const CallOptions& options)
    : query_array(q, "query", Numbers::kFloating),
      key_array(k, "key", Numbers::kFloating),
      value_array(v, "value", Numbers::kFloating),
      query(options.arranged(query_array.view())),
      key(options.arranged(key_array.view())),
      value(options.arranged(value_array.view())) {}

void Inputs::run(const CallOptions& options,
                 const std::function<void(const Execution&)>& work) const {
  const ConstTensorView& keys = is_given(key) ? key : query;
  try {
    python::run(products(query, keys), options.execution(), work);
  } catch (const Error& error) {
    const bool mixed = keys.dtype != query.dtype || value.dtype != query.dtype;
    if (error.code() != ErrorCode::kInvalidArgument || !mixed) throw;
    throw nb::type_error(error.what());
  }
}

Outputs::Outputs(const ConstTensorView& query, const ConstTensorView& value,
                 const CallOptions& options, bool want_lse, nb::handle out) {
  if (out.is_none()) {
    Extents shape = query.shape;
    if (query.rank >= 1 && value.rank >= 1) shape[query.rank - 1] = value.shape[value.rank - 1];
    new_output_ = NewArray({shape.data(), static_cast<std::size_t>(query.rank)}, query.dtype);
    partial_.output = options.arranged(new_output_.array.output_view());
  } else {
    out_ = Array::output(out, "out");
    output_ = nb::borrow(out);
    partial_.output = options.arranged(out_.output_view());
  }
  if (!want_lse) return;
  new_lse_ = new_lse(options.arranged(query));
  partial_.lse = new_lse_.array.output_view();
}

nb::object Outputs::take(nb::handle like, nb::object last) const {
  nb::object output = output_.is_valid() ? output_ : as_kind_of(like, new_output_.object);
  const bool has_lse = new_lse_.object.is_valid();
  if (!has_lse && !last.is_valid()) return output;
  nb::list results;
  results.append(output);
  if (has_lse) results.append(as_kind_of(like, new_lse_.object));
  if (last.is_valid()) results.append(last);
  return nb::tuple(results);
}

BackwardInputs::BackwardInputs(nb::handle doutput, nb::handle output, nb::handle lse,
                               nb::handle dlse, const CallOptions& options)
    : doutput_array_(doutput, "doutput", Numbers::kFloating),
      output_array_(output, "output", Numbers::kFloating),
      lse_array_(lse, "lse", Numbers::kFloating),
      dlse_array_(dlse, "dlse", Numbers::kFloating) {
  result = {options.arranged(output_array_.view()), lse_array_.view()};
  dresult = {options.arranged(doutput_array_.view()), dlse_array_.view()};
}

GradientOutputs::GradientOutputs(const Inputs& inputs, const CallOptions& options)
    : query_(new_gradient(inputs.query_array.view(), inputs.query.dtype)),
      key_(new_gradient(inputs.key_array.view(), inputs.query.dtype)),
      value_(new_gradient(inputs.value_array.view(), inputs.query.dtype)),
      bias_(new_gradient(options.attention().bias, state_dtype(inputs.query.dtype))),
      sinks_(new_gradient(options.attention().sinks, state_dtype(inputs.query.dtype))) {
  views_.query = options.arranged(query_.array.output_view());
  views_.key = options.arranged(key_.array.output_view());
  views_.value = options.arranged(value_.array.output_view());
  views_.bias = bias_.array.output_view();
  views_.sinks = sinks_.array.output_view();
}

nb::tuple GradientOutputs::take(nb::handle like) const {
  return nb::make_tuple(object_or_none(query_, like), object_or_none(key_, like),
                        object_or_none(value_, like), object_or_none(bias_, like),
                        object_or_none(sinks_, like));
}

}  // namespace longspan::python
