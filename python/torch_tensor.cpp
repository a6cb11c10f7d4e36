// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What PyTorch calls its types, and where a tensor lies: by DLPack's exchange of C functions, which
// PyTorch has since 2.10; by attributes before, and where words are needed that say what is amiss.
#include "torch_tensor.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string>

#include "array.h"

namespace longspan::python {
namespace {

// The C functions of a type of tensors, `__dlpack_c_exchange_api__`: DLPack's DLPackExchangeAPI.
struct Exchange {
  std::uint32_t major_version, minor_version;
  const Exchange* previous;  // of another major version
  void* not_used[3];
  // Fills `into` without a reference, valid as long as the object; not 0 with a Python exception
  // set. May be absent.
  int (*read)(void* object, nb::dlpack::dltensor* into);
};

// Nothing where `tensor_type` has no exchange of the version that is known here.
const Exchange* exchange_of(const nb::object& tensor_type) {
  const nb::object capsule = nb::getattr(tensor_type, "__dlpack_c_exchange_api__", nb::none());
  constexpr const char* kName = "dlpack_exchange_api";
  if (PyCapsule_IsValid(capsule.ptr(), kName) == 0) return nullptr;
  const auto* exchange = static_cast<const Exchange*>(PyCapsule_GetPointer(capsule.ptr(), kName));
  while (exchange != nullptr && exchange->major_version != 1) exchange = exchange->previous;
  return exchange != nullptr && exchange->read != nullptr ? exchange : nullptr;
}

// The names of PyTorch that are asked for in every call. Never released.
struct Torch {
  explicit Torch(const nb::object& torch)
      : tensor(torch.attr("Tensor")),
        exchange(exchange_of(tensor)),
        strided(torch.attr("strided")),
        is_neg(nb::steal(PyUnicode_InternFromString("is_neg"))),
        requires_grad(nb::steal(PyUnicode_InternFromString("requires_grad"))),
        is_grad_enabled(torch.attr("is_grad_enabled")),
        dtypes{torch.attr("float32"),  torch.attr("float64"), torch.attr("float16"),
               torch.attr("bfloat16"), torch.attr("int32"),   torch.attr("int64"),
               torch.attr("bool")} {}

  nb::object tensor;
  const Exchange* exchange;
  nb::object strided, is_neg, requires_grad, is_grad_enabled;
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

bool is_negated(const Torch& torch, nb::handle tensor) {
  return nb::cast<bool>(nb::steal(PyObject_CallMethodNoArgs(tensor.ptr(), torch.is_neg.ptr())));
}

bool loses_gradient(const Torch& torch, nb::handle tensor) {
  return nb::cast<bool>(torch.is_grad_enabled()) &&
         nb::cast<bool>(nb::getattr(tensor, torch.requires_grad));
}

// Nothing where the exchange is missing or the tensor is not what longspan reads.
std::optional<ConstTensorView> exchanged(const Torch& torch, nb::handle tensor) {
  if (torch.exchange == nullptr) return std::nullopt;
  nb::dlpack::dltensor read;
  if (torch.exchange->read(tensor.ptr(), &read) != 0) {
    PyErr_Clear();
    return std::nullopt;
  }
  const std::optional<DType> dtype = dtype_of_dlpack(read.dtype);
  if (read.device.device_type != nb::device::cpu::value || read.ndim > kMaxRank || !dtype ||
      is_negated(torch, tensor) || loses_gradient(torch, tensor)) {
    return std::nullopt;
  }
  ConstTensorView view;
  view.data = static_cast<const std::byte*>(read.data) + read.byte_offset;
  view.dtype = *dtype;
  view.rank = read.ndim;
  std::copy_n(read.shape, read.ndim, view.shape.begin());
  std::copy_n(read.strides, read.ndim, view.strides.begin());
  return view;
}

const void* address_of(nb::handle tensor, const char* name) {
  try {
    const auto address = nb::cast<std::uintptr_t>(tensor.attr("data_ptr")());
    const void* data = nullptr;
    std::memcpy(static_cast<void*>(&data), &address, sizeof(address));
    return data;
  } catch (nb::python_error& error) {
    nb::raise_from(error, PyExc_TypeError,
                   "%s has no memory of its own: it traces, or is one of many in vmap", name);
  }
  return nullptr;
}

}  // namespace

std::optional<ConstTensorView> view_of_torch_tensor(nb::handle object, const char* name) {
  const Torch* torch = Torch::get();
  if (torch == nullptr || !nb::isinstance(object, torch->tensor)) return std::nullopt;
  if (const auto view = exchanged(*torch, object)) return view;
  if (!nb::cast<bool>(object.attr("is_cpu"))) {
    refuse(name, "is on " + text_of(object.attr("device")) + "; longspan computes on the CPU");
  }
  if (!object.attr("layout").is(torch->strided)) {
    refuse(name, "is " + text_of(object.attr("layout")) + "; longspan reads strided tensors");
  }
  if (is_negated(*torch, object)) refuse(name, "is negated lazily; give its resolve_neg()");
  if (loses_gradient(*torch, object)) {
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
  view.data = address_of(object, name);
  return view;
}

}  // namespace longspan::python
