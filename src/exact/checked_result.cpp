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

void check_shape(const char* name, const TensorView& view,
                 const std::vector<std::int64_t>& expected) {
  bool same = view.rank == static_cast<int>(expected.size());
  std::string text;
  for (std::size_t axis = 0; axis < expected.size(); ++axis) {
    same = same && view.shape[axis] == expected[axis];
    text += (axis == 0 ? "" : ", ") + std::to_string(expected[axis]);
  }
  base::require(same, [&] {
    return std::string("attention: ") + name + " must have shape [" + text + "]; found " +
           shape_string(view);
  });
  base::require(view.data != nullptr || element_count(view) == 0,
                [&] { return std::string("attention: ") + name + " has no data (null pointer)"; });
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

ResultAxes ResultChecker::output(const char* name, const TensorView& view) {
  const int rank = call_.rank;
  std::vector<std::int64_t> expected;
  if (rank == 4) expected.push_back(call_.batch);
  expected.push_back(call_.seqlen_q);
  if (rank >= 3) expected.push_back(call_.num_heads);
  expected.push_back(call_.head_dim_v);
  check_shape(name, view, expected);
  base::require(view.dtype == call_.query.dtype || view.dtype == DType::kFloat32, [&] {
    return std::string("attention: ") + name + " must be " + name_of(call_.query.dtype) +
           " as the query, or float32; found " + name_of(view.dtype);
  });
  check_overlap(name, view, call_, written_);
  const int s = rank == 4 ? 1 : 0;
  return {view.data,
          view.dtype,
          rank == 4 ? view.strides[0] : 0,
          view.strides[s],
          rank >= 3 ? view.strides[s + 1] : 0,
          view.strides[rank - 1]};
}

ResultAxes ResultChecker::numerator(const TensorView& view) {
  check_state_dtype("numerator", view, call_);
  return output("numerator", view);
}

ResultAxes ResultChecker::row_numbers(const char* name, const TensorView& view) {
  const int rank = call_.rank;
  std::vector<std::int64_t> expected;
  if (rank == 4) expected.push_back(call_.batch);
  expected.push_back(call_.seqlen_q);
  if (rank >= 3) expected.push_back(call_.num_heads);
  check_shape(name, view, expected);
  check_state_dtype(name, view, call_);
  check_overlap(name, view, call_, written_);
  const int s = rank == 4 ? 1 : 0;
  return {view.data,
          view.dtype,
          rank == 4 ? view.strides[0] : 0,
          view.strides[s],
          rank >= 3 ? view.strides[s + 1] : 0,
          0};
}

ResultAxes ResultChecker::lse(const TensorView& view) {
  const int rank = call_.rank;
  if (!is_given(view)) return {};
  std::vector<std::int64_t> expected;
  if (rank == 4) expected.push_back(call_.batch);
  if (rank >= 3) expected.push_back(call_.num_heads);
  expected.push_back(call_.seqlen_q);
  check_shape("lse", view, expected);
  check_state_dtype("lse", view, call_);
  check_overlap("lse", view, call_, written_);
  const int last = rank - 2;
  return {view.data,
          view.dtype,
          rank == 4 ? view.strides[0] : 0,
          view.strides[last],
          rank >= 3 ? view.strides[last - 1] : 0,
          0};
}

}  // namespace longspan::exact
