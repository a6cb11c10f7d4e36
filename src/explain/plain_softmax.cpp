// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The engine again, in float64 and with all keys in one chunk.
#include "explain/plain_softmax.h"

#include <algorithm>

#include "base/visit_dtype.h"
#include "longspan/attention_weights.h"

namespace longspan::explain {
namespace {

DType computed_in(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

std::size_t count(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) {
  return static_cast<std::size_t>(a * b * c * d);
}

ConstTensorView view_of(const std::vector<double>& numbers, const base::Rows4& rows) {
  return tensor(static_cast<const void*>(numbers.data()), DType::kFloat64,
                {rows.shape[0], rows.shape[1], rows.shape[2], rows.shape[3]});
}

// A view of the lower rank of a call, of its last axes.
TensorView of_rank(TensorView view, int rank) {
  if (rank == 3) {  // no batch
    std::copy(view.shape.begin() + 1, view.shape.end(), view.shape.begin());
    std::copy(view.strides.begin() + 1, view.strides.end(), view.strides.begin());
  } else if (rank == 2) {  // no heads either
    view.shape = {view.shape[1], view.shape[3]};
    view.strides = {view.strides[1], view.strides[3]};
  }
  view.rank = rank;
  return view;
}

// In float64, [batch, seqlen, heads, dim].
std::vector<double> widened(const base::Rows4& rows) {
  std::vector<double> numbers;
  numbers.reserve(count(rows.shape[0], rows.shape[1], rows.shape[2], rows.shape[3]));
  for (std::int64_t b = 0; b < rows.shape[0]; ++b) {
    for (std::int64_t n = 0; n < rows.shape[1]; ++n) {
      for (std::int64_t h = 0; h < rows.shape[2]; ++h) {
        const base::RowSource source = rows.source(b, h);
        for (std::int64_t d = 0; d < rows.shape[3]; ++d) {
          numbers.push_back(base::load_double(source.data, source.dtype,
                                              n * source.row_stride + d * source.dim_stride));
        }
      }
    }
  }
  return numbers;
}

}  // namespace

OwnedResult::OwnedResult(const engine::CheckedCall& call)
    : rank_(call.rank),
      dtype_(computed_in(call.query.dtype)),
      shape_{call.batch, call.seqlen_q, call.num_heads, call.head_dim_v},
      output_(count(shape_[0], shape_[1], shape_[2], shape_[3]) * size_of(dtype_)),
      lse_(count(shape_[0], shape_[1], shape_[2], 1) * size_of(dtype_)) {}

Partial OwnedResult::partial() {
  const TensorView output =
      tensor(output_.data(), dtype_, {shape_[0], shape_[1], shape_[2], shape_[3]});
  TensorView lse = tensor(lse_.data(), dtype_, {shape_[0], shape_[2], shape_[1]});
  if (rank_ == 3) lse = tensor(lse_.data(), dtype_, {shape_[2], shape_[1]});
  if (rank_ == 2) lse = tensor(lse_.data(), dtype_, {shape_[1]});
  return {of_rank(output, rank_), lse};
}

double OwnedResult::output(std::int64_t batch, std::int64_t row, std::int64_t head,
                           std::int64_t d) const {
  return base::load_double(output_.data(), dtype_,
                           ((batch * shape_[1] + row) * shape_[2] + head) * shape_[3] + d);
}

double OwnedResult::lse(std::int64_t batch, std::int64_t row, std::int64_t head) const {
  return base::load_double(lse_.data(), dtype_, (batch * shape_[2] + head) * shape_[1] + row);
}

PlainSoftmax::PlainSoftmax(const engine::CheckedCall& call, const AttentionOptions& options,
                           std::int64_t batch, std::span<const std::int64_t> rows, bool weights)
    : batch_(batch),
      seqlen_q_(call.seqlen_q),
      seqlen_k_(call.seqlen_k),
      heads_(call.num_heads),
      dim_v_(call.head_dim_v),
      rows_(static_cast<std::int64_t>(rows.size())),
      output_(count(call.batch, seqlen_q_, heads_, dim_v_)) {
  const std::vector<double> query = widened(call.query), key = widened(call.key),
                            value = widened(call.value);
  std::vector<double> lse(count(call.batch, heads_, seqlen_q_, 1));
  const TensorView lse_view = tensor(lse.data(), {call.batch, heads_, seqlen_q_});
  Execution whole;
  whole.key_chunk = std::max<std::int64_t>(seqlen_k_, 1);
  const ConstTensorView q = view_of(query, call.query), k = view_of(key, call.key);
  attention(q, k, view_of(value, call.value),
            {tensor(output_.data(), {call.batch, seqlen_q_, heads_, dim_v_}), lse_view}, options,
            whole);
  if (!weights) return;
  weights_.resize(count(call.batch, heads_, rows_, seqlen_k_));
  AttentionWeights into;
  into.weights = tensor(weights_.data(), {call.batch, heads_, rows_, seqlen_k_});
  attention_weights(q, k, lse_view, into,
                    tensor(static_cast<const void*>(rows.data()), DType::kInt64, {rows_}), options);
}

double PlainSoftmax::output(std::int64_t row, std::int64_t head, std::int64_t d) const {
  return output_[static_cast<std::size_t>(((batch_ * seqlen_q_ + row) * heads_ + head) * dim_v_ +
                                          d)];
}

double PlainSoftmax::weight(std::int64_t place, std::int64_t head, std::int64_t key) const {
  return weights_[static_cast<std::size_t>(((batch_ * heads_ + head) * rows_ + place) * seqlen_k_ +
                                           key)];
}

}  // namespace longspan::explain
