// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Tensors of whole numbers (buckets, positions, ranks): a number for each position of each row,
// int32 or int64, any strides.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/extent.h"
#include "longspan/tensor.h"

namespace longspan::lsh {

// One number for each position of one (batch, head, round).
struct IndexRow {
  void* data = nullptr;  // rows of inputs are only read
  DType dtype = DType::kInt32;
  std::int64_t stride = 1;

  std::int64_t operator[](std::int64_t n) const noexcept {
    return dtype == DType::kInt32 ? static_cast<const std::int32_t*>(data)[n * stride]
                                  : static_cast<const std::int64_t*>(data)[n * stride];
  }
  // `value` fits the dtype: checked with the shape.
  void set(std::int64_t n, std::int64_t value) const noexcept {
    if (dtype == DType::kInt32) {
      static_cast<std::int32_t*>(data)[n * stride] = static_cast<std::int32_t>(value);
    } else {
      static_cast<std::int64_t*>(data)[n * stride] = value;
    }
  }
};

// Such rows with all their axes: the last is the position, the others number the rows. Tensors of
// lower rank lack the first axes.
struct IndexGrid {
  void* data = nullptr;
  DType dtype = DType::kInt32;
  std::array<std::int64_t, 4> shape{1, 1, 1, 0};
  std::array<std::int64_t, 4> strides{};

  std::int64_t rows() const noexcept { return shape[0] * shape[1] * shape[2]; }
  IndexRow row(std::int64_t batch, std::int64_t head, std::int64_t round) const noexcept {
    const std::int64_t at = batch * strides[0] + head * strides[1] + round * strides[2];
    return {static_cast<std::byte*>(data) + at * static_cast<std::int64_t>(size_of(dtype)), dtype,
            strides[3]};
  }
  IndexRow row(std::int64_t n) const noexcept {
    return row(n / (shape[1] * shape[2]), n / shape[2] % shape[1], n % shape[2]);
  }
};

// An input: its dtype, rank and memory are checked, its numbers are not. Errors begin with
// `function`.
IndexGrid check_index_input(const std::string& function, const char* name,
                            const ConstTensorView& view);
// A result that holds numbers up to `largest`; it must not overlap itself.
IndexGrid check_index_result(const std::string& function, const char* name, const TensorView& view,
                             std::int64_t largest);
void require_shape(const std::string& function, const char* name, const ConstTensorView& view,
                   const char* axes, const ConstTensorView& expected);
void require_apart(const std::string& function, const char* name, const ConstTensorView& result,
                   const char* other_name, const ConstTensorView& other);

}  // namespace longspan::lsh
