// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// From objects of Python to masks and options.
#include "options.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <utility>

#include "predicate.h"

namespace longspan::python {
namespace {

void append(PythonMask& into, const PythonMask& mask) {
  into.kept.insert(into.kept.end(), mask.kept.begin(), mask.kept.end());
  into.predicates.insert(into.predicates.end(), mask.predicates.begin(), mask.predicates.end());
}

PythonMask with_offset(nb::handle offset, const std::function<Mask(QueryOffset)>& make) {
  PythonMask mask;
  mask.mask = make(make_query_offset(offset, mask.kept));
  return mask;
}

PythonMask dense_mask(nb::handle visible, const char* name) {
  PythonMask mask;
  mask.mask = dense(keep(mask.kept, visible, name, Numbers::kBool));
  return mask;
}

// A predicate may refer to its mask (a global one does): the garbage collector has to see it.
int traverse_mask(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (!nb::inst_ready(self)) return 0;
  for (const nb::object& predicate : nb::inst_ptr<PythonMask>(self)->predicates) {
    Py_VISIT(predicate.ptr());
  }
  return 0;
}

int clear_mask(PyObject* self) {
  std::vector<nb::object> predicates;  // released when the mask has none any more
  if (nb::inst_ready(self)) predicates.swap(nb::inst_ptr<PythonMask>(self)->predicates);
  return 0;
}

const PyType_Slot kMaskSlots[] = {{Py_tp_traverse, reinterpret_cast<void*>(traverse_mask)},
                                  {Py_tp_clear, reinterpret_cast<void*>(clear_mask)},
                                  {0, nullptr}};

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

PythonMask operator&(const PythonMask& a, const PythonMask& b) {
  PythonMask both = a;
  both.mask = a.mask & b.mask;
  append(both, b);
  return both;
}

PythonMask make_mask(nb::handle mask) {
  if (mask.is_none()) return {};
  if (nb::isinstance<PythonMask>(mask)) return nb::cast<PythonMask>(mask);
  try {
    return dense_mask(mask, "mask");
  } catch (const nb::builtin_exception& error) {
    if (error.type() != nb::exception_type::type_error) throw;
    throw nb::type_error(
        (std::string(error.what()) + " (numbers that are added to scores: bias=)").c_str());
  }
}

CallOptions::CallOptions(nb::handle mask, nb::handle bias, std::optional<double> scale,
                         double softcap, nb::handle alibi_slopes, nb::handle sinks,
                         double dropout_p, nb::handle seed, nb::handle query_offset,
                         std::optional<std::int64_t> query_chunk,
                         std::optional<std::int64_t> key_chunk, const std::string& layout)
    : heads_first_(is_heads_first(layout)), mask_(make_mask(mask)) {
  options_.mask = mask_.mask;
  options_.bias = keep(kept_, bias, "bias", Numbers::kFloating);
  options_.scale = scale;
  options_.softcap = softcap;
  options_.alibi_slopes = keep(kept_, alibi_slopes, "alibi_slopes", Numbers::kFloating);
  options_.sinks = keep(kept_, sinks, "sinks", Numbers::kFloating);
  options_.dropout = {dropout_p, make_seed(seed)};
  options_.query_offset = make_query_offset(query_offset, kept_);
  execution_.query_chunk = query_chunk.value_or(0);
  execution_.key_chunk = key_chunk.value_or(0);
}

AttentionOptions CallOptions::bound(const ConstTensorView& query, const ConstTensorView& key,
                                    PairOrder order) const {
  AttentionOptions options = options_;
  if (mask_.predicates.empty() || query.rank < 2 || key.rank != query.rank) return options;
  const int axis = std::max(0, query.rank - 3);  // of seqlen
  TileShape shape{query.shape[axis], key.shape[axis], 64, 128};
  if (order == PairOrder::kColumns) {
    shape.queries = shape.seqlen_q;
    shape.keys = 1;
  }
  options.mask = options.mask & predicate(tiled_predicate(mask_.predicates, shape));
  return options;
}

void bind_options(nb::module_& module) {
  using nb::arg;
  nb::class_<PythonMask>(module, "Mask", nb::type_slots(kMaskSlots),
                         "Which keys a query may see; masks are combined by &. Holds its arrays.")
      .def(
          "__and__", [](const PythonMask& a, const PythonMask& b) { return a & b; },
          nb::is_operator());
  module.def(
      "causal", [](nb::handle offset) { return with_offset(offset, causal); }, arg().none());
  module.def(
      "window",
      [](std::int64_t left, std::int64_t right, nb::handle offset) {
        return with_offset(offset, [&](QueryOffset at) { return window(left, right, at); });
      },
      arg(), arg(), arg().none());
  module.def(
      "prefix",
      [](std::int64_t length, nb::handle offset) {
        return with_offset(offset, [&](QueryOffset at) { return prefix(length, at); });
      },
      arg(), arg().none());
  module.def("key_lengths", [](nb::handle lengths) {
    PythonMask mask;
    mask.mask = key_lengths(keep(mask.kept, lengths, "lengths", Numbers::kInteger));
    return mask;
  });
  module.def(
      "documents",
      [](nb::handle cu_seqlens_q, nb::handle cu_seqlens_k) {
        PythonMask mask;
        const ConstTensorView q = keep(mask.kept, cu_seqlens_q, "cu_seqlens_q", Numbers::kInteger);
        mask.mask = documents(q, keep(mask.kept, cu_seqlens_k, "cu_seqlens_k", Numbers::kInteger));
        return mask;
      },
      arg(), arg().none());
  module.def("dense", [](nb::handle visible) { return dense_mask(visible, "dense"); });
  module.def("predicate", [](nb::object may_see) {
    PythonMask mask;
    mask.predicates.push_back(std::move(may_see));
    return mask;
  });
  nb::class_<CallOptions>(module, "Options")
      .def(nb::init<nb::handle, nb::handle, std::optional<double>, double, nb::handle, nb::handle,
                    double, nb::handle, nb::handle, std::optional<std::int64_t>,
                    std::optional<std::int64_t>, const std::string&>(),
           arg("mask").none() = nb::none(), arg("bias").none() = nb::none(),
           arg("scale").none() = nb::none(), arg("softcap") = 0.0,
           arg("alibi_slopes").none() = nb::none(), arg("sinks").none() = nb::none(),
           arg("dropout_p") = 0.0, arg("seed") = 0, arg("query_offset").none() = nb::none(),
           arg("query_chunk").none() = nb::none(), arg("key_chunk").none() = nb::none(),
           arg("layout") = "bshd")
      .def("set_kernel", &CallOptions::set_kernel);
}

}  // namespace longspan::python
