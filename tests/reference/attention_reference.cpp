// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The formulas of exact attention written out: score, softcap, bias, ALiBi, mask, softmax, dropout,
// weighted mean.
#include "reference/attention_reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "reference/mask_reference.h"
#include "reference/philox_reference.h"

namespace longspan::reference {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

template <class T>
T load(const ConstTensorView& view, std::int64_t offset) {
  T element;
  std::memcpy(&element, static_cast<const char*>(view.data) + offset * std::int64_t{sizeof(T)},
              sizeof(T));
  return element;
}

// sign, exponent and mantissa of an IEEE-like 16-bit number, by the definition.
double decode(std::uint16_t bits, int mantissa_bits, int bias) {
  const int exponent_bits = 15 - mantissa_bits;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) return mantissa != 0 ? kNan : sign * kInf;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

// A tensor of lower rank as [batch, seqlen, heads, dim].
ConstTensorView lifted(const ConstTensorView& view) {
  ConstTensorView four = view;
  four.rank = 4;
  if (view.rank == 3) {
    four.shape = {1, view.shape[0], view.shape[1], view.shape[2]};
    four.strides = {0, view.strides[0], view.strides[1], view.strides[2]};
  } else if (view.rank == 2) {
    four.shape = {1, view.shape[0], 1, view.shape[1]};
    four.strides = {0, view.strides[0], 0, view.strides[1]};
  }
  return four;
}

}  // namespace

double read_element(const ConstTensorView& view, std::int64_t offset) {
  switch (view.dtype) {
    case DType::kFloat32:
      return load<float>(view, offset);
    case DType::kFloat64:
      return load<double>(view, offset);
    case DType::kFloat16:
      return decode(load<std::uint16_t>(view, offset), 10, 15);
    case DType::kBFloat16:
      return decode(load<std::uint16_t>(view, offset), 7, 127);
    case DType::kInt32:
      return load<std::int32_t>(view, offset);
    case DType::kInt64:
      return static_cast<double>(load<std::int64_t>(view, offset));
    case DType::kBool:
      return load<std::uint8_t>(view, offset) != 0 ? 1.0 : 0.0;
  }
  return kNan;
}

std::vector<double> read_all(const ConstTensorView& view) {
  Extents shape{1, 1, 1, 1}, strides{};
  for (int axis = 0; axis < view.rank; ++axis) {
    shape[axis + 4 - view.rank] = view.shape[axis];
    strides[axis + 4 - view.rank] = view.strides[axis];
  }
  std::vector<double> values;
  for (std::int64_t a = 0; a < shape[0]; ++a)
    for (std::int64_t b = 0; b < shape[1]; ++b)
      for (std::int64_t c = 0; c < shape[2]; ++c)
        for (std::int64_t d = 0; d < shape[3]; ++d)
          values.push_back(read_element(
              view, a * strides[0] + b * strides[1] + c * strides[2] + d * strides[3]));
  return values;
}

Attention::Attention(const ConstTensorView& query, const ConstTensorView& key,
                     const ConstTensorView& value, const AttentionOptions& options)
    : query_(read_all(query)), key_(read_all(key)), value_(read_all(value)), options_(options) {
  const ConstTensorView q = lifted(query), k = lifted(key), v = lifted(value);
  batch_ = q.shape[0];
  seqlen_q_ = q.shape[1];
  heads_ = q.shape[2];
  dim_ = q.shape[3];
  seqlen_k_ = k.shape[1];
  heads_kv_ = k.shape[2];
  dim_v_ = v.shape[3];
}

double Attention::bias(std::int64_t batch, std::int64_t head, std::int64_t query,
                       std::int64_t key) const {
  const ConstTensorView& view = options_.bias;
  const Extents index{batch, head, query, key};
  std::int64_t offset = 0;
  for (int axis = 0; axis < view.rank; ++axis) {  // axes are aligned at the right
    if (view.shape[axis] != 1) offset += index[axis + 4 - view.rank] * view.strides[axis];
  }
  return read_element(view, offset);
}

std::int64_t Attention::bias_number(std::int64_t batch, std::int64_t head, std::int64_t query,
                                    std::int64_t key) const {
  const ConstTensorView& view = options_.bias;
  const Extents index{batch, head, query, key};
  std::int64_t number = 0;
  for (int axis = 0; axis < view.rank; ++axis) {
    const std::int64_t at = view.shape[axis] != 1 ? index[axis + 4 - view.rank] : 0;
    number = number * view.shape[axis] + at;
  }
  return number;
}

double Attention::alibi(std::int64_t batch, std::int64_t head, std::int64_t query,
                        std::int64_t key) const {
  const ConstTensorView& slopes = options_.alibi_slopes;
  const double slope =
      read_element(slopes, slopes.rank == 1 ? head * slopes.strides[0]
                                            : batch * slopes.strides[0] + head * slopes.strides[1]);
  return -slope * std::fabs(distance(options_.mask, options_.query_offset, seqlen_q_, seqlen_k_,
                                     batch, query, key));
}

double Attention::sink(std::int64_t head) const {
  return read_element(options_.sinks, head * options_.sinks.strides[0]);
}

std::int64_t Attention::kv_row(std::int64_t batch, std::int64_t head, std::int64_t key) const {
  return (batch * seqlen_k_ + key) * heads_kv_ + head / (heads_ / heads_kv_);
}
const double* Attention::query_row(std::int64_t batch, std::int64_t head,
                                   std::int64_t query) const {
  return &query_[((batch * seqlen_q_ + query) * heads_ + head) * dim_];
}
const double* Attention::key_row(std::int64_t batch, std::int64_t head, std::int64_t key) const {
  return &key_[kv_row(batch, head, key) * dim_];
}
const double* Attention::value_row(std::int64_t batch, std::int64_t head, std::int64_t key) const {
  return &value_[kv_row(batch, head, key) * dim_v_];
}

template <class Real>
std::vector<Attention::Pair<Real>> Attention::pairs_of(std::int64_t batch, std::int64_t head,
                                                       std::int64_t query) const {
  const auto scale =
      static_cast<Real>(options_.scale.value_or(1.0 / std::sqrt(static_cast<double>(dim_))));
  const auto softcap = static_cast<Real>(options_.softcap);
  const Dropout& dropout = options_.dropout;
  const double* query_elements = query_row(batch, head, query);

  std::vector<Pair<Real>> pairs;
  for (std::int64_t key = 0; key < seqlen_k_; ++key) {
    if (!may_see(options_.mask, options_.query_offset, seqlen_q_, seqlen_k_, batch, head, query,
                 key)) {
      continue;
    }
    const double added = is_given(options_.bias) ? bias(batch, head, query, key) : 0.0;
    if (added == -kInf) continue;
    const double* key_elements = key_row(batch, head, key);
    Real dot = 0;
    double dot_terms = 0;
    for (std::int64_t d = 0; d < dim_; ++d) {
      dot += static_cast<Real>(query_elements[d]) * static_cast<Real>(key_elements[d]);
      dot_terms += std::fabs(query_elements[d] * key_elements[d]);
    }
    Pair<Real> pair{key, scale * dot, scale, std::fabs(scale), std::fabs(scale) * dot_terms, 1};
    if (softcap > 0) {
      const Real bent = std::tanh(pair.score / softcap);
      pair.score = softcap * bent;
      pair.slope = scale * (1 - bent * bent);
      pair.slope_terms = std::fabs(scale) * (1 + bent * bent);
      pair.score_terms = (1 - bent * bent) * pair.score_terms + std::fabs(pair.score);
    }
    pair.score += static_cast<Real>(added);
    pair.score_terms += std::fabs(added);
    if (is_given(options_.alibi_slopes)) {
      const double far = alibi(batch, head, query, key);
      pair.score += static_cast<Real>(far);
      pair.score_terms += std::fabs(far);
    }
    if (dropout.probability > 0) {
      const bool kept = keeps(dropout, batch, head, query, key);
      pair.factor = kept ? static_cast<Real>(1 / (1 - dropout.probability)) : 0;
    }
    pairs.push_back(pair);
  }
  return pairs;
}

template std::vector<Attention::Pair<double>> Attention::pairs_of<double>(std::int64_t,
                                                                          std::int64_t,
                                                                          std::int64_t) const;
template std::vector<Attention::Pair<float>> Attention::pairs_of<float>(std::int64_t, std::int64_t,
                                                                        std::int64_t) const;

template <class Real>
RowSummary Attention::row_in(std::int64_t batch, std::int64_t head, std::int64_t query) const {
  const std::vector<Pair<Real>> pairs = pairs_of<Real>(batch, head, query);
  RowSummary summary;
  summary.numerator = summary.output = std::vector<double>(dim_v_, 0.0);
  summary.magnitude = summary.deviation = summary.score_effect = summary.output;
  summary.max = summary.lse = -kInf;
  if (pairs.empty() && !is_given(options_.sinks)) return summary;

  Real max = is_given(options_.sinks) ? static_cast<Real>(sink(head)) : pairs.front().score;
  for (const Pair<Real>& pair : pairs) max = std::max(max, pair.score);
  Real sum = is_given(options_.sinks) ? std::exp(static_cast<Real>(sink(head)) - max) : Real{0};
  std::vector<Real> numerator(dim_v_, Real{0});
  for (const Pair<Real>& pair : pairs) {
    const Real weight =
        std::exp(pair.score - max);  // NaN for a score of NaN or +inf: so is the row
    sum += weight;
    const double* value_elements = value_row(batch, head, pair.key);
    for (std::int64_t d = 0; d < dim_v_; ++d) {
      numerator[d] += weight * pair.factor * static_cast<Real>(value_elements[d]);
      summary.magnitude[d] += weight * pair.factor * std::fabs(value_elements[d]);
    }
  }
  summary.max = max;
  summary.sum = sum;
  summary.lse = max + std::log(sum);
  for (std::int64_t d = 0; d < dim_v_; ++d) {
    summary.numerator[d] = numerator[d];
    summary.output[d] = numerator[d] / sum;
    summary.magnitude[d] /= sum;
  }
  for (const Pair<Real>& pair : pairs) {
    summary.score_terms = std::max(summary.score_terms, pair.score_terms);
  }
  for (const Pair<Real>& pair : pairs) {
    const double weight = std::exp(pair.score - max) / sum;
    const double* value_elements = value_row(batch, head, pair.key);
    for (std::int64_t d = 0; d < dim_v_; ++d) {
      const double value = pair.factor * value_elements[d];
      summary.deviation[d] = std::hypot(summary.deviation[d], weight * value);
      summary.score_effect[d] +=
          summary.score_terms * weight * std::fabs(value - summary.output[d]);
    }
  }
  return summary;
}

template RowSummary Attention::row_in<double>(std::int64_t, std::int64_t, std::int64_t) const;
template RowSummary Attention::row_in<float>(std::int64_t, std::int64_t, std::int64_t) const;

RowSummary Attention::row(std::int64_t batch, std::int64_t head, std::int64_t query,
                          Precision precision) const {
  return precision == Precision::kFloat64 ? row_in<double>(batch, head, query)
                                          : row_in<float>(batch, head, query);
}

AttentionResult Attention::all(Precision precision) const {
  AttentionResult result;
  result.lse.resize(batch_ * heads_ * seqlen_q_);
  for (std::int64_t b = 0; b < batch_; ++b) {
    for (std::int64_t i = 0; i < seqlen_q_; ++i) {
      for (std::int64_t h = 0; h < heads_; ++h) {
        const RowSummary summary = row(b, h, i, precision);
        result.max.push_back(summary.max);
        result.sum.push_back(summary.sum);
        result.lse[(b * heads_ + h) * seqlen_q_ + i] = summary.lse;
        if (std::isfinite(summary.score_terms)) {
          result.score_terms = std::max(result.score_terms, summary.score_terms);
        }
        result.numerator.insert(result.numerator.end(), summary.numerator.begin(),
                                summary.numerator.end());
        result.output.insert(result.output.end(), summary.output.begin(), summary.output.end());
        result.magnitude.insert(result.magnitude.end(), summary.magnitude.begin(),
                                summary.magnitude.end());
        result.deviation.insert(result.deviation.end(), summary.deviation.begin(),
                                summary.deviation.end());
        result.score_effect.insert(result.score_effect.end(), summary.score_effect.begin(),
                                   summary.score_effect.end());
      }
    }
  }
  return result;
}

}  // namespace longspan::reference
