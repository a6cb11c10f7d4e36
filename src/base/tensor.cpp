// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Tensor views: names, sizes, checked products, permuted axes.
#include "longspan/tensor.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace longspan {

std::size_t size_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::kFloat64:
    case DType::kInt64:
      return 8;
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kBool:
      return 1;
  }
  return 0;
}

const char* name_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kBool:
      return "bool";
  }
  return "unknown";
}

bool is_floating(DType dtype) noexcept {
  return dtype == DType::kFloat32 || dtype == DType::kFloat64 || dtype == DType::kFloat16 ||
         dtype == DType::kBFloat16;
}

bool is_given(const ConstTensorView& view) noexcept {
  return view.data != nullptr || view.rank != 0;
}

std::int64_t element_count(const ConstTensorView& view) {
  constexpr std::int64_t kMost = (std::int64_t{1} << 60) - 1;  // bytes are numbers of 63 bits, too
  std::int64_t count = 1;
  bool empty = false;
  for (int axis = 0; axis < view.rank; ++axis) {
    const std::int64_t extent = view.shape[axis];
    base::require(extent >= 0, [&] {
      return "tensor: dimensions must not be negative; found shape " + shape_string(view);
    });
    empty = empty || extent == 0;
  }
  for (int axis = 0; axis < view.rank; ++axis) {
    const std::int64_t extent = std::max<std::int64_t>(view.shape[axis], 1);
    base::require(count <= kMost / extent, [&] {
      return "tensor: the number of elements must stay below 2^60; found shape " +
             shape_string(view);
    });
    count *= extent;
  }
  return empty ? 0 : count;
}

std::string shape_string(const ConstTensorView& view) {
  if (view.rank < 0 || view.rank > kMaxRank) return "of rank " + std::to_string(view.rank);
  std::string text = "[";
  for (int axis = 0; axis < view.rank; ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(view.shape[axis]);
  }
  return text + "]";
}

namespace {

template <class View, class Pointer>
View row_major(Pointer data, DType dtype, std::initializer_list<std::int64_t> shape) {
  base::require(shape.size() <= kMaxRank, [&] {
    return "tensor: expected at most 4 dimensions, found " + std::to_string(shape.size());
  });
  View view;
  view.data = data;
  view.dtype = dtype;
  view.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), view.shape.begin());
  element_count(view);
  std::int64_t stride = 1;
  for (int axis = view.rank - 1; axis >= 0; --axis) {
    view.strides[axis] = stride;
    stride *= std::max<std::int64_t>(view.shape[axis], 1);
  }
  return view;
}

template <class View>
View swapped(View view, int a, int b) {
  base::require(a >= 0 && b >= 0 && a < view.rank && b < view.rank, [&] {
    return "transpose: axes must be in 0.." + std::to_string(view.rank - 1) + "; found " +
           std::to_string(a) + " and " + std::to_string(b);
  });
  std::swap(view.shape[a], view.shape[b]);
  std::swap(view.strides[a], view.strides[b]);
  return view;
}

}  // namespace

TensorView tensor(void* data, DType dtype, std::initializer_list<std::int64_t> shape) {
  return row_major<TensorView>(data, dtype, shape);
}
ConstTensorView tensor(const void* data, DType dtype, std::initializer_list<std::int64_t> shape) {
  return row_major<ConstTensorView>(data, dtype, shape);
}
TensorView transpose(TensorView view, int axis_a, int axis_b) {
  return swapped(view, axis_a, axis_b);
}
ConstTensorView transpose(ConstTensorView view, int axis_a, int axis_b) {
  return swapped(view, axis_a, axis_b);
}

}  // namespace longspan
