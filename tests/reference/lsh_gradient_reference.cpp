// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Gradients of LSH attention by the formulas of exact attention over the merged lse,
//   P = weight exp(score - lse), dS = P (doutput . value - D), D = doutput . output - dlse,
// and through the normalisation of shared keys. Buckets and weights are constants.
#include <cmath>

#include "reference/attention_reference.h"
#include "reference/lsh_reference.h"

namespace longspan::reference {

LshGradientResult LshAttention::gradients(const ConstTensorView& doutput_view,
                                          const ConstTensorView& dlse_view) const {
  const std::vector<double> doutput = read_all(doutput_view);
  const std::vector<double> dlse = is_given(dlse_view)
                                       ? read_all(dlse_view)
                                       : std::vector<double>(batch_ * heads_ * seqlen_q_, 0.0);
  LshGradientResult result;
  for (LshGradients* into : {&result.sum, &result.magnitude}) {
    into->query.resize(query_.size());
    into->key.resize(key_.size());
    into->value.resize(value_.size());
    if (is_given(attention_.sinks)) into->sinks.resize(heads_);
  }
  for (std::int64_t b = 0; b < batch_; ++b) {
    for (std::int64_t h = 0; h < heads_; ++h) {
      const Head head = head_of(b, h);
      for (std::int64_t i = 0; i < seqlen_q_; ++i) {
        const std::vector<Pair> pairs = pairs_of(head, i);
        const Row row = row_of(head, pairs, -1);
        const std::int64_t q = query_row(head, i) * dim_;
        const double* drow = &doutput[query_row(head, i) * dim_v_];
        double delta = -dlse[(b * heads_ + h) * seqlen_q_ + i], delta_terms = std::fabs(delta);
        for (std::int64_t d = 0; d < dim_v_; ++d) {
          delta += drow[d] * row.output[d];
          delta_terms += std::fabs(drow[d]) * row.magnitude[d];
        }
        for (const Pair& pair : pairs) {
          const std::int64_t k = key_row(head, pair.key) * dim_;
          const std::int64_t v = key_row(head, pair.key) * dim_v_;
          const double p = pair.total * std::exp(pair.score - row.lse);
          double dp = 0, dp_terms = 0;
          for (std::int64_t d = 0; d < dim_v_; ++d) {
            dp += drow[d] * value_[v + d];
            dp_terms += std::fabs(drow[d] * value_[v + d]);
            result.sum.value[v + d] += p * drow[d];
            result.magnitude.value[v + d] += p * std::fabs(drow[d]);
          }
          const double ds = p * (dp - delta) * pair.slope;
          const double ds_terms = p * (dp_terms + delta_terms) * pair.slope_terms;
          for (std::int64_t d = 0; d < dim_; ++d) {
            result.sum.query[q + d] += ds * key_[k + d];
            result.magnitude.query[q + d] += ds_terms * std::fabs(key_[k + d]);
            result.sum.key[k + d] += ds * query_[q + d];
            result.magnitude.key[k + d] += ds_terms * std::fabs(query_[q + d]);
          }
        }
        if (!is_given(attention_.sinks)) continue;
        const double sink = read_element(attention_.sinks, h * attention_.sinks.strides[0]);
        result.sum.sinks[h] -= std::exp(sink - row.lse) * delta;
        result.magnitude.sinks[h] += std::exp(sink - row.lse) * delta_terms;
      }
    }
  }
  if (shared_) add_key_gradient(result);
  return result;
}

// key = x / n, n = sqrt(mean(x^2) + 1e-6) sqrt(dim) or max(|x|, 1e-12): d x = d key / n - x (x . d
// key) / n^3, without the last term where n does not depend on x.
void LshAttention::add_key_gradient(LshGradientResult& result) const {
  const auto dim = static_cast<double>(dim_);
  for (std::size_t row = 0; row < query_.size(); row += static_cast<std::size_t>(dim_)) {
    double squares = 0, dot = 0, dot_terms = 0;
    for (std::int64_t d = 0; d < dim_; ++d) {
      const double x = query_[row + d];
      squares += x * x;
      dot += x * result.sum.key[row + d];
      dot_terms += std::fabs(x) * result.magnitude.key[row + d];
    }
    const bool rms = lsh_.key_norm == KeyNorm::kRms;
    const double n = rms ? std::sqrt(squares + dim * 1e-6) : std::max(std::sqrt(squares), 1e-12);
    const bool depends = rms || std::sqrt(squares) > 1e-12;
    for (std::int64_t d = 0; d < dim_; ++d) {
      const double x = query_[row + d], factor = depends ? x / (n * n * n) : 0.0;
      result.sum.query[row + d] += result.sum.key[row + d] / n - factor * dot;
      result.magnitude.query[row + d] +=
          result.magnitude.key[row + d] / n + std::fabs(factor) * dot_terms;
    }
  }
  for (LshGradients* into : {&result.sum, &result.magnitude}) into->key.clear();
}

}  // namespace longspan::reference
