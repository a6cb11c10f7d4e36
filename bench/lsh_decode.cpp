// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The cache is filled in pieces: all of its tokens would be as large once more.
#include "lsh_decode.h"

#include <algorithm>

#include "lsh_truth.h"

namespace longspan::bench {
namespace {

constexpr std::int64_t kSteps = 64;
constexpr std::int64_t kPiece = 16384;

Array rows_of(const Shape& shape, std::int64_t tokens) {
  return {shape.dtype, {1, tokens, shape.heads, shape.head_dim}};
}

}  // namespace

LshDecodeProblem::LshDecodeProblem(const Shape& shape, const Execution& execution)
    : shape_(shape),
      cache_({1, shape.heads, shape.head_dim}, shape.dtype, QueryKey::kShared, {},
             shape.seqlen_k + kSteps),
      query_key_(rows_of(shape, kSteps)),
      value_(rows_of(shape, kSteps)),
      output_(rows_of(shape, 1)),
      lse_(DType::kFloat32, {1, shape.heads, 1}) {
  query_key_.fill_normal(1);
  value_.fill_normal(3);
  Array key = rows_of(shape, kPiece), value = rows_of(shape, kPiece);
  for (std::int64_t n = 0; n < shape.seqlen_k; n += kPiece) {
    key.fill_normal(static_cast<std::uint64_t>(2 * n + 5));
    value.fill_normal(static_cast<std::uint64_t>(2 * n + 6));
    ConstTensorView keys = key.view(), values = value.view();
    keys.shape[1] = values.shape[1] = std::min(kPiece, shape.seqlen_k - n);
    cache_.append(keys, values, execution);
  }
}

ConstTensorView LshDecodeProblem::token(const Array& of, std::int64_t step) const {
  ConstTensorView view = of.view();
  view.data = static_cast<const std::byte*>(view.data) +
              step % kSteps * view.strides[1] * static_cast<std::int64_t>(size_of(view.dtype));
  view.shape[1] = 1;
  return view;
}

void LshDecodeProblem::append(std::int64_t step, const Execution& execution) {
  cache_.append(token(query_key_, step), token(value_, step), execution);
}

void LshDecodeProblem::attend(std::int64_t step, const Execution& execution) const {
  cache_.attend(token(query_key_, step), {output_.view(), lse_.view()}, {}, execution);
}

void LshDecodeProblem::attend_to_all(std::int64_t step, const Execution& execution) const {
  attention(token(query_key_, step), cache_.key(), cache_.value(), {output_.view(), lse_.view()},
            {}, execution);
}

void LshDecodeProblem::forget_steps() { cache_.truncate(shape_.seqlen_k); }

std::string LshDecodeProblem::kernel(const Execution& execution) const {
  return plan_attention(token(query_key_, 0), cache_.key(), cache_.value(), {}, execution).kernel;
}

AnswerError LshDecodeProblem::check(const Execution& execution) const {
  const LshOptions& options = cache_.options();
  const Array buckets(DType::kInt32, {1, shape_.heads, options.num_hashes, cache_.length()});
  hash_vectors(cache_.key(), buckets.view(), options, {}, execution);
  return check_last_row({options, cache_.key(), cache_.value(), {}, buckets.view()},
                        {output_.view(), lse_.view()});
}

double LshDecodeProblem::flop() const {
  const LshOptions& options = cache_.options();
  const std::int64_t keys = options.num_hashes * 2 * options.chunk_len;
  return 4.0 * static_cast<double>(shape_.head_dim * shape_.heads * keys);
}

}  // namespace longspan::bench
