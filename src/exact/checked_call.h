// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Validation of an attention call, once, at the public entry: behind it shapes agree, every pointer
// is there and every number is finite.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/extent.h"
#include "engine/forward_call.h"
#include "longspan/attention.h"

namespace longspan::exact {

// A tensor with all four axes; [batch, seqlen, heads, dim] whatever the rank was.
struct Rows4 {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::array<std::int64_t, 4> shape{};
  std::array<std::int64_t, 4> strides{};
  base::Extent extent;

  engine::RowSource source(std::int64_t batch, std::int64_t head) const noexcept;
};

struct CheckedCall {
  int rank = 4;  // of query, key and value
  Rows4 query;
  Rows4 key;
  Rows4 value;
  std::int64_t batch = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_heads_kv = 0;
  std::int64_t seqlen_q = 0;
  std::int64_t seqlen_k = 0;
  std::int64_t head_dim = 0;
  std::int64_t head_dim_v = 0;
  double scale = 1;
  engine::BiasSource bias;
  engine::HeadSource alibi_slopes;
  engine::HeadSource sinks;
};

// Throws Error(kInvalidArgument): one line, what, expected, found.
CheckedCall check_call(const ConstTensorView& query, const ConstTensorView& key,
                       const ConstTensorView& value, const AttentionOptions& options,
                       const Execution& execution);

// The axes of a result tensor; those that it lacks have stride 0.
struct ResultAxes {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::int64_t batch_stride = 0;
  std::int64_t seqlen_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t dim_stride = 0;

  engine::RowTarget target(std::int64_t batch, std::int64_t head) const noexcept;
};

struct NamedExtent {
  const char* name;
  base::Extent extent;
};

// Checks the results of one call, each against the inputs and the results before it.
class ResultChecker {
 public:
  explicit ResultChecker(const CheckedCall& call) : call_(call) {}
  // The query's shape with head_dim_v; the query's dtype or float32.
  ResultAxes output(const TensorView& view);
  // The same shape, in the type that the call computes in.
  ResultAxes numerator(const TensorView& view);
  // [batch, seqlen_q, num_heads] and lower: the paper's sum and max.
  ResultAxes row_numbers(const char* name, const TensorView& view);
  // [batch, num_heads, seqlen_q] and lower; may be absent.
  ResultAxes lse(const TensorView& view);

 private:
  ResultAxes check(const char* name, const TensorView& view, const char* axes);

  const CheckedCall& call_;
  std::vector<NamedExtent> written_;
};

}  // namespace longspan::exact
