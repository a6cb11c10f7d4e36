// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Extents of views.
#include "base/extent.h"

#include <cstdlib>

namespace longspan::base {

Extent extent_of(const ConstTensorView& view) noexcept {
  std::int64_t low = 0;
  std::int64_t high = 0;
  for (int axis = 0; axis < view.rank; ++axis) {
    if (view.shape[axis] == 0) return {};
    const std::int64_t reach = (view.shape[axis] - 1) * view.strides[axis];
    (reach < 0 ? low : high) += reach;
  }
  if (view.data == nullptr) return {};
  const auto bytes = static_cast<std::int64_t>(size_of(view.dtype));
  const auto* start = static_cast<const std::byte*>(view.data);
  return {start + low * bytes, start + (high + 1) * bytes};
}

bool overlaps_itself(const ConstTensorView& view) noexcept {
  for (int axis = 0; axis < view.rank; ++axis) {
    if (view.shape[axis] == 0) return false;
  }
  // An axis is checked against the reach of all axes before it in the order of their strides.
  for (int axis = 0; axis < view.rank; ++axis) {
    if (view.shape[axis] == 1) continue;
    const std::int64_t stride = std::abs(view.strides[axis]);
    std::int64_t reach = 0;
    for (int other = 0; other < view.rank; ++other) {
      const std::int64_t smaller = std::abs(view.strides[other]);
      const bool before = smaller < stride || (smaller == stride && other < axis);
      if (before && other != axis) reach += smaller * (view.shape[other] - 1);
    }
    if (stride <= reach || stride == 0) return true;
  }
  return false;
}

}  // namespace longspan::base
