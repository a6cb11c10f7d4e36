// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Exact attention, its gradients, and the merge.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>

#include <utility>
#include <vector>

#include "calls.h"
#include "run.h"

namespace longspan::python {
namespace {

nb::object exact(nb::handle query, nb::handle key, nb::handle value, const CallOptions& options,
                 nb::handle lse, nb::handle out) {
  const Inputs in(query, key, value, options, NoKey::kRefused);
  const Outputs outputs(in.query_array.view(), in.value_array.view(), options, lse, out);
  const AttentionOptions bound = options.bound(in.query, in.key, PairOrder::kTiles);
  in.run(options, [&](const Execution& execution) {
    attention(in.query, in.key, in.value, outputs.partial(), bound, execution);
  });
  return outputs.take(query);
}

nb::tuple exact_backward(nb::handle doutput, nb::handle query, nb::handle key, nb::handle value,
                         nb::handle output, nb::handle lse, nb::handle dlse,
                         const CallOptions& options, nb::handle into) {
  const Inputs in(query, key, value, options, NoKey::kRefused);
  const BackwardInputs backward(doutput, output, lse, dlse, options);
  const GradientOutputs gradients(in, options, into);
  const AttentionOptions bound = options.bound(in.query, in.key, PairOrder::kTiles);
  in.run(options, [&](const Execution& execution) {
    attention_backward(in.query, in.key, in.value, backward.result, backward.dresult,
                       gradients.views(), bound, execution);
  });
  return gradients.take(query);
}

// The result has the shapes and types of the first part.
nb::tuple merge_parts(const nb::list& parts, const CallOptions& options) {
  struct Part {
    Array output, lse;
  };
  std::vector<Part> arrays;
  std::vector<ConstPartial> views;
  for (nb::handle part : parts) {
    auto [output, lse] = nb::cast<std::pair<nb::object, nb::object>>(part);
    arrays.push_back(
        {Array(output, "output", Numbers::kFloating), Array(lse, "lse", Numbers::kFloating)});
    views.emplace_back(options.arranged(arrays.back().output.view()), arrays.back().lse.view());
  }
  if (arrays.empty()) throw nb::value_error("merge: expected at least one part; found none");
  const auto like = [](const ConstTensorView& view) {
    return NewArray({view.shape.data(), static_cast<std::size_t>(view.rank)}, view.dtype);
  };
  const NewArray output = like(arrays.front().output.view());
  const NewArray lse = like(arrays.front().lse.view());
  const Partial into{options.arranged(output.array.output_view()), lse.array.output_view()};
  run(0, options.execution(), [&](const Execution& execution) {
    clear(into);
    merge(into, views, execution);
  });
  const nb::object first = parts[0][0];
  return nb::make_tuple(as_kind_of(first, output.object), as_kind_of(first, lse.object));
}

}  // namespace

void bind_exact(nb::module_& module) {
  using nb::arg;
  module.def("attention", exact, tensor(), tensor(), tensor(), arg(), arg(), tensor());
  module.def("attention_backward", exact_backward, tensor(), tensor(), tensor(), tensor(), tensor(),
             tensor(), tensor(), arg(), arg().none() = nb::none());
  module.def("merge", merge_parts);
}

}  // namespace longspan::python
