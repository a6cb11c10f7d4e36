// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The formulas of include/longspan/attention.h, each where it stands there.
#include "head_truth.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "answer_error.h"
#include "reference/attention_reference.h"
#include "reference/mask_reference.h"
#include "reference/philox_reference.h"

namespace longspan::bench {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

// What dropout makes of a weight (batch 0).
double dropout_factor(const Dropout& dropout, std::int64_t head, std::int64_t query,
                      std::int64_t key) {
  if (dropout.probability == 0) return 1;
  return reference::keeps(dropout, 0, head, query, key) ? 1 / (1 - dropout.probability) : 0;
}

std::vector<double> rows_of(const ConstTensorView& view, std::int64_t head) {
  std::vector<double> rows;
  rows.reserve(static_cast<std::size_t>(view.shape[1] * view.shape[3]));
  for (std::int64_t i = 0; i < view.shape[1]; ++i) {
    for (std::int64_t c = 0; c < view.shape[3]; ++c) rows.push_back(read(view, i, head, c));
  }
  return rows;
}

}  // namespace

std::int64_t broadcast_offset(const ConstTensorView& view, std::int64_t head, std::int64_t query,
                              std::int64_t key) {
  const Extents index{0, head, query, key};
  std::int64_t offset = 0;
  for (int axis = 0; axis < view.rank; ++axis) {  // axes are aligned at the right
    if (view.shape[axis] != 1) offset += index[axis + kMaxRank - view.rank] * view.strides[axis];
  }
  return offset;
}

HeadTruth::HeadTruth(const Problem& problem, std::int64_t head)
    : problem_(problem),
      head_(head),
      dim_(problem.shape().head_dim),
      keys_(problem.shape().seqlen_k),
      query_(rows_of(problem.query(), head)) {
  const std::int64_t head_kv = head / (problem.shape().heads / problem.shape().heads_kv);
  value_ = rows_of(problem.value(), head_kv);
  for (std::int64_t c = 0; c < dim_; ++c) {
    for (std::int64_t j = 0; j < keys_; ++j) key_.push_back(read(problem.key(), j, head_kv, c));
  }
  if (is_given(problem.gradients().query)) doutput_ = rows_of(problem.doutput(), head);
}

std::vector<TruthRow> HeadTruth::rows(std::span<const std::int64_t> queries) const {
  std::vector<TruthRow> rows(queries.size());
  for (TruthRow& row : rows) {
    row.weight.assign(at(keys_), 0.0);
    row.output.assign(at(dim_), 0.0);
  }
  add_products(queries, rows);
  for (std::size_t n = 0; n < rows.size(); ++n) softmax(queries[n], rows[n]);
  add_values(rows);
  return rows;
}

void HeadTruth::add_products(std::span<const std::int64_t> queries,
                             std::vector<TruthRow>& rows) const {
  constexpr std::int64_t kBlock = 512;  // 8 rows of sums and one of keys stay in a 48 KiB cache
  for (std::int64_t first = 0; first < keys_; first += kBlock) {
    const std::int64_t last = std::min(first + kBlock, keys_);
    for (std::int64_t c = 0; c < dim_; ++c) {
      const double* keys = &key_[at(c * keys_)];
      for (std::size_t n = 0; n < rows.size(); ++n) {
        const double factor = query_[at(queries[n] * dim_ + c)];
        double* sums = rows[n].weight.data();
        for (std::int64_t j = first; j < last; ++j) sums[j] += factor * keys[j];
      }
    }
  }
}

void HeadTruth::softmax(std::int64_t query, TruthRow& row) const {
  const AttentionOptions& options = problem_.options();
  const Shape& shape = problem_.shape();
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(dim_)));
  const double softcap = options.softcap;
  const bool masked = !options.mask.terms().empty();
  std::vector<double>& score = row.weight;
  row.kept.assign(at(keys_), 1.0);
  row.slope.assign(at(keys_), scale);
  double max = -kInf;
  for (std::int64_t j = 0; j < keys_; ++j) {
    double& s = score[at(j)];
    s *= scale;
    if (softcap > 0) {
      const double bent = std::tanh(s / softcap);
      s = softcap * bent;
      row.slope[at(j)] = scale * (1 - bent * bent);
    }
    if (is_given(options.bias)) {
      s += reference::read_element(options.bias, broadcast_offset(options.bias, head_, query, j));
    }
    if (is_given(options.alibi_slopes)) {
      const double slope =
          reference::read_element(options.alibi_slopes, head_ * options.alibi_slopes.strides[0]);
      s -= slope * std::fabs(reference::distance(options.mask, options.query_offset, shape.seqlen_q,
                                                 shape.seqlen_k, 0, query, j));
    }
    if (masked && !reference::may_see(options.mask, options.query_offset, shape.seqlen_q,
                                      shape.seqlen_k, 0, head_, query, j)) {
      s = -kInf;
    }
    row.kept[at(j)] = dropout_factor(options.dropout, head_, query, j);
    max = std::max(max, s);
  }
  double sink = -kInf;
  if (is_given(options.sinks)) {
    sink = reference::read_element(options.sinks, head_ * options.sinks.strides[0]);
    max = std::max(max, sink);
  }
  row.lse = -kInf;
  if (max == -kInf) {
    std::fill(score.begin(), score.end(), 0.0);
    return;
  }
  double sum = std::exp(sink - max);
  row.sink_weight = sum;
  for (double& s : score) {
    s = std::exp(s - max);
    sum += s;
  }
  row.lse = max + std::log(sum);
  row.sink_weight /= sum;
  for (double& s : score) s /= sum;
}

void HeadTruth::add_values(std::vector<TruthRow>& rows) const {
  for (std::int64_t j = 0; j < keys_; ++j) {
    for (TruthRow& row : rows) {
      const double weight = row.weight[at(j)] * row.kept[at(j)];
      if (weight == 0) continue;  // a hidden row of values may hold anything
      double* output = row.output.data();
      for (std::int64_t c = 0; c < dim_; ++c) output[c] += weight * value_[at(j * dim_ + c)];
    }
  }
}

double HeadTruth::weighted_sum(const TruthRow& row, std::int64_t query) const {
  double sum = 0;
  for (std::int64_t c = 0; c < dim_; ++c) sum += doutput(query, c) * row.output[at(c)];
  return sum;
}

double HeadTruth::dscore(const TruthRow& row, std::int64_t query, std::int64_t key,
                         double sum) const {
  double dweight = 0;
  for (std::int64_t c = 0; c < dim_; ++c) {
    dweight += doutput(query, c) * value_[at(key * dim_ + c)];
  }
  return row.weight[at(key)] * (row.kept[at(key)] * dweight - sum);
}

}  // namespace longspan::bench
