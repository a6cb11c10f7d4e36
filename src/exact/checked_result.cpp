// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Checks of result tensors: shape, dtype, and that they overlap no input.
#include <string>
#include <vector>

#include "base/check.h"
#include "base/extent.h"
#include "exact/checked_call.h"

namespace longspan::exact {
namespace {

// `written` are the results that were checked before.
void check_overlap(const char* name, const TensorView& view, const CheckedCall& call,
                   std::vector<NamedExtent>& written) {
  const base::Extent mine = base::extent_of(view);
  const auto refuse = [&](const base::Extent& other, const char* other_name) {
    base::require(!mine.meets(other), [&] {
      return std::string("attention: ") + name +
             " must not overlap an input or another result; it overlaps " + other_name;
    });
  };
  refuse(call.query.extent, "query");
  refuse(call.key.extent, "key");
  refuse(call.value.extent, "value");
  for (const NamedExtent& other : written) refuse(other.extent, other.name);
  base::require(!base::overlaps_itself(view), [&] {
    return std::string("attention: ") + name + " must not overlap itself; found shape " +
           shape_string(view) + " with strides that name an element twice";
  });
  written.push_back({name, mine});
}

void check_state_dtype(const char* name, const TensorView& view, const CheckedCall& call) {
  const DType expected = call.query.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  base::require(view.dtype == expected, [&] {
    return std::string("attention: ") + name + " must be " + name_of(expected) + " for " +
           name_of(call.query.dtype) + " inputs; found " + name_of(view.dtype);
  });
}

}  // namespace

engine::RowTarget ResultAxes::target(std::int64_t batch, std::int64_t head) const noexcept {
  if (data == nullptr) return {};
  const std::int64_t offset = batch * batch_stride + head * head_stride;
  return {static_cast<std::byte*>(data) + offset * static_cast<std::int64_t>(size_of(dtype)), dtype,
          seqlen_stride, dim_stride};
}

// `axes` names the axes of rank 4 by letter: b(atch), s(eqlen), h(eads), d(im). Rank 3 lacks b,
// rank 2 lacks h, too.
ResultAxes ResultChecker::check(const char* name, const TensorView& view, const char* axes) {
  ResultAxes result{view.data, view.dtype, 0, 0, 0, 0};
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
    if (*axis == 'h' && call_.rank >= 3) take(call_.num_heads, result.head_stride);
    if (*axis == 'd') take(call_.head_dim_v, result.dim_stride);
  }
  base::require(same && rank == view.rank, [&] {
    return std::string("attention: ") + name + " must have shape [" + expected + "]; found " +
           shape_string(view);
  });
  base::require(view.data != nullptr || element_count(view) == 0,
                [&] { return std::string("attention: ") + name + " has no data (null pointer)"; });
  check_overlap(name, view, call_, written_);
  return result;
}

ResultAxes ResultChecker::output(const TensorView& view) {
  const ResultAxes result = check("output", view, "bshd");
  base::require(view.dtype == call_.query.dtype || view.dtype == DType::kFloat32, [&] {
    return std::string("attention: output must be ") + name_of(call_.query.dtype) +
           " as the query, or float32; found " + name_of(view.dtype);
  });
  return result;
}

ResultAxes ResultChecker::numerator(const TensorView& view) {
  check_state_dtype("numerator", view, call_);
  return check("numerator", view, "bshd");
}

ResultAxes ResultChecker::row_numbers(const char* name, const TensorView& view) {
  check_state_dtype(name, view, call_);
  return check(name, view, "bsh");
}

ResultAxes ResultChecker::lse(const TensorView& view) {
  if (!is_given(view)) return {};
  check_state_dtype("lse", view, call_);
  return check("lse", view, "bhs");
}

}  // namespace longspan::exact
