// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Validation of the tensors that a call writes: shapes, dtypes, and that they overlap neither an
// input nor each other.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/checked_call.h"

namespace longspan::engine {

// The axes of a tensor that belongs to the queries or keys of a call; those that it lacks have
// stride 0.
struct TensorAxes {
  void* data = nullptr;  // of a result; inputs are only read through source()
  DType dtype = DType::kFloat32;
  std::int64_t batch_stride = 0;
  std::int64_t seqlen_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t dim_stride = 0;

  RowSource source(std::int64_t batch, std::int64_t head) const noexcept;
  RowTarget target(std::int64_t batch, std::int64_t head) const noexcept;
};

// For plans: a tensor that is there but never read, rows of all heads together.
TensorAxes planned_tensor(DType dtype, std::int64_t heads, std::int64_t dim) noexcept;

struct TableExtents {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

// Checks the results of one call, each against the inputs and the results before it. `axes` of a
// tensor at rank 4, by letter: b(atch), s(eqlen_q), k (seqlen_k), h(eads), g (num_heads_kv, one for
// each group), e (head_dim), d (head_dim_v). Rank 3 lacks the batch, rank 2 the heads, too.
class ResultChecker {
 public:
  explicit ResultChecker(const CheckedCall& call) : call_(call) {}
  // The query's shape with head_dim_v; the query's dtype or float32.
  TensorAxes output(const TensorView& view);
  // The same shape, in the type that the call computes in.
  TensorAxes numerator(const TensorView& view);
  // [batch, seqlen_q, num_heads] and lower: the paper's sum and max.
  TensorAxes row_numbers(const char* name, const TensorView& view);
  // [batch, num_heads, seqlen_q] and lower; may be absent.
  TensorAxes lse(const TensorView& view);
  // A gradient, in the query's dtype or float32; may be absent.
  TensorAxes gradient(const char* name, const TensorView& view, const char* axes);
  // A gradient in the type that the call computes in, of the shape of `like`; may be absent.
  void gradient_like(const char* name, const TensorView& view, const ConstTensorView& like);
  // Numbers of chosen rows. Two more letters, r(ows) and c(olumns), have extents of their own. In
  // the type that the call computes in, or int64 (`whole`); may be absent.
  TensorAxes table(const char* name, const TensorView& view, const char* axes, TableExtents extents,
                   bool whole = false);
  // Inputs beyond query, key and value: what was computed before, and the gradient with respect to
  // it.
  TensorAxes output_input(const char* name, const ConstTensorView& view);
  TensorAxes lse_input(const char* name, const ConstTensorView& view);

 private:
  TensorAxes check_axes(const char* name, const ConstTensorView& view, const char* axes,
                        TableExtents extents = {}) const;
  TensorAxes check_result(const char* name, const TensorView& view, const char* axes);
  void check_overlap(const char* name, const TensorView& view);
  void check_narrow_or_float32(const char* name, DType dtype) const;
  void check_state_dtype(const char* name, DType dtype) const;

  const CheckedCall& call_;
  std::vector<NamedExtent> others_;  // further inputs, and the results so far
};

}  // namespace longspan::engine
