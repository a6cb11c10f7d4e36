// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Inputs, outputs and options of one call of LSH attention that is checked and timed: shared query
// and key, causal, chunks of 64. Layout [1, seqlen, heads, head_dim], N(0, 1), always the same
// numbers.
#pragma once

#include <deque>

#include "longspan/lsh_attention.h"
#include "problem.h"

namespace longspan::bench {

class LshProblem {
 public:
  // Reads heads, seqlen_q, head_dim and dtype of the shape.
  LshProblem(const Shape& shape, const LshOptions& options, bool backward);

  const Shape& shape() const { return shape_; }
  const LshOptions& options() const { return options_; }
  ConstTensorView query_key() const { return query_key_.view(); }
  ConstTensorView value() const { return value_.view(); }
  Partial result() const { return {output_.view(), lse_.view()}; }
  ConstTensorView doutput() const {  // absent without a backward pass
    return arrays_of_backward_.empty() ? ConstTensorView() : arrays_of_backward_[0].view();
  }
  const Gradients& gradients() const { return gradients_; }
  ConstTensorView buckets() const { return buckets_.view(); }  // after hash()

  LshPlan plan(bool backward, const Execution& execution) const;
  void forward(const Execution& execution) const;
  void backward(const Execution& execution) const;  // forward must have been run
  void hash(const Execution& execution) const;
  void sort(const Execution& execution) const;  // after hash()

 private:
  Shape shape_;
  LshOptions options_;
  AttentionOptions attention_;
  Array query_key_, value_, output_, lse_;
  Array buckets_, order_;                 // [1, heads, num_hashes, seqlen]
  std::deque<Array> arrays_of_backward_;  // doutput and two gradients
  Gradients gradients_;
};

}  // namespace longspan::bench
