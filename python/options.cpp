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

Mask make_mask(const std::vector<std::int64_t>& numbers, const nb::list& arrays, KeptArrays& kept) {
  std::size_t at = 0;
  const auto next = [&](const char* name, Numbers kind) -> ConstTensorView {
    if (at == arrays.size()) throw nb::value_error("mask: expected more arrays");
    try {
      return keep(kept, arrays[at++], name, kind);
    } catch (const nb::builtin_exception& error) {
      if (kind != Numbers::kBool || error.type() != nb::exception_type::type_error) throw;
      throw nb::type_error(
          (std::string(error.what()) + " (numbers that are added to scores: bias=)").c_str());
    }
  };
  return decode_mask(numbers, next);
}

bool is_heads_first(const std::string& layout) {
  if (layout != "bshd" && layout != "bhsd") {
    throw nb::value_error(
        ("layout must be \"bshd\" or \"bhsd\"; found \"" + layout + "\"").c_str());
  }
  return layout == "bhsd";
}

}  // namespace

ConstTensorView keep(KeptArrays& kept, nb::handle object, const char* name, Numbers numbers) {
  if (object.is_none()) return {};
  kept.push_back(std::make_shared<const Array>(object, name, numbers));
  return kept.back()->view();
}

std::uint64_t make_seed(nb::handle seed) {
  const nb::object index = nb::steal(PyNumber_Index(seed.ptr()));
  if (!index.is_valid()) throw nb::python_error();
  if (std::uint64_t number = 0; nb::try_cast(index, number)) return number;
  throw nb::value_error(
      (std::string("seed must be in 0..2^64 - 1; found ") + nb::str(index).c_str()).c_str());
}

QueryOffset make_query_offset(nb::handle offset, KeptArrays& kept) {
  if (offset.is_none()) return {};
  if (nb::isinstance<nb::str>(offset)) {
    if (nb::cast<std::string>(offset) == "end") return QueryOffset::end();
    throw nb::value_error(("query_offset must be a number, \"end\" or an array [batch]; found \"" +
                           nb::cast<std::string>(offset) + "\"")
                              .c_str());
  }
  if (std::int64_t number = 0; PyIndex_Check(offset.ptr()) != 0 &&
                               !nb::hasattr(offset, "__dlpack__") && nb::try_cast(offset, number)) {
    return number;
  }
  return QueryOffset::for_batch(keep(kept, offset, "query_offset", Numbers::kInteger));
}

CallOptions::CallOptions(nb::handle mask, nb::handle bias, std::optional<double> scale,
                         double softcap, nb::handle alibi_slopes, nb::handle sinks,
                         double dropout_p, nb::handle seed, nb::handle query_offset,
                         std::optional<std::int64_t> query_chunk,
                         std::optional<std::int64_t> key_chunk, const std::string& layout,
                         int threads)
    : heads_first_(is_heads_first(layout)) {
  if (!mask.is_none()) {
    const auto [numbers, arrays, predicates] =
        nb::cast<std::tuple<std::vector<std::int64_t>, nb::list, nb::list>>(mask);
    options_.mask = make_mask(numbers, arrays, kept_);
    for (nb::handle predicate : predicates) predicates_.push_back(nb::borrow(predicate));
  }
  options_.bias = keep(kept_, bias, "bias", Numbers::kFloating);
  options_.scale = scale;
  options_.softcap = softcap;
  options_.alibi_slopes = keep(kept_, alibi_slopes, "alibi_slopes", Numbers::kFloating);
  options_.sinks = keep(kept_, sinks, "sinks", Numbers::kFloating);
  options_.dropout = {dropout_p, make_seed(seed)};
  options_.query_offset = make_query_offset(query_offset, kept_);
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
                    double, nb::handle, nb::handle, std::optional<std::int64_t>,
                    std::optional<std::int64_t>, const std::string&, int>(),
           arg("mask").none() = nb::none(), arg("bias").none() = nb::none(),
           arg("scale").none() = nb::none(), arg("softcap") = 0.0,
           arg("alibi_slopes").none() = nb::none(), arg("sinks").none() = nb::none(),
           arg("dropout_p") = 0.0, arg("seed") = 0, arg("query_offset").none() = nb::none(),
           arg("query_chunk").none() = nb::none(), arg("key_chunk").none() = nb::none(),
           arg("layout") = "bshd", arg("threads") = 0)
      .def("set_kernel", &CallOptions::set_kernel);
}

}  // namespace longspan::python
