// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Tensors are views: a pointer, a dtype, a shape and strides. longspan never owns the caller's
// memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace longspan {

enum class DType : std::uint8_t {
  kFloat32,
  kFloat64,
  kFloat16,
  kBFloat16,
  kInt32,
  kInt64,
  kBool,  // one byte; nonzero is true
};

std::size_t size_of(DType dtype) noexcept;  // bytes of one element
const char* name_of(DType dtype) noexcept;  // "float32", "bfloat16", ...
bool is_floating(DType dtype) noexcept;     // float32, float64, float16, bfloat16

inline constexpr int kMaxRank = 4;
using Extents = std::array<std::int64_t, kMaxRank>;  // entries at and past the rank are not read

// Strides count elements, may be 0 (broadcast) or negative, and need not be ordered.
// A view with data == nullptr and rank 0 is absent (for optional arguments): is_given() is false.
struct ConstTensorView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int rank = 0;
  Extents shape{};
  Extents strides{};
};

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int rank = 0;
  Extents shape{};
  Extents strides{};

  // NOLINTNEXTLINE(google-explicit-constructor)
  operator ConstTensorView() const { return {data, dtype, rank, shape, strides}; }
};

// True for a view that was given (an empty tensor is given, too: it has a rank).
bool is_given(const ConstTensorView& view) noexcept;

// Elements of the view; throws Error when a dimension is negative or the product, of those that are
// not 0, passes 2^60.
std::int64_t element_count(const ConstTensorView& view);

// "[2, 4096, 8, 64]"
std::string shape_string(const ConstTensorView& view);

// Row-major views. `shape` has 0 to 4 entries, each >= 0.
TensorView tensor(void* data, DType dtype, std::initializer_list<std::int64_t> shape);
ConstTensorView tensor(const void* data, DType dtype, std::initializer_list<std::int64_t> shape);
inline TensorView tensor(float* data, std::initializer_list<std::int64_t> shape) {
  return tensor(static_cast<void*>(data), DType::kFloat32, shape);
}
inline ConstTensorView tensor(const float* data, std::initializer_list<std::int64_t> shape) {
  return tensor(static_cast<const void*>(data), DType::kFloat32, shape);
}
inline TensorView tensor(double* data, std::initializer_list<std::int64_t> shape) {
  return tensor(static_cast<void*>(data), DType::kFloat64, shape);
}
inline ConstTensorView tensor(const double* data, std::initializer_list<std::int64_t> shape) {
  return tensor(static_cast<const void*>(data), DType::kFloat64, shape);
}

// Swaps two axes: a [batch, heads, seqlen, dim] tensor is transpose(view, 1, 2) for longspan. No
// copy.
TensorView transpose(TensorView view, int axis_a, int axis_b);
ConstTensorView transpose(ConstTensorView view, int axis_a, int axis_b);

}  // namespace longspan
