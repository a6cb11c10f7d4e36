// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A random call of attention, forward and backward, fully determined by its seed.
#pragma once

#include <string>

#include "support/backward.h"
#include "support/call.h"
#include "support/compare.h"

namespace longspan::test {

struct RandomCase {
  explicit RandomCase(std::uint64_t seed);

  reference::Precision naive_precision() const {
    return inputs.query.view().dtype == DType::kFloat64 ? reference::Precision::kFloat64
                                                        : reference::Precision::kFloat32;
  }

  Inputs inputs;
  Execution execution;
  DType output_dtype = DType::kFloat32;
  Layout output_layout = Layout::kRowMajor;
  std::size_t output_misalignment = 0;
  Derivatives derivatives;    // of the output's dtype
  GradientTensors gradients;  // some absent; the others NaN
  Execution backward;         // how the gradients are computed
  std::string text;           // one line for people

 private:
  void draw_shape(Random& random);
  void draw_tensors(Random& random);
  void draw_offset(Random& random);
  void draw_masks(Random& random);
  void draw_scores(Random& random);
  Execution draw_execution(Random& random);
  void draw_dropout(Random& random);
  void draw_backward(Random& random);
  Tensor draw_broadcast(Random& random, DType dtype);
  void say(const std::string& words) { text += words + "; "; }

  Shape shape_;
  int rank_ = 4;
};

}  // namespace longspan::test
