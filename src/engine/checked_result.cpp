// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Checks of result tensors.
#include "engine/checked_result.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/extent.h"

namespace longspan::engine {
namespace {

std::byte* first_row(const TensorAxes& axes, std::int64_t batch, std::int64_t head) noexcept {
  const std::int64_t offset = batch * axes.batch_stride + head * axes.head_stride;
  return static_cast<std::byte*>(axes.data) +
         offset * static_cast<std::int64_t>(size_of(axes.dtype));
}

}  // namespace

RowSource TensorAxes::source(std::int64_t batch, std::int64_t head) const noexcept {
  if (data == nullptr) return {};
  return {first_row(*this, batch, head), dtype, seqlen_stride, dim_stride};
}

RowTarget TensorAxes::target(std::int64_t batch, std::int64_t head) const noexcept {
  if (data == nullptr) return {};
  return {first_row(*this, batch, head), dtype, seqlen_stride, dim_stride};
}

TensorAxes planned_tensor(DType dtype, std::int64_t heads, std::int64_t dim) noexcept {
  static char present = 0;
  return {&present, dtype, 0, heads * dim, 0, 1};
}

TensorAxes ResultChecker::check_axes(const char* name, const ConstTensorView& view,
                                     const char* axes, TableExtents extents) const {
  TensorAxes result{const_cast<void*>(view.data), view.dtype, 0, 0, 0, 0};
  int rank = 0;
  bool same = true;
  std::string expected;
  const auto take = [&](std::int64_t extent, std::int64_t& stride) {
    same = same && rank < view.rank && view.shape[rank] == extent;
    expected += (rank == 0 ? "" : ", ") + std::to_string(extent);
    if (same) stride = view.strides[rank];
    ++rank;
  };
  for (const char* axis = axes; *axis != '\0'; ++axis) {
    if (*axis == 'b' && call_.rank == 4) take(call_.batch, result.batch_stride);
    if (*axis == 's') take(call_.seqlen_q, result.seqlen_stride);
    if (*axis == 'k') take(call_.seqlen_k, result.seqlen_stride);
    if (*axis == 'h' && call_.rank >= 3) take(call_.num_heads, result.head_stride);
    if (*axis == 'g' && call_.rank >= 3) take(call_.num_heads_kv, result.head_stride);
    if (*axis == 'e') take(call_.head_dim, result.dim_stride);
    if (*axis == 'd') take(call_.head_dim_v, result.dim_stride);
    if (*axis == 'r') take(extents.rows, result.seqlen_stride);
    if (*axis == 'c') take(extents.columns, result.dim_stride);
  }
  base::require(same && rank == view.rank, [&] {
    return std::string(call_.function) + ": " + name + " must have shape [" + expected +
           "]; found " + shape_string(view);
  });
  base::require(view.data != nullptr || element_count(view) == 0, [&] {
    return std::string(call_.function) + ": " + name + " has no data (null pointer)";
  });
  return result;
}

TensorAxes ResultChecker::check_result(const char* name, const TensorView& view, const char* axes) {
  const TensorAxes result = check_axes(name, view, axes);
  check_overlap(name, view);
  return result;
}

void ResultChecker::check_overlap(const char* name, const TensorView& view) {
  const base::Extent mine = base::extent_of(view);
  const auto refuse = [&](const base::Extent& other, const char* other_name) {
    base::require(!mine.meets(other), [&] {
      return std::string(call_.function) + ": " + name +
             " must not overlap an input or another result; it overlaps " + other_name;
    });
  };
  for (const NamedExtent& input : call_.inputs) refuse(input.extent, input.name);
  for (const NamedExtent& other : others_) refuse(other.extent, other.name);
  base::require(!base::overlaps_itself(view), [&] {
    return std::string(call_.function) + ": " + name + " must not overlap itself; found shape " +
           shape_string(view) + " with strides that name an element twice";
  });
  others_.push_back({name, mine});
}

void ResultChecker::check_state_dtype(const char* name, DType dtype) const {
  const DType expected = call_.query.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  base::require(dtype == expected, [&] {
    return std::string(call_.function) + ": " + name + " must be " + name_of(expected) + " for " +
           name_of(call_.query.dtype) + " inputs; found " + name_of(dtype);
  });
}

void ResultChecker::check_narrow_or_float32(const char* name, DType dtype) const {
  base::require(dtype == call_.query.dtype || dtype == DType::kFloat32, [&] {
    return std::string(call_.function) + ": " + name + " must be " + name_of(call_.query.dtype) +
           " as the query, or float32; found " + name_of(dtype);
  });
}

TensorAxes ResultChecker::output(const TensorView& view) {
  const TensorAxes result = check_result("output", view, "bshd");
  check_narrow_or_float32("output", view.dtype);
  return result;
}

TensorAxes ResultChecker::numerator(const TensorView& view) {
  check_state_dtype("numerator", view.dtype);
  return check_result("numerator", view, "bshd");
}

TensorAxes ResultChecker::row_numbers(const char* name, const TensorView& view) {
  check_state_dtype(name, view.dtype);
  return check_result(name, view, "bsh");
}

TensorAxes ResultChecker::lse(const TensorView& view) {
  if (!is_given(view)) return {};
  check_state_dtype("lse", view.dtype);
  return check_result("lse", view, "bhs");
}

TensorAxes ResultChecker::gradient(const char* name, const TensorView& view, const char* axes) {
  if (!is_given(view)) return {};
  check_narrow_or_float32(name, view.dtype);
  return check_result(name, view, axes);
}

void ResultChecker::gradient_like(const char* name, const TensorView& view,
                                  const ConstTensorView& like) {
  check_state_dtype(name, view.dtype);
  const bool same =
      view.rank == like.rank &&
      std::equal(view.shape.begin(), view.shape.begin() + view.rank, like.shape.begin());
  base::require(same, [&] {
    return std::string(call_.function) + ": " + name + " must have the shape " +
           shape_string(like) + " of what it is the gradient of; found " + shape_string(view);
  });
  check_overlap(name, view);
}

TensorAxes ResultChecker::table(const char* name, const TensorView& view, const char* axes,
                                TableExtents extents, bool whole) {
  if (!is_given(view)) return {};
  if (whole) {
    base::require(view.dtype == DType::kInt64, [&] {
      return std::string(call_.function) + ": " + name + " must be int64; found " +
             name_of(view.dtype);
    });
  } else {
    check_state_dtype(name, view.dtype);
  }
  const TensorAxes result = check_axes(name, view, axes, extents);
  check_overlap(name, view);
  return result;
}

TensorAxes ResultChecker::output_input(const char* name, const ConstTensorView& view) {
  check_narrow_or_float32(name, view.dtype);
  const TensorAxes axes = check_axes(name, view, "bshd");
  others_.push_back({name, base::extent_of(view)});
  return axes;
}

TensorAxes ResultChecker::lse_input(const char* name, const ConstTensorView& view) {
  check_state_dtype(name, view.dtype);
  const TensorAxes axes = check_axes(name, view, "bhs");
  others_.push_back({name, base::extent_of(view)});
  return axes;
}

}  // namespace longspan::engine
