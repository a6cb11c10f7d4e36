// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A tensor of vectors with all four axes, [batch, seqlen, heads, dim], whatever its rank was.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/extent.h"
#include "base/rows.h"
#include "longspan/tensor.h"

namespace longspan::base {

struct Rows4 {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::array<std::int64_t, 4> shape{};
  std::array<std::int64_t, 4> strides{};
  Extent extent;

  RowSource source(std::int64_t batch, std::int64_t head) const noexcept;
};

// Rank 4, 3 (no batch) or 2 (no batch, one head), floating, with data, the last axis (`dim`) at
// least 1. Errors begin with `where`, as in "attention: ".
Rows4 check_rows(const std::string& where, const char* name, const char* dim,
                 const ConstTensorView& view);

}  // namespace longspan::base
