// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// From objects of Python to masks and options.
#include "options.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>
#include <utility>

#include "mask_terms.h"
#include "predicate.h"

namespace longspan::python {
namespace {

// The arrays in their order, kept from now on.
TensorSource source_of(const nb::list& arrays, KeptArrays& kept) {
  return [&kept, arrays, at = std::size_t{0}](const char* name, Numbers kind) mutable {
    if (at == arrays.size()) throw nb::value_error("mask: expected more arrays");
    try {
      return keep(kept, arrays[at++], name, kind);
    } catch (const nb::builtin_exception& error) {
      if (kind != Numbers::kBool || error.type() != nb::exception_type::type_error) throw;
      throw nb::type_error(
          (std::string(error.what()) + " (numbers that are added to scores: bias=)").c_str());
    }
  };
}

}  // namespace

ConstTensorView keep(KeptArrays& kept, nb::handle object, const char* name, Numbers numbers) {
  if (object.is_none()) return {};
  kept.push_back(std::make_shared<const Array>(object, name, numbers));
  return kept.back()->view();
}

CallOptions::CallOptions(nb::handle mask, nb::handle bias, std::optional<double> scale,
                         double softcap, nb::handle alibi_slopes, nb::handle sinks,
                         double dropout_p, std::uint64_t seed, nb::handle query_offset,
                         std::optional<std::int64_t> query_chunk,
                         std::optional<std::int64_t> key_chunk, bool heads_first, int threads)
    : heads_first_(heads_first) {
  if (!mask.is_none()) {
    const auto [numbers, arrays, predicates] =
        nb::cast<std::tuple<std::vector<std::int64_t>, nb::list, nb::list>>(mask);
    options_.mask = decode_mask(numbers, source_of(arrays, kept_));
    for (nb::handle predicate : predicates) predicates_.push_back(nb::borrow(predicate));
  }
  options_.bias = keep(kept_, bias, "bias", Numbers::kFloating);
  options_.scale = scale;
  options_.softcap = softcap;
  options_.alibi_slopes = keep(kept_, alibi_slopes, "alibi_slopes", Numbers::kFloating);
  options_.sinks = keep(kept_, sinks, "sinks", Numbers::kFloating);
  options_.dropout = {dropout_p, seed};
  if (!query_offset.is_none()) {
    const auto [kind, number, arrays] =
        nb::cast<std::tuple<std::int64_t, std::int64_t, nb::object>>(query_offset);
    options_.query_offset = decode_offset(kind, number, source_of(nb::list(arrays), kept_));
  }
  execution_.query_chunk = query_chunk.value_or(0);
  execution_.key_chunk = key_chunk.value_or(0);
  execution_.threads = threads;
}

AttentionOptions CallOptions::bound(const ConstTensorView& query, const ConstTensorView& key,
                                    PairOrder order) const {
  AttentionOptions options = options_;
  if (predicates_.empty() || query.rank < 2 || key.rank != query.rank) return options;
  const int axis = std::max(0, query.rank - 3);  // of seqlen
  TileShape shape{query.shape[axis], key.shape[axis], 64, 128};
  if (order == PairOrder::kColumns) {
    shape.queries = shape.seqlen_q;
    shape.keys = 1;
  }
  options.mask = options.mask & predicate(tiled_predicate(predicates_, shape));
  return options;
}

void bind_options(nb::module_& module) {
  using nb::arg;
  nb::dict kinds;  // of the terms that Python makes
  kinds["causal"] = static_cast<int>(MaskKind::kCausal);
  kinds["window"] = static_cast<int>(MaskKind::kWindow);
  kinds["key_lengths"] = static_cast<int>(MaskKind::kKeyLengths);
  kinds["documents"] = static_cast<int>(MaskKind::kDocuments);
  kinds["prefix"] = static_cast<int>(MaskKind::kPrefix);
  kinds["dense"] = static_cast<int>(MaskKind::kDense);
  module.attr("mask_kinds") = kinds;
  nb::dict offsets;
  offsets["unset"] = static_cast<int>(QueryOffset::Kind::kUnset);
  offsets["number"] = static_cast<int>(QueryOffset::Kind::kNumber);
  offsets["end"] = static_cast<int>(QueryOffset::Kind::kEnd);
  offsets["per_batch"] = static_cast<int>(QueryOffset::Kind::kPerBatch);
  module.attr("offset_kinds") = offsets;
  nb::class_<CallOptions>(module, "Options")
      .def(nb::init<nb::handle, nb::handle, std::optional<double>, double, nb::handle, nb::handle,
                    double, std::uint64_t, nb::handle, std::optional<std::int64_t>,
                    std::optional<std::int64_t>, bool, int>(),
           arg("mask").none() = nb::none(), arg("bias").none() = nb::none(),
           arg("scale").none() = nb::none(), arg("softcap") = 0.0,
           arg("alibi_slopes").none() = nb::none(), arg("sinks").none() = nb::none(),
           arg("dropout_p") = 0.0, arg("seed") = 0, arg("query_offset").none() = nb::none(),
           arg("query_chunk").none() = nb::none(), arg("key_chunk").none() = nb::none(),
           arg("heads_first") = false, arg("threads") = 0)
      .def("set_kernel", &CallOptions::set_kernel);
}

}  // namespace longspan::python
