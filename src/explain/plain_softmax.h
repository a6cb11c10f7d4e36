// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Tensors that explain owns: results of a call, and the plain softmax of one batch entry in
// float64 for comparison.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/checked_call.h"
#include "longspan/attention.h"

namespace longspan::explain {

// Output and lse of a call, in the type that it computes in, [batch, ...].
class OwnedResult {
 public:
  explicit OwnedResult(const engine::CheckedCall& call);
  Partial partial();
  double output(std::int64_t batch, std::int64_t row, std::int64_t head, std::int64_t d) const;
  double lse(std::int64_t batch, std::int64_t row, std::int64_t head) const;

 private:
  int rank_;
  DType dtype_;
  Extents shape_;  // of the output, [batch, seqlen_q, num_heads, head_dim_v]
  std::vector<std::byte> output_;
  std::vector<std::byte> lse_;
};

class PlainSoftmax {
 public:
  // Weights of the rows are kept where `weights` is set.
  PlainSoftmax(const engine::CheckedCall& call, const AttentionOptions& options, std::int64_t batch,
               std::span<const std::int64_t> rows, bool weights);
  double output(std::int64_t row, std::int64_t head, std::int64_t d) const;
  // Of rows[place].
  double weight(std::int64_t place, std::int64_t head, std::int64_t key) const;

 private:
  std::int64_t batch_, seqlen_q_, seqlen_k_, heads_, dim_v_, rows_;
  std::vector<double> output_;   // [batch, seqlen_q, heads, head_dim_v]
  std::vector<double> weights_;  // [batch, heads, rows, seqlen_k]
};

}  // namespace longspan::explain
