// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Arrays of Python as views, without a copy: the buffer protocol (NumPy), PyTorch, DLPack, the
// array interface. What longspan cannot compute with is a TypeError here; shapes are the library's.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <optional>
#include <span>

#include "longspan/tensor.h"
#include "numbers.h"

namespace longspan::python {

namespace nb = nanobind;

// Holds the memory of an array of Python for as long as it lives. To be made, moved and destroyed
// with the GIL; its view may be used without.
class Array {
 public:
  Array() = default;  // absent
  // `name` is what errors call it.
  Array(nb::handle object, const char* name, Numbers numbers);
  // The same, and None gives an absent array.
  static Array optional(nb::handle object, const char* name, Numbers numbers);
  // The same, to be written to: a ValueError when it is read-only.
  static Array output(nb::handle object, const char* name);
  Array(Array&& other) noexcept;
  Array& operator=(Array&& other) noexcept;
  ~Array() { release(); }

  const ConstTensorView& view() const noexcept { return view_; }
  TensorView output_view() const noexcept;

 private:
  bool read_torch(nb::handle object, const char* name);
  void read_buffer(nb::handle object, const char* name);
  void read_dlpack(nb::handle object, const char* name, bool writable);
  bool take_buffer(nb::handle object);
  void release() noexcept;

  Py_buffer buffer_{};                // obj == nullptr: not in use
  nb::object tensor_;                 // PyTorch
  nb::ndarray<nb::ro> shared_;        // DLPack, to be read
  nb::ndarray<> shared_for_writing_;  // DLPack, to be written to
  ConstTensorView view_;
};

// An argument that Array checks: it has words for None, too.
inline auto tensor() { return nb::arg().none(); }

// A new NumPy array; uninitialised.
struct NewArray {
  NewArray() = default;  // absent
  NewArray(std::span<const std::int64_t> shape, DType dtype);

  nb::object object;
  Array array;
};

// `array` as an array of the kind that `like` is, where that kind takes DLPack; without a copy.
nb::object as_kind_of(nb::handle like, nb::object array);

// Nothing for what longspan does not know.
std::optional<DType> dtype_of_dlpack(nb::dlpack::dtype dtype);

// A DLPack object over a NumPy array; NumPy's own export refuses bfloat16.
nb::object as_dlpack(nb::handle array);

}  // namespace longspan::python
