// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Random calls of LSH attention: shapes that nothing divides, and every option.
#pragma once

#include <cstdint>
#include <string>

#include "support/lsh_call.h"

namespace longspan::test {

class RandomLshCase {
 public:
  explicit RandomLshCase(std::uint64_t seed);
  std::string text() const;

  LshInputs in;
  Execution execution;
  DType output = DType::kFloat32;
  Layout layout = Layout::kRowMajor;

 private:
  void draw_shape();
  void draw_options();
  void draw_masks();
  void draw_scores();

  Random random_;
  std::int64_t seqlen_q_ = 0, seqlen_k_ = 0, heads_ = 1;
};

}  // namespace longspan::test
