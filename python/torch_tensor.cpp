// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What PyTorch calls its types, and the attributes that say where a tensor lies.
#include "torch_tensor.h"

#include <cstring>
#include <iterator>
#include <string>

namespace longspan::python {
namespace {

// The names of PyTorch that are asked for in every call. Never released.
struct Torch {
  explicit Torch(const nb::object& torch)
      : tensor(torch.attr("Tensor")),
        strided(torch.attr("strided")),
        is_grad_enabled(torch.attr("is_grad_enabled")),
        dtypes{torch.attr("float32"),  torch.attr("float64"), torch.attr("float16"),
               torch.attr("bfloat16"), torch.attr("int32"),   torch.attr("int64"),
               torch.attr("bool")} {}

  nb::object tensor, strided, is_grad_enabled;
  nb::object dtypes[7];  // in the order of DType

  // Nothing as long as nobody has imported it.
  static const Torch* get() {
    static const Torch* torch = nullptr;
    if (torch == nullptr) {
      const nb::object module = nb::steal(PyImport_GetModule(nb::str("torch").ptr()));
      if (module.is_valid() && nb::hasattr(module, "is_grad_enabled")) torch = new Torch(module);
    }
    return torch;
  }
};

[[noreturn]] void refuse(const char* name, const std::string& what) {
  throw nb::type_error((std::string(name) + " " + what).c_str());
}

std::string text_of(nb::handle object) { return nb::str(object).c_str(); }

DType dtype_of(const Torch& torch, nb::handle tensor, const char* name) {
  const nb::object dtype = tensor.attr("dtype");
  for (std::size_t n = 0; n < std::size(torch.dtypes); ++n) {
    if (dtype.is(torch.dtypes[n])) return static_cast<DType>(n);
  }
  refuse(name, "has dtype " + text_of(dtype) +
                   "; longspan knows float32, float64, float16, bfloat16, and int32, int64, bool "
                   "where they are asked for");
}

void fill(nb::handle tuple, Extents& into) {
  for (Py_ssize_t axis = 0; axis < PyTuple_GET_SIZE(tuple.ptr()); ++axis) {
    into[static_cast<int>(axis)] = nb::cast<std::int64_t>(tuple[axis]);
  }
}

}  // namespace

std::optional<ConstTensorView> view_of_torch_tensor(nb::handle object, const char* name) {
  const Torch* torch = Torch::get();
  if (torch == nullptr || !nb::isinstance(object, torch->tensor)) return std::nullopt;
  if (!nb::cast<bool>(object.attr("is_cpu"))) {
    refuse(name, "is on " + text_of(object.attr("device")) + "; longspan computes on the CPU");
  }
  if (!object.attr("layout").is(torch->strided)) {
    refuse(name, "is " + text_of(object.attr("layout")) + "; longspan reads strided tensors");
  }
  if (nb::cast<bool>(object.attr("is_neg")())) {
    refuse(name, "is negated lazily; give its resolve_neg()");
  }
  if (nb::cast<bool>(object.attr("requires_grad")) && nb::cast<bool>(torch->is_grad_enabled())) {
    refuse(name,
           "requires grad, which this function has not (the functions of longspan.torch have; "
           "without: torch.no_grad(), or detach())");
  }
  const nb::object shape = object.attr("shape");
  const nb::object strides = object.attr("stride")();
  const Py_ssize_t rank = PyTuple_Size(shape.ptr());
  if (rank < 0) throw nb::python_error();
  if (rank > kMaxRank) {
    throw nb::value_error((std::string(name) + " must have at most " + std::to_string(kMaxRank) +
                           " axes; found " + std::to_string(rank))
                              .c_str());
  }
  ConstTensorView view;
  view.dtype = dtype_of(*torch, object, name);
  view.rank = static_cast<int>(rank);
  fill(shape, view.shape);
  fill(strides, view.strides);
  const auto address = nb::cast<std::uintptr_t>(object.attr("data_ptr")());
  std::memcpy(&view.data, &address, sizeof(address));
  return view;
}

}  // namespace longspan::python
