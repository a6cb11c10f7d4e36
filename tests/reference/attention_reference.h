// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Exact attention by the literal formulas, one query row at a time over the keys that it may see:
// the truth (float64) that every kernel is measured against, and the same program in float32 as the
// naive same-type algorithm.
#pragma once

#include <cstdint>
#include <vector>

#include "longspan/attention.h"

namespace longspan::reference {

// The element `offset` elements from the view's data, whatever its dtype.
double read_element(const ConstTensorView& view, std::int64_t offset);

// All elements in row-major order of the shape.
std::vector<double> read_all(const ConstTensorView& view);

// One query row. An empty row has max -inf, sum 0, lse -inf and zeros.
struct RowSummary {
  double max = 0;                 // max_j s_j
  double sum = 0;                 // sum_j exp(s_j - max)
  std::vector<double> numerator;  // sum_j exp(s_j - max) value_j
  double lse = 0;                 // max + ln sum
  std::vector<double> output;     // numerator / sum
  std::vector<double>
      magnitude;  // the same with |value_j|: what output is measured against where it cancels
};

// All rows: output, magnitude and numerator [batch, seqlen_q, num_heads, head_dim_v]; max and sum
// [batch, seqlen_q, num_heads]; lse [batch, num_heads, seqlen_q].
struct AttentionResult {
  std::vector<double> output, magnitude, lse, numerator, sum, max;
};

enum class Precision { kFloat64, kFloat32 };

class Attention {
 public:
  Attention(const ConstTensorView& query, const ConstTensorView& key, const ConstTensorView& value,
            const AttentionOptions& options);

  RowSummary row(std::int64_t batch, std::int64_t head, std::int64_t query,
                 Precision precision = Precision::kFloat64) const;
  AttentionResult all(Precision precision = Precision::kFloat64) const;

 private:
  template <class Real>
  RowSummary row_in(std::int64_t batch, std::int64_t head, std::int64_t query) const;
  double bias(std::int64_t batch, std::int64_t head, std::int64_t query, std::int64_t key) const;
  double alibi(std::int64_t batch, std::int64_t head, std::int64_t query, std::int64_t key) const;

  std::int64_t batch_ = 1, seqlen_q_ = 0, seqlen_k_ = 0, heads_ = 1, heads_kv_ = 1, dim_ = 0,
               dim_v_ = 0;
  std::vector<double> query_, key_, value_;  // row-major [batch, seqlen, heads, dim]
  AttentionOptions options_;
};

}  // namespace longspan::reference
