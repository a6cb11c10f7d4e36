// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The weights of exact attention: of chosen rows, the largest of each row, their sums by key.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <initializer_list>
#include <optional>

#include "calls.h"
#include "longspan/attention_weights.h"
#include "run.h"

namespace longspan::python {
namespace {

// What an attention_weights() of Python reads.
struct WeightInputs {
  WeightInputs(nb::handle query, nb::handle key, nb::handle lse, nb::handle rows,
               const CallOptions& options)
      : in(query, key, key, options, NoKey::kRefused),
        lse_array(lse, "lse", Numbers::kFloating),
        rows_array(Array::optional(rows, "rows", Numbers::kInteger)) {}

  void run(const CallOptions& options, const AttentionWeights& into) const {
    const AttentionOptions bound = options.bound(in.query, in.key, PairOrder::kTiles);
    in.run(options, [&](const Execution& execution) {
      attention_weights(in.query, in.key, lse_array.view(), into, rows_array.view(), bound,
                        execution);
    });
  }

  // [batch, num_heads] of what these inputs have, then `tail`. Ranks that the library will refuse
  // give what they give.
  NewArray make(std::initializer_list<std::int64_t> tail, std::optional<DType> dtype = {}) const {
    Extents shape{};
    const ConstTensorView& query = in.query;
    std::size_t axes = 0;
    if (query.rank >= 4) shape[axes++] = query.shape[0];
    if (query.rank >= 3) shape[axes++] = query.shape[query.rank - 2];
    for (const std::int64_t extent : tail) shape[axes++] = extent;
    return {{shape.data(), axes}, dtype.value_or(state_dtype(query.dtype))};
  }

  std::int64_t rows() const {
    return is_given(rows_array.view()) ? rows_array.view().shape[0] : length(in.query);
  }
  std::int64_t seqlen_k() const { return length(in.key); }

  static std::int64_t length(const ConstTensorView& rows) {
    return rows.shape[static_cast<std::size_t>(std::max(0, rows.rank - 3))];
  }

  Inputs in;
  Array lse_array, rows_array;
};

nb::object weights_of_rows(nb::handle query, nb::handle key, nb::handle lse, nb::handle rows,
                           const CallOptions& options) {
  const WeightInputs inputs(query, key, lse, rows, options);
  const NewArray weights = inputs.make({inputs.rows(), inputs.seqlen_k()});
  AttentionWeights into;
  into.weights = weights.array.output_view();
  inputs.run(options, into);
  return as_kind_of(query, weights.object);
}

nb::object top_weights(nb::handle query, nb::handle key, nb::handle lse, nb::handle rows,
                       std::int64_t count, const CallOptions& options) {
  const WeightInputs inputs(query, key, lse, rows, options);
  const NewArray keys = inputs.make({inputs.rows(), count}, DType::kInt64);
  const NewArray weights = inputs.make({inputs.rows(), count});
  AttentionWeights into;
  into.top_keys = keys.array.output_view();
  into.top_weights = weights.array.output_view();
  inputs.run(options, into);
  return nb::make_tuple(as_kind_of(query, keys.object), as_kind_of(query, weights.object));
}

nb::object column_sums(nb::handle query, nb::handle key, nb::handle lse, nb::handle rows,
                       const CallOptions& options) {
  const WeightInputs inputs(query, key, lse, rows, options);
  const NewArray sums = inputs.make({inputs.seqlen_k()});
  AttentionWeights into;
  into.column_sums = sums.array.output_view();
  inputs.run(options, into);
  return as_kind_of(query, sums.object);
}

}  // namespace

void bind_weights(nb::module_& module) {
  using nb::arg;
  module.def("weights_of_rows", weights_of_rows, tensor(), tensor(), tensor(), tensor(), arg());
  module.def("top_weights", top_weights, tensor(), tensor(), tensor(), tensor(), arg(), arg());
  module.def("column_sums", column_sums, tensor(), tensor(), tensor(), tensor(), arg());
}

}  // namespace longspan::python
