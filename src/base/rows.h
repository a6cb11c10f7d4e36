// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Rows of a tensor of any floating type, as they lie in memory: row n begins row_stride * n
// elements after the first, its components are dim_stride elements apart. With an index row n is
// the tensor's row index[n].
#pragma once

#include <cstdint>

#include "longspan/tensor.h"

namespace longspan::base {

struct RowSource {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::int64_t row_stride = 0;
  std::int64_t dim_stride = 0;
  const std::int32_t* index = nullptr;

  std::int64_t offset(std::int64_t n) const noexcept {
    return (index == nullptr ? n : index[n]) * row_stride;
  }
};

struct RowTarget {
  void* data = nullptr;  // null: not wanted
  DType dtype = DType::kFloat32;
  std::int64_t row_stride = 0;
  std::int64_t dim_stride = 0;
  const std::int32_t* index = nullptr;

  std::int64_t offset(std::int64_t n) const noexcept {
    return (index == nullptr ? n : index[n]) * row_stride;
  }
};

}  // namespace longspan::base
