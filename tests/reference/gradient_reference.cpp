// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The backward pass written out (Dao et al. 2022, with the standard dropout):
// one query row at a time over the keys that it may see.
#include <algorithm>
#include <cmath>

#include "reference/attention_reference.h"

namespace longspan::reference {
namespace {

// A gradient in the type that the program computes in, the sums of the absolute terms and of their
// squares.
template <class Real>
class Sums {
 public:
  explicit Sums(std::int64_t size)
      : sums_(size, Real{0}), magnitudes_(size, 0.0), squares_(size, 0.0) {}
  void add(std::int64_t at, Real term, double magnitude) {
    sums_[at] += term;
    magnitudes_[at] += magnitude;
    squares_[at] += magnitude * magnitude;
  }
  std::vector<double> sums() const { return {sums_.begin(), sums_.end()}; }
  const std::vector<double>& magnitudes() const { return magnitudes_; }
  std::vector<double> deviations() const {
    std::vector<double> roots;
    for (const double square : squares_) roots.push_back(std::sqrt(square));
    return roots;
  }

 private:
  std::vector<Real> sums_;
  std::vector<double> magnitudes_, squares_;
};

}  // namespace

template <class Real>
AttentionGradients Attention::gradients_in(const std::vector<double>& doutput,
                                           const std::vector<double>& dlse,
                                           const Rounding& stored) const {
  const bool has_bias = is_given(options_.bias), has_sinks = is_given(options_.sinks);
  Sums<Real> dquery(std::ssize(query_)), dkey(std::ssize(key_)), dvalue(std::ssize(value_));
  double largest_exponent = 0;
  Sums<Real> dbias(has_bias ? element_count(options_.bias) : 0), dsinks(has_sinks ? heads_ : 0);

  const auto add_row = [&](std::int64_t b, std::int64_t h, std::int64_t i) {
    const RowSummary summary = row_in<Real>(b, h, i);
    if (summary.sum == 0) return;  // sees nothing; a NaN goes on
    const std::int64_t row = (b * seqlen_q_ + i) * heads_ + h;
    const double* doutput_row = &doutput[row * dim_v_];
    const double* query_elements = query_row(b, h, i);
    const auto lse = static_cast<Real>(summary.lse);
    const double exponent = summary.score_terms + std::fabs(summary.lse);
    if (std::isfinite(exponent)) largest_exponent = std::max(largest_exponent, exponent);

    Real d_row = 0;
    double d_magnitude = 0;
    for (std::int64_t d = 0; d < dim_v_; ++d) {
      const double output = stored ? stored(summary.output[d]) : summary.output[d];
      d_row += static_cast<Real>(doutput_row[d]) * static_cast<Real>(output);
      d_magnitude += std::fabs(doutput_row[d] * output);
    }
    if (!dlse.empty()) {
      const double dlse_row = dlse[(b * heads_ + h) * seqlen_q_ + i];
      d_row -= static_cast<Real>(dlse_row);
      d_magnitude += std::fabs(dlse_row);
    }

    if (has_sinks) {  // a key of value 0
      const Real weight = std::exp(static_cast<Real>(sink(h)) - lse);
      dsinks.add(h, -weight * d_row, weight * d_magnitude);
    }
    for (const Pair<Real>& pair : pairs_of<Real>(b, h, i)) {
      const double* key_elements = key_row(b, h, pair.key);
      const double* value_elements = value_row(b, h, pair.key);
      const std::int64_t kv = kv_row(b, h, pair.key);
      const Real weight = std::exp(pair.score - lse);
      Real dweight = 0;
      double dweight_magnitude = 0;
      for (std::int64_t d = 0; d < dim_v_; ++d) {
        dweight += static_cast<Real>(doutput_row[d]) * static_cast<Real>(value_elements[d]);
        dweight_magnitude += std::fabs(doutput_row[d] * value_elements[d]);
        const Real kept = weight * pair.factor;
        dvalue.add(kv * dim_v_ + d, kept * static_cast<Real>(doutput_row[d]),
                   kept * std::fabs(doutput_row[d]));
      }
      const Real dscore = weight * (pair.factor * dweight - d_row);
      const double dscore_magnitude = weight * (pair.factor * dweight_magnitude + d_magnitude);
      if (has_bias) dbias.add(bias_number(b, h, i, pair.key), dscore, dscore_magnitude);
      const Real ddot = dscore * pair.slope;
      const double ddot_magnitude = dscore_magnitude * pair.slope_terms;
      for (std::int64_t d = 0; d < dim_; ++d) {
        dquery.add(row * dim_ + d, ddot * static_cast<Real>(key_elements[d]),
                   ddot_magnitude * std::fabs(key_elements[d]));
        dkey.add(kv * dim_ + d, ddot * static_cast<Real>(query_elements[d]),
                 ddot_magnitude * std::fabs(query_elements[d]));
      }
    }
  };
  for (std::int64_t b = 0; b < batch_; ++b)
    for (std::int64_t h = 0; h < heads_; ++h)
      for (std::int64_t i = 0; i < seqlen_q_; ++i) add_row(b, h, i);

  return {{dquery.sums(), dkey.sums(), dvalue.sums(), dbias.sums(), dsinks.sums()},
          {dquery.magnitudes(), dkey.magnitudes(), dvalue.magnitudes(), dbias.magnitudes(),
           dsinks.magnitudes()},
          {dquery.deviations(), dkey.deviations(), dvalue.deviations(), dbias.deviations(),
           dsinks.deviations()},
          largest_exponent};
}

AttentionGradients Attention::gradients(const ConstTensorView& doutput, const ConstTensorView& dlse,
                                        Precision precision, const Rounding& stored) const {
  const std::vector<double> doutputs = read_all(doutput);
  const std::vector<double> dlses = is_given(dlse) ? read_all(dlse) : std::vector<double>();
  return precision == Precision::kFloat64 ? gradients_in<double>(doutputs, dlses, stored)
                                          : gradients_in<float>(doutputs, dlses, stored);
}

}  // namespace longspan::reference
