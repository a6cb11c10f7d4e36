// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Inputs, outputs and options of one call that is checked and timed. Layout [1, seqlen, heads,
// head_dim], N(0, 1), always the same numbers.
#pragma once

#include <cstdint>
#include <deque>
#include <initializer_list>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "longspan/attention.h"

namespace longspan::bench {

struct Shape {
  std::int64_t heads = 8;
  std::int64_t heads_kv = 8;
  std::int64_t seqlen_q = 4096;
  std::int64_t seqlen_k = 4096;
  std::int64_t head_dim = 64;
  DType dtype = DType::kFloat32;
};

// A tensor with its memory.
class Array {
 public:
  Array(DType dtype, std::initializer_list<std::int64_t> shape);
  const TensorView& view() const { return view_; }
  void fill_normal(std::uint64_t seed);
  void copy_from(const Array& other);  // of the same shape and dtype
  template <class T>
  T* data() const {
    return static_cast<T*>(view_.data);
  }

 private:
  base::Buffer memory_;
  TensorView view_;
};

// What a call asks for beyond its three inputs. The options refer to the arrays.
struct Extras {
  AttentionOptions options;
  std::deque<Array> arrays;  // never move
  Array& add(DType dtype, std::initializer_list<std::int64_t> shape) {
    return arrays.emplace_back(dtype, shape);
  }
};
using Feature = void (*)(const Shape& shape, Extras& extras);

class Problem {
 public:
  // `copies` of key and value, for calls that must find none of them in a cache.
  Problem(const Shape& shape, Feature feature, bool backward, int copies = 1);

  const Shape& shape() const { return shape_; }
  const AttentionOptions& options() const { return extras_.options; }
  ConstTensorView query() const { return query_.view(); }
  ConstTensorView key() const { return keys_.front().view(); }
  ConstTensorView value() const { return values_.front().view(); }
  Partial result() const { return {output_.view(), lse_.view()}; }
  ConstTensorView doutput() const { return arrays_of_backward_[0].view(); }
  const Gradients& gradients() const { return gradients_; }
  int copies() const { return static_cast<int>(keys_.size()); }

  AttentionPlan plan(const Execution& execution) const;
  void forward(const Execution& execution, int copy = 0) const;
  void backward(const Execution& execution) const;  // forward must have been run

 private:
  Shape shape_;
  Extras extras_;
  Array query_;
  std::deque<Array> keys_;
  std::deque<Array> values_;
  Array output_;
  Array lse_;
  std::deque<Array> arrays_of_backward_;
  Gradients gradients_;
};

}  // namespace longspan::bench
