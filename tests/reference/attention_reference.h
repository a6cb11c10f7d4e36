// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Exact attention by the literal formulas, one query row at a time over the keys that it may see:
// the truth (float64) that every kernel is measured against, and the same program in float32 as the
// naive same-type algorithm. Forward, and the gradients of the backward pass.
#pragma once

#include <cstdint>
#include <functional>
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
  std::vector<double> deviation;  // root of the sum of its squared terms: see AttentionGradients
  double score_terms = 0;         // the largest sum of the absolute terms of a score
  // score_terms * sum_j |d output / d s_j|: times a roundoff, what rounded scores change.
  std::vector<double> score_effect;
};

// All rows: output to score_effect and numerator [batch, seqlen_q, num_heads, head_dim_v];
// max and sum [batch, seqlen_q, num_heads]; lse [batch, num_heads, seqlen_q].
struct AttentionResult {
  std::vector<double> output, magnitude, deviation, score_effect, lse, numerator, sum, max;
  double score_terms = 0;  // the largest of a row that is finite
};

// One number for each element of query, key, value, bias and sinks, row-major in their own shapes;
// empty for those that the call lacks.
struct GradientSet {
  std::vector<double> query, key, value, bias, sinks;
};

// Gradients, the same sums over the absolute values of their terms (what they are measured against
// where they cancel), and the roots of the sums of their squares (what errors of single terms add
// up to by chance).
struct AttentionGradients {
  GradientSet sum, magnitude, deviation;
  // Of a row's score_terms + |lse|: times a roundoff, the relative error of weights exp(score -
  // lse) of a rounded score and a rounded lse.
  double largest_exponent = 0;
};

enum class Precision { kFloat64, kFloat32 };

// What storing the output in a narrower type does to an element.
using Rounding = std::function<double(double)>;

class Attention {
 public:
  Attention(const ConstTensorView& query, const ConstTensorView& key, const ConstTensorView& value,
            const AttentionOptions& options);

  RowSummary row(std::int64_t batch, std::int64_t head, std::int64_t query,
                 Precision precision = Precision::kFloat64) const;
  AttentionResult all(Precision precision = Precision::kFloat64) const;

  // Of sum(output * doutput) + sum(lse * dlse); dlse may be absent. A backward pass starts from the
  // output that was stored: the naive program of a narrow type takes its D_i from `stored` outputs.
  AttentionGradients gradients(const ConstTensorView& doutput, const ConstTensorView& dlse,
                               Precision precision = Precision::kFloat64,
                               const Rounding& stored = {}) const;

 private:
  // A key that the row may see.
  template <class Real>
  struct Pair {
    std::int64_t key = 0;
    Real score = 0;
    Real slope = 0;          // d score / d (query . key)
    double slope_terms = 0;  // the same with the terms of the softcap's derivative added up
    double score_terms = 0;  // sum of the absolute terms of the score
    Real factor = 1;  // of the weight in the numerator: 0 when dropped, else 1 / (1 - probability)
  };
  template <class Real>
  std::vector<Pair<Real>> pairs_of(std::int64_t batch, std::int64_t head, std::int64_t query) const;
  template <class Real>
  RowSummary row_in(std::int64_t batch, std::int64_t head, std::int64_t query) const;
  template <class Real>
  AttentionGradients gradients_in(const std::vector<double>& doutput,
                                  const std::vector<double>& dlse, const Rounding& stored) const;

  // First elements of rows in query_, key_ and value_, and the bias's element in its own shape.
  const double* query_row(std::int64_t batch, std::int64_t head, std::int64_t query) const;
  const double* key_row(std::int64_t batch, std::int64_t head, std::int64_t key) const;
  const double* value_row(std::int64_t batch, std::int64_t head, std::int64_t key) const;
  std::int64_t kv_row(std::int64_t batch, std::int64_t head, std::int64_t key) const;
  std::int64_t bias_number(std::int64_t batch, std::int64_t head, std::int64_t query,
                           std::int64_t key) const;
  double sink(std::int64_t head) const;
  double bias(std::int64_t batch, std::int64_t head, std::int64_t query, std::int64_t key) const;
  double alibi(std::int64_t batch, std::int64_t head, std::int64_t query, std::int64_t key) const;

  std::int64_t batch_ = 1, seqlen_q_ = 0, seqlen_k_ = 0, heads_ = 1, heads_kv_ = 1, dim_ = 0,
               dim_v_ = 0;
  std::vector<double> query_, key_, value_;  // row-major [batch, seqlen, heads, dim]
  AttentionOptions options_;
};

}  // namespace longspan::reference
