// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The steps of a method as a record.
#include "longspan/explain.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "calls.h"
#include "lsh_call_options.h"

namespace longspan::python {
namespace {

using Range = std::optional<ExplainChoice::Range>;

Explanation explain(nb::handle query, nb::handle key, nb::handle value, const CallOptions& options,
                    const LshCallOptions* hashing, const ExplainChoice& choice) {
  const Inputs in(query, key, value, options, hashing == nullptr ? NoKey::kRefused : NoKey::kQuery);
  const AttentionOptions bound =
      options.bound(in.query, is_given(in.key) ? in.key : in.query,
                    hashing == nullptr ? PairOrder::kTiles : PairOrder::kColumns);
  Explanation record;
  in.run(options, [&](const Execution& execution) {
    record = hashing == nullptr
                 ? explain_attention(in.query, in.key, in.value, bound, execution, choice)
                 : explain_lsh_attention(in.query, in.key, in.value, hashing->lsh, bound, execution,
                                         choice);
  });
  return record;
}

// [(name, shape, whole numbers, values)]
nb::list steps_of(const Explanation& record) {
  nb::list list;
  for (const ExplainSection& section : record.sections) {
    for (const ExplainStep& step : section.steps) {
      list.append(nb::make_tuple(step.name, step.shape, step.whole_numbers, step.values));
    }
  }
  return list;
}

}  // namespace

void bind_explain(nb::module_& module) {
  using nb::arg;
  nb::class_<ExplainChoice>(module, "ExplainChoice")
      .def(
          "__init__",
          [](ExplainChoice* choice, std::int64_t batch, Range rows, Range heads, Range chunks,
             bool passthrough) {
            new (choice) ExplainChoice{batch, rows, heads, chunks, passthrough};
          },
          arg("batch"), arg("rows").none(), arg("heads").none(), arg("chunks").none(),
          arg("passthrough"));
  nb::class_<Explanation>(module, "Explanation")
      .def_ro("method", &Explanation::method)
      .def_ro("title", &Explanation::title)
      .def("steps", steps_of)
      .def("text",
           [](const Explanation& record, int columns) { return to_text(record, {columns}); })
      .def("json", to_json)
      .def("html", to_html);
  module.def("explain", explain, tensor(), tensor(), tensor(), arg(), arg().none(), arg());
}

}  // namespace longspan::python
