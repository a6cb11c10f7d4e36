// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Where the memory of an array lies, what its elements are, and its strides in elements.
#include "array.h"

#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "torch_tensor.h"

namespace longspan::python {
namespace {

// The names of NumPy that are asked for in every call. Never released: they live as long as Python.
struct NumPy {
  nb::object module = nb::module_::import_("numpy");
  nb::object empty = module.attr("empty");
  nb::object ndarray = module.attr("ndarray");
  nb::object uint16 = module.attr("dtype")("uint16");
  nb::object dtypes[7] = {
      module.attr("dtype")("float32"), module.attr("dtype")("float64"),
      module.attr("dtype")("float16"), nb::none(),  // bfloat16 is not NumPy's
      module.attr("dtype")("int32"),   module.attr("dtype")("int64"),
      module.attr("dtype")("bool"),
  };
  static const NumPy& get() {
    static const auto* numpy = new NumPy;
    return *numpy;
  }
};

// NumPy's dtype of bfloat16 that ml_dtypes registers; none until an array of it was seen.
nb::object& bfloat16_dtype() {
  static auto* dtype = new nb::object(nb::none());
  return *dtype;
}

std::string text_of(nb::handle object) { return nb::str(object).c_str(); }

std::string class_name(nb::handle object) {
  return nb::str(nb::handle(reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()))).attr("__name__"))
      .c_str();
}

// What the caller calls the type of the elements: "complex64", "torch.uint8".
std::string dtype_name(nb::handle object) {
  return nb::hasattr(object, "dtype") ? text_of(object.attr("dtype")) : class_name(object);
}

[[noreturn]] void refuse_dtype(nb::handle object, const char* name) {
  throw nb::type_error((std::string(name) + " has dtype " + dtype_name(object) +
                        "; longspan knows float32, float64, float16, bfloat16, and int32, int64, "
                        "bool where they are asked for")
                           .c_str());
}

[[noreturn]] void refuse_read_only(const char* name) {
  throw nb::value_error((std::string(name) + " must be writable; found a read-only array").c_str());
}

// A format of the struct module, of one native element.
std::optional<DType> dtype_of_format(const char* format, std::int64_t bytes) {
  if (format == nullptr) return std::nullopt;
  if (std::strchr("@=<", *format) != nullptr && *format != '\0') ++format;
  if (std::strlen(format) != 1) return std::nullopt;
  switch (*format) {
    case 'f':
      return DType::kFloat32;
    case 'd':
      return DType::kFloat64;
    case 'e':
      return DType::kFloat16;
    case '?':
      return DType::kBool;
    case 'i':
    case 'l':
    case 'q':
      return bytes == 4 ? DType::kInt32 : DType::kInt64;
    default:
      return std::nullopt;
  }
}

nb::dlpack::dtype dlpack_dtype(DType dtype) {
  using Code = nb::dlpack::dtype_code;
  const Code code = dtype == DType::kBFloat16 ? Code::Bfloat
                    : dtype == DType::kBool   ? Code::Bool
                    : is_floating(dtype)      ? Code::Float
                                              : Code::Int;
  return {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(8 * size_of(dtype)), 1};
}

void check_rank(const char* name, std::int64_t rank) {
  if (rank <= kMaxRank) return;
  throw nb::value_error((std::string(name) + " must have at most " + std::to_string(kMaxRank) +
                         " axes; found " + std::to_string(rank))
                            .c_str());
}

std::string device_name(int type, int id) {
  const char* kind = type == nb::device::cuda::value    ? "cuda"
                     : type == nb::device::rocm::value  ? "rocm"
                     : type == nb::device::metal::value ? "metal"
                                                        : "another device";
  return std::string(kind) + ":" + std::to_string(id);
}

}  // namespace

// Delegates, so that what is refused is released: the destructor runs.
Array::Array(nb::handle object, const char* name, Numbers numbers) : Array() {
  if (!read_torch(object, name)) {
    read_buffer(object, name);
    if (buffer_.obj == nullptr) read_dlpack(object, name, false);
  }
  const char* expected = numbers == Numbers::kFloating  ? "float32, float64, float16 or bfloat16"
                         : numbers == Numbers::kInteger ? "int32 or int64"
                                                        : "bool";
  const DType dtype = view_.dtype;
  const bool fits = numbers == Numbers::kFloating ? is_floating(dtype)
                    : numbers == Numbers::kInteger
                        ? dtype == DType::kInt32 || dtype == DType::kInt64
                        : dtype == DType::kBool;
  if (!fits) {
    throw nb::type_error(
        (std::string(name) + " must be " + expected + "; found " + dtype_name(object)).c_str());
  }
}

Array Array::optional(nb::handle object, const char* name, Numbers numbers) {
  return object.is_none() ? Array() : Array(object, name, numbers);
}

Array Array::output(nb::handle object, const char* name) {
  Array array;
  if (array.read_torch(object, name)) return array;
  array.read_buffer(object, name);
  if (array.buffer_.obj == nullptr) {
    array.read_dlpack(object, name, true);
  } else if (array.buffer_.readonly != 0) {
    refuse_read_only(name);
  }
  return array;
}

Array::Array(Array&& other) noexcept { *this = std::move(other); }

Array& Array::operator=(Array&& other) noexcept {
  if (this == &other) return *this;
  release();
  buffer_ = std::exchange(other.buffer_, Py_buffer{});
  tensor_ = std::move(other.tensor_);
  shared_ = std::move(other.shared_);
  shared_for_writing_ = std::move(other.shared_for_writing_);
  view_ = std::exchange(other.view_, {});
  return *this;
}

void Array::release() noexcept {
  if (buffer_.obj != nullptr) PyBuffer_Release(&buffer_);
}

TensorView Array::output_view() const noexcept {
  return {const_cast<void*>(view_.data), view_.dtype, view_.rank, view_.shape, view_.strides};
}

bool Array::read_torch(nb::handle object, const char* name) {
  if (PyObject_CheckBuffer(object.ptr()) != 0) return false;
  const std::optional<ConstTensorView> view = view_of_torch_tensor(object, name);
  if (!view) return false;
  view_ = *view;
  tensor_ = nb::borrow(object);
  return true;
}

bool Array::take_buffer(nb::handle object) {
  if (PyObject_CheckBuffer(object.ptr()) == 0) return false;
  if (PyObject_GetBuffer(object.ptr(), &buffer_, PyBUF_RECORDS_RO) == 0) return true;
  PyErr_Clear();
  return false;
}

// Leaves buffer_ unused when the object offers no buffer.
void Array::read_buffer(nb::handle object, const char* name) {
  std::optional<DType> dtype;
  if (const bool numpy = nb::isinstance(object, NumPy::get().ndarray);
      numpy && object.attr("dtype").is(bfloat16_dtype())) {
    take_buffer(object.attr("view")(NumPy::get().uint16));
    dtype = DType::kBFloat16;
  } else if (take_buffer(object)) {
    dtype = dtype_of_format(buffer_.format, buffer_.itemsize);
  } else if (numpy) {
    // A type that the struct module has no letter for.
    if (text_of(object.attr("dtype")) != "bfloat16") refuse_dtype(object, name);
    bfloat16_dtype() = object.attr("dtype");
    return read_buffer(object, name);
  } else if (nb::hasattr(object, "__array_interface__") && !nb::hasattr(object, "__dlpack__")) {
    take_buffer(NumPy::get().module.attr("asarray")(object));
    dtype = dtype_of_format(buffer_.format, buffer_.itemsize);
  } else {
    return;
  }
  if (!dtype) refuse_dtype(object, name);
  check_rank(name, buffer_.ndim);
  view_.data = buffer_.buf;
  view_.dtype = *dtype;
  view_.rank = buffer_.ndim;
  const auto bytes = static_cast<std::int64_t>(size_of(*dtype));
  bool whole = reinterpret_cast<std::uintptr_t>(buffer_.buf) % static_cast<std::size_t>(bytes) == 0;
  for (int axis = 0; axis < view_.rank; ++axis) {
    view_.shape[axis] = buffer_.shape[axis];
    view_.strides[axis] = buffer_.strides[axis] / bytes;
    whole = whole && buffer_.strides[axis] % bytes == 0;
  }
  if (!whole) {
    throw nb::value_error((std::string(name) + " must be aligned: address and strides must be " +
                           "multiples of the " + std::to_string(bytes) + " bytes of an element")
                              .c_str());
  }
}

void Array::read_dlpack(nb::handle object, const char* name, bool writable) {
  if (!nb::hasattr(object, "__dlpack__")) {
    throw nb::type_error((std::string(name) + " must be an array (NumPy, DLPack or the array " +
                          "interface); found " + class_name(object))
                             .c_str());
  }
  const auto read = [&](const auto& shared) {
    check_rank(name, static_cast<std::int64_t>(shared.ndim()));
    constexpr int kPinned = 3;  // kDLCUDAHost: memory of the CPU
    if (shared.device_type() != nb::device::cpu::value && shared.device_type() != kPinned) {
      throw nb::type_error((std::string(name) + " is on " +
                            device_name(shared.device_type(), shared.device_id()) +
                            "; longspan computes on the CPU")
                               .c_str());
    }
    const std::optional<DType> dtype = dtype_of_dlpack(shared.dtype());
    if (!dtype) refuse_dtype(object, name);
    view_.data = shared.data();
    view_.dtype = *dtype;
    view_.rank = static_cast<int>(shared.ndim());
    for (int axis = 0; axis < view_.rank; ++axis) {
      view_.shape[axis] = static_cast<std::int64_t>(shared.shape(static_cast<std::size_t>(axis)));
      view_.strides[axis] = shared.stride(static_cast<std::size_t>(axis));
    }
  };
  if (writable && nb::try_cast(object, shared_for_writing_)) return read(shared_for_writing_);
  if (nb::try_cast(object, shared_)) {
    if (!writable) return read(shared_);
    refuse_read_only(name);
  }
  const std::string words =
      std::string(name) + " gives no DLPack tensor (" + class_name(object) + ")";
  try {
    object.attr("__dlpack__")();  // for the reason, which the caster keeps to itself
  } catch (nb::python_error& error) {
    nb::raise_from(error, PyExc_TypeError, "%s", words.c_str());
  }
  throw nb::type_error(words.c_str());
}

NewArray::NewArray(std::span<const std::int64_t> shape, DType dtype) {
  const NumPy& numpy = NumPy::get();
  nb::object extents = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(shape.size())));
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    PyTuple_SET_ITEM(extents.ptr(), static_cast<Py_ssize_t>(axis),
                     PyLong_FromLongLong(shape[axis]));
  }
  if (dtype != DType::kBFloat16) {
    object = numpy.empty(extents, numpy.dtypes[static_cast<std::size_t>(dtype)]);
  } else {
    nb::object& bfloat16 = bfloat16_dtype();
    if (bfloat16.is_none()) {
      bfloat16 = numpy.module.attr("dtype")(nb::module_::import_("ml_dtypes").attr("bfloat16"));
    }
    object = numpy.empty(extents, bfloat16);
  }
  array = Array::output(object, "output");
}

nb::object as_kind_of(nb::handle like, nb::object array) {
  if (array.is_none() || nb::isinstance(like, NumPy::get().ndarray)) return array;
  return nb::module_::import_("longspan._arrays").attr("as_kind_of")(like, array);
}

std::optional<DType> dtype_of_dlpack(nb::dlpack::dtype dtype) {
  using Code = nb::dlpack::dtype_code;
  if (dtype.lanes != 1) return std::nullopt;
  switch (static_cast<Code>(dtype.code)) {
    case Code::Float:
      return dtype.bits == 32   ? std::optional(DType::kFloat32)
             : dtype.bits == 64 ? std::optional(DType::kFloat64)
             : dtype.bits == 16 ? std::optional(DType::kFloat16)
                                : std::nullopt;
    case Code::Bfloat:
      return dtype.bits == 16 ? std::optional(DType::kBFloat16) : std::nullopt;
    case Code::Int:
      return dtype.bits == 32   ? std::optional(DType::kInt32)
             : dtype.bits == 64 ? std::optional(DType::kInt64)
                                : std::nullopt;
    case Code::Bool:
      return dtype.bits == 8 ? std::optional(DType::kBool) : std::nullopt;
    default:
      return std::nullopt;
  }
}

nb::object as_dlpack(nb::handle array) {
  const TensorView view = Array::output(array, "array").output_view();
  std::size_t shape[kMaxRank] = {};
  for (int axis = 0; axis < view.rank; ++axis) {
    shape[axis] = static_cast<std::size_t>(view.shape[axis]);
  }
  return nb::cast(nb::ndarray<nb::array_api>(view.data, static_cast<std::size_t>(view.rank), shape,
                                             array, view.strides.data(), dlpack_dtype(view.dtype)));
}

}  // namespace longspan::python
