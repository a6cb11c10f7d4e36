// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The bytes that a view reaches: results must overlap neither inputs, nor each other, nor
// themselves.
#pragma once

#include "longspan/tensor.h"

namespace longspan::base {

struct Extent {  // [begin, end); empty for views without elements
  const std::byte* begin = nullptr;
  const std::byte* end = nullptr;
  bool meets(const Extent& other) const noexcept { return begin < other.end && other.begin < end; }
};

Extent extent_of(const ConstTensorView& view) noexcept;

// True when two different indices may name the same element: an axis whose stride is smaller than
// what the axes of smaller strides reach.
bool overlaps_itself(const ConstTensorView& view) noexcept;

}  // namespace longspan::base
