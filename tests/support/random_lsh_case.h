// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A random call of LSH attention, fully determined by its seed.
#pragma once

#include <string>

#include "support/lsh_call.h"

namespace longspan::test {

class RandomLshCase {
 public:
  explicit RandomLshCase(std::uint64_t seed);

  LshInputs in;
  Execution execution;
  DType output = DType::kFloat32;
  Layout layout = Layout::kRowMajor;

  // The line that repeats it, and what it is.
  std::string text() const;

 private:
  void draw_shape();
  void draw_options();
  void draw_masks();
  void draw_scores();

  std::uint64_t seed_;
  Random random_;
  std::int64_t seqlen_q_ = 0, seqlen_k_ = 0, heads_ = 1;
};

}  // namespace longspan::test
