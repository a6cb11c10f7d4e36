// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Samples rows, compares them, adds up squares.
#include "truth.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "head_truth.h"
#include "reference/attention_reference.h"
#include "together.h"

namespace longspan::bench {
namespace {

constexpr std::int64_t kBatch = 8;  // queries computed together

// Everything that is a sum over the queries of one head, for the sampled keys.
struct KeySums {
  std::vector<std::int64_t> keys;
  std::vector<double> dkey, dvalue;  // [sample][dim]
  double dsink = 0;

  explicit KeySums(const Shape& shape) {
    for (int n = 0; n < kGradientRows; ++n) keys.push_back(spread(n, shape.seqlen_k));
    dkey.assign(keys.size() * static_cast<std::size_t>(shape.head_dim), 0.0);
    dvalue = dkey;
  }
  void add(const KeySums& other) {
    for (std::size_t n = 0; n < dkey.size(); ++n) {
      dkey[n] += other.dkey[n];
      dvalue[n] += other.dvalue[n];
    }
    dsink += other.dsink;
  }
  void add(const HeadTruth& head, const TruthRow& row, std::int64_t query, std::int64_t dim) {
    const double sum = head.weighted_sum(row, query);
    dsink -= row.sink_weight * sum;
    for (std::size_t n = 0; n < keys.size(); ++n) {
      const auto j = static_cast<std::size_t>(keys[n]);
      if (row.weight[j] == 0) continue;
      const double dscore = head.dscore(row, query, keys[n], sum) * row.slope[j];
      const double weight = row.weight[j] * row.kept[j];
      for (std::int64_t c = 0; c < dim; ++c) {
        const std::size_t at = n * static_cast<std::size_t>(dim) + static_cast<std::size_t>(c);
        dkey[at] += dscore * head.query(query, c);
        dvalue[at] += weight * head.doutput(query, c);
      }
    }
  }
};

KeySums sums_of_head(const Problem& problem, const HeadTruth& head, int threads) {
  KeySums all(problem.shape());
  std::mutex mutex;
  run_together(threads, [&](int t) {
    KeySums mine(problem.shape());
    for (std::int64_t first = t * kBatch; first < problem.shape().seqlen_q;
         first += threads * kBatch) {
      std::vector<std::int64_t> queries;
      for (std::int64_t i = first; i < std::min(first + kBatch, problem.shape().seqlen_q); ++i) {
        queries.push_back(i);
      }
      const std::vector<TruthRow> rows = head.rows(queries);
      for (std::size_t n = 0; n < rows.size(); ++n) {
        mine.add(head, rows[n], queries[n], problem.shape().head_dim);
      }
    }
    const std::lock_guard lock(mutex);
    all.add(mine);
  });
  return all;
}

void check_keys(const Problem& problem, int threads, double tolerance, AnswerError& error) {
  const Shape& shape = problem.shape();
  const Gradients& found = problem.gradients();
  const std::int64_t group = shape.heads / shape.heads_kv;
  const std::int64_t head_kv = shape.heads_kv - 1;
  KeySums sums(shape);
  Difference dsinks;
  for (std::int64_t h = head_kv * group; h < shape.heads; ++h) {
    const KeySums of_head = sums_of_head(problem, HeadTruth(problem, h), threads);
    sums.add(of_head);
    if (is_given(found.sinks)) {
      dsinks.add(reference::read_element(found.sinks, h * found.sinks.strides[0]), of_head.dsink);
    }
  }
  Difference dkey;
  Difference dvalue;
  for (std::size_t n = 0; n < sums.keys.size(); ++n) {
    for (std::int64_t c = 0; c < shape.head_dim; ++c) {
      const std::size_t at =
          n * static_cast<std::size_t>(shape.head_dim) + static_cast<std::size_t>(c);
      dkey.add(read(found.key, sums.keys[n], head_kv, c), sums.dkey[at]);
      dvalue.add(read(found.value, sums.keys[n], head_kv, c), sums.dvalue[at]);
    }
  }
  include(error, dkey, tolerance);
  include(error, dvalue, tolerance);
  if (is_given(found.sinks)) include(error, dsinks, tolerance);
}

void check_queries(const Problem& problem, double tolerance, AnswerError& error) {
  const Shape& shape = problem.shape();
  const HeadTruth head(problem, 0);
  Difference dquery;
  for (int n = 0; n < kGradientRows; ++n) {
    const std::int64_t i = spread(n, shape.seqlen_q);
    const TruthRow row = head.row(i);
    const double sum = head.weighted_sum(row, i);
    std::vector<double> truth(static_cast<std::size_t>(shape.head_dim), 0.0);
    for (std::int64_t j = 0; j < shape.seqlen_k; ++j) {
      const double weight = row.weight[static_cast<std::size_t>(j)];
      if (weight == 0) continue;
      const double dscore = head.dscore(row, i, j, sum) * row.slope[static_cast<std::size_t>(j)];
      for (std::int64_t c = 0; c < shape.head_dim; ++c) {
        truth[static_cast<std::size_t>(c)] += dscore * head.key(j, c);
      }
    }
    for (std::int64_t c = 0; c < shape.head_dim; ++c) {
      dquery.add(read(problem.gradients().query, i, 0, c), truth[static_cast<std::size_t>(c)]);
    }
  }
  include(error, dquery, tolerance);
}

// One row of the bias, summed over the heads that share it.
void check_bias(const Problem& problem, double tolerance, AnswerError& error) {
  const TensorView& found = problem.gradients().bias;
  const Shape& shape = problem.shape();
  const std::int64_t query = shape.seqlen_q / 3;
  const std::int64_t heads = found.shape[1] == 1 ? shape.heads : 1;
  std::vector<double> truth(static_cast<std::size_t>(shape.seqlen_k), 0.0);
  for (std::int64_t h = 0; h < heads; ++h) {
    const HeadTruth head(problem, h);
    const TruthRow row = head.row(query);
    const double sum = head.weighted_sum(row, query);
    for (std::int64_t j = 0; j < shape.seqlen_k; ++j) {
      truth[static_cast<std::size_t>(j)] += head.dscore(row, query, j, sum);
    }
  }
  Difference dbias;
  for (std::int64_t j = 0; j < shape.seqlen_k; ++j) {
    dbias.add(reference::read_element(found, broadcast_offset(found, 0, query, j)),
              truth[static_cast<std::size_t>(j)]);
  }
  include(error, dbias, tolerance);
}

}  // namespace

AnswerError check_forward(const Problem& problem) {
  const Shape& shape = problem.shape();
  const Tolerance tolerance = tolerance_of(shape.dtype);
  const std::int64_t heads = std::min<std::int64_t>(shape.heads, 4);
  AnswerError error;
  Difference output;
  for (std::int64_t n = 0; n < heads; ++n) {
    const std::int64_t h = n * (shape.heads - 1) / std::max<std::int64_t>(heads - 1, 1);
    const HeadTruth head(problem, h);
    for (std::int64_t sample = 0; sample < kForwardRows / heads; ++sample) {
      const std::int64_t i = spread(sample * heads + n, shape.seqlen_q);
      const TruthRow row = head.row(i);
      for (std::int64_t c = 0; c < shape.head_dim; ++c) {
        output.add(read(problem.result().output, i, h, c), row.output[static_cast<std::size_t>(c)]);
      }
      const TensorView& lse = problem.result().lse;
      include_lse(error, reference::read_element(lse, h * lse.strides[1] + i), row.lse, tolerance);
    }
  }
  include(error, output, tolerance.output);
  return error;
}

AnswerError check_backward(const Problem& problem, int threads) {
  const double tolerance = tolerance_of(problem.shape().dtype).gradient;
  AnswerError error;
  check_keys(problem, threads, tolerance, error);
  check_queries(problem, tolerance, error);
  if (is_given(problem.gradients().bias)) check_bias(problem, tolerance, error);
  return error;
}

}  // namespace longspan::bench
