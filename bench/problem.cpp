// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Memory and calls of a problem.
#include "problem.h"

#include <cstring>
#include <random>

#include "base/visit_dtype.h"

namespace longspan::bench {
namespace {

std::size_t bytes_of(DType dtype, std::initializer_list<std::int64_t> shape) {
  std::size_t bytes = size_of(dtype);
  for (const std::int64_t extent : shape) bytes *= static_cast<std::size_t>(extent);
  return bytes;
}

}  // namespace

Array::Array(DType dtype, std::initializer_list<std::int64_t> shape)
    : memory_(bytes_of(dtype, shape)), view_(tensor(memory_.data(), dtype, shape)) {}

void Array::fill_normal(std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  const std::int64_t count = element_count(view_);
  base::visit_floating(view_.dtype, [&](auto tag) {
    auto* numbers = data<decltype(tag)>();
    for (std::int64_t n = 0; n < count; ++n) {
      numbers[n] = base::from_float<decltype(tag)>(normal(engine));
    }
  });
}

void Array::copy_from(const Array& other) {
  std::memcpy(memory_.data(), other.memory_.data(), memory_.size());
}

Problem::Problem(const Shape& shape, Feature feature, bool backward, int copies)
    : shape_(shape),
      query_(shape.dtype, {1, shape.seqlen_q, shape.heads, shape.head_dim}),
      output_(shape.dtype, {1, shape.seqlen_q, shape.heads, shape.head_dim}),
      lse_(DType::kFloat32, {1, shape.heads, shape.seqlen_q}) {
  query_.fill_normal(1);
  for (int n = 0; n < copies; ++n) {
    for (std::deque<Array>* rows : {&keys_, &values_}) {
      rows->emplace_back(shape.dtype, std::initializer_list<std::int64_t>{
                                          1, shape.seqlen_k, shape.heads_kv, shape.head_dim});
      if (n == 0) {
        rows->back().fill_normal(rows == &keys_ ? 2 : 3);
      } else {
        rows->back().copy_from(rows->front());
      }
    }
  }
  feature(shape_, extras_);
  if (!backward) return;
  const auto add = [this](const ConstTensorView& like, DType dtype) {
    const Extents& s = like.shape;
    Array& made =
        like.rank == 1
            ? arrays_of_backward_.emplace_back(dtype, std::initializer_list<std::int64_t>{s[0]})
            : arrays_of_backward_.emplace_back(
                  dtype, std::initializer_list<std::int64_t>{s[0], s[1], s[2], s[3]});
    return made.view();
  };
  add(output_.view(), shape.dtype);
  arrays_of_backward_.front().fill_normal(4);
  gradients_.query = add(query(), shape.dtype);
  gradients_.key = add(key(), shape.dtype);
  gradients_.value = add(value(), shape.dtype);
  if (is_given(options().bias)) gradients_.bias = add(options().bias, DType::kFloat32);
  if (is_given(options().sinks)) gradients_.sinks = add(options().sinks, DType::kFloat32);
}

AttentionPlan Problem::plan(const Execution& execution) const {
  return plan_attention(query(), key(), value(), options(), execution);
}

void Problem::forward(const Execution& execution, int copy) const {
  const auto n = static_cast<std::size_t>(copy);
  attention(query(), keys_[n].view(), values_[n].view(), result(), options(), execution);
}

void Problem::backward(const Execution& execution) const {
  attention_backward(query(), key(), value(), result(), {doutput(), {}}, gradients_, options(),
                     execution);
}

}  // namespace longspan::bench
