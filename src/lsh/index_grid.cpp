// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Checks of tensors of whole numbers.
#include "lsh/index_grid.h"

#include <algorithm>

#include "base/check.h"

namespace longspan::lsh {
namespace {

using base::require;

IndexGrid check(const std::string& function, const char* name, const ConstTensorView& view) {
  require(view.dtype == DType::kInt32 || view.dtype == DType::kInt64, [&] {
    return function + ": " + name + " must be int32 or int64; found " + name_of(view.dtype);
  });
  require(view.rank >= 1 && view.rank <= 4, [&] {
    return function + ": " + name + " must have rank 1 to 4; found rank " +
           std::to_string(view.rank);
  });
  require(element_count(view) == 0 || view.data != nullptr, [&] {
    return function + ": " + name + " " + shape_string(view) + " has no data (null pointer)";
  });
  IndexGrid grid;
  grid.dtype = view.dtype;
  for (int axis = 0; axis < view.rank; ++axis) {
    grid.shape[axis + 4 - view.rank] = view.shape[axis];
    grid.strides[axis + 4 - view.rank] = view.strides[axis];
  }
  return grid;
}

}  // namespace

IndexGrid check_index_input(const std::string& function, const char* name,
                            const ConstTensorView& view) {
  IndexGrid grid = check(function, name, view);
  grid.data = const_cast<void*>(view.data);  // NOLINT(cppcoreguidelines-pro-type-const-cast)
  return grid;
}

IndexGrid check_index_result(const std::string& function, const char* name, const TensorView& view,
                             std::int64_t largest) {
  IndexGrid grid = check(function, name, view);
  grid.data = view.data;
  require(view.dtype == DType::kInt64 || largest <= INT32_MAX, [&] {
    return function + ": " + name + " must be int64 to hold " + std::to_string(largest) +
           "; found int32";
  });
  require(!base::overlaps_itself(view), [&] {
    return function + ": " + name + " must not overlap itself; found shape " + shape_string(view) +
           " with strides under which elements coincide";
  });
  return grid;
}

void require_shape(const std::string& function, const char* name, const ConstTensorView& view,
                   const char* axes, const ConstTensorView& expected) {
  const bool same =
      view.rank == expected.rank &&
      std::equal(view.shape.begin(), view.shape.begin() + view.rank, expected.shape.begin());
  require(same, [&] {
    return function + ": " + name + " must have shape " + axes + " = " + shape_string(expected) +
           "; found " + shape_string(view);
  });
}

void require_apart(const std::string& function, const char* name, const ConstTensorView& result,
                   const char* other_name, const ConstTensorView& other) {
  require(!base::extent_of(result).meets(base::extent_of(other)), [&] {
    return function + ": " + name + " must not overlap " + other_name +
           "; their memory has bytes in common";
  });
}

}  // namespace longspan::lsh
