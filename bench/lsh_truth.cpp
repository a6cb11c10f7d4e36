// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The formulas of include/longspan/lsh_attention.h for a window of the chunk and the one before,
// wrap none, key norm rms, self rule added, de-duplication exact or none.
#include "lsh_truth.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "reference/attention_reference.h"
#include "reference/lsh_reference.h"

namespace longspan::bench {
namespace {

// Products that are nearer to each other than this, in lengths of the vector, may change places.
constexpr double kRounding = 1e-5;

std::size_t at(std::int64_t n) { return static_cast<std::size_t>(n); }

struct Pair {
  std::int64_t key = 0;
  double count = 0;  // of its exponential
  double score = 0;
  double weight = 0;  // softmax
};
struct Row {
  std::vector<Pair> pairs;
  std::vector<double> output;
  double lse = 0;
};

class LshHead {
 public:
  LshHead(const LshRows& rows, std::int64_t head)
      : rows_(rows), head_(head), dim_(rows.query_key.shape[3]) {
    const ConstTensorView& buckets = rows.buckets;
    const std::int64_t seqlen = rows.query_key.shape[1];
    for (std::int64_t round = 0; round < rows.options.num_hashes; ++round) {
      const auto* bucket = static_cast<const std::int32_t*>(buckets.data) +
                           head * buckets.strides[1] + round * buckets.strides[2];
      std::vector<std::int64_t>& order = orders_.emplace_back(at(seqlen));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](std::int64_t a, std::int64_t b) { return bucket[a] < bucket[b]; });
      std::vector<std::int64_t>& places = places_.emplace_back(at(seqlen));
      for (std::int64_t place = 0; place < seqlen; ++place) places[at(order[at(place)])] = place;
    }
  }

  std::vector<double> query(std::int64_t i) const { return row_of(rows_.query_key, i); }
  std::vector<double> value(std::int64_t i) const { return row_of(rows_.value, i); }
  std::vector<double> doutput(std::int64_t i) const { return row_of(rows_.doutput, i); }
  std::vector<double> key(std::int64_t i) const {
    return reference::normalized_rows(query(i), dim_, KeyNorm::kRms);
  }

  Row row(std::int64_t i) const {
    std::map<std::int64_t, double> found;
    for_neighbours(i, -1, 0, [&](std::int64_t j) {
      if (j <= i) ++found[j];
    });
    Row row;
    row.output.assign(at(dim_), 0.0);
    const std::vector<double> q = query(i);
    double max = -std::numeric_limits<double>::infinity();
    for (const auto& [j, times] : found) {
      const double score = dot(q, key(j)) + (i == j ? rows_.options.self_score : 0.0);
      max = std::max(max, score);
      row.pairs.push_back({j, rows_.options.dedup == Dedup::kNone ? times : 1.0, score, 0});
    }
    double sum = 0;
    for (const Pair& pair : row.pairs) sum += pair.count * std::exp(pair.score - max);
    for (Pair& pair : row.pairs) {
      pair.weight = pair.count * std::exp(pair.score - max) / sum;
      add(row.output, pair.weight, value(pair.key));
    }
    row.lse = max + std::log(sum);
    return row;
  }

  // d loss / d score of each pair of the row.
  std::vector<double> dscores(const Row& row, std::int64_t i) const {
    const std::vector<double> g = doutput(i);
    const double sum = dot(g, row.output);
    std::vector<double> dscores;
    dscores.reserve(row.pairs.size());
    for (const Pair& pair : row.pairs) {
      dscores.push_back(pair.weight * (dot(g, value(pair.key)) - sum));
    }
    return dscores;
  }

  std::set<std::int64_t> queries_that_see(std::int64_t j) const {
    std::set<std::int64_t> queries;
    for_neighbours(j, 0, 1, [&](std::int64_t i) {
      if (j <= i) queries.insert(i);
    });
    return queries;
  }

  static double dot(const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  }
  static void add(std::vector<double>& to, double factor, const std::vector<double>& from) {
    for (std::size_t c = 0; c < to.size(); ++c) to[c] += factor * from[c];
  }

 private:
  std::vector<double> row_of(const ConstTensorView& view, std::int64_t i) const {
    std::vector<double> row;
    row.reserve(static_cast<std::size_t>(dim_));
    for (std::int64_t c = 0; c < dim_; ++c) row.push_back(read(view, i, head_, c));
    return row;
  }

  // Positions of the chunks `first` to `last` from that of i, in every round.
  template <class Visit>
  void for_neighbours(std::int64_t i, std::int64_t first, std::int64_t last,
                      const Visit& visit) const {
    const std::int64_t length = rows_.options.chunk_len;
    for (std::size_t round = 0; round < orders_.size(); ++round) {
      const std::int64_t chunk = places_[round][at(i)] / length;
      const auto seqlen = static_cast<std::int64_t>(orders_[round].size());
      const std::int64_t end = std::min((chunk + last + 1) * length, seqlen);
      for (std::int64_t place = std::max<std::int64_t>((chunk + first) * length, 0); place < end;
           ++place) {
        visit(orders_[round][at(place)]);
      }
    }
  }

  LshRows rows_;
  std::int64_t head_, dim_;
  std::vector<std::vector<std::int64_t>> orders_, places_;  // by round
};

void compare(Difference& difference, const ConstTensorView& found, std::int64_t row,
             std::int64_t head, const std::vector<double>& expected) {
  for (std::size_t c = 0; c < expected.size(); ++c) {
    difference.add(read(found, row, head, static_cast<std::int64_t>(c)), expected[c]);
  }
}

LshRows rows_of(const LshProblem& problem) {
  return {problem.options(), problem.query_key(), problem.value(), problem.doutput(),
          problem.buckets()};
}

Tolerance forward_tolerance(DType dtype) {
  Tolerance tolerance = tolerance_of(dtype);
  // Kernels of bfloat16 round normalised keys to it: scores are off by 2^-9 of themselves.
  if (dtype == DType::kBFloat16) tolerance.lse_absolute = 0x1p-6;
  return tolerance;
}

// The heads of which rows are compared: the first, the last, and some between them.
std::int64_t sampled_heads(std::int64_t heads) { return std::min<std::int64_t>(heads, 4); }
std::int64_t sampled_head(std::int64_t n, std::int64_t heads) {
  return n * (heads - 1) / std::max<std::int64_t>(sampled_heads(heads) - 1, 1);
}

void compare_lse(AnswerError& error, const ConstTensorView& lse, std::int64_t row,
                 std::int64_t head, double expected, const Tolerance& tolerance) {
  include_lse(error, reference::read_element(lse, head * lse.strides[1] + row), expected,
              tolerance);
}

}  // namespace

AnswerError check_last_row(const LshRows& rows, const Partial& result) {
  const Tolerance tolerance = forward_tolerance(rows.query_key.dtype);
  const std::int64_t heads = rows.query_key.shape[2];
  AnswerError error;
  Difference output;
  for (std::int64_t n = 0; n < sampled_heads(heads); ++n) {
    const std::int64_t h = sampled_head(n, heads);
    const Row row = LshHead(rows, h).row(rows.query_key.shape[1] - 1);
    compare(output, result.output, 0, h, row.output);
    compare_lse(error, result.lse, 0, h, row.lse, tolerance);
  }
  include(error, output, tolerance.output);
  return error;
}

bool right_buckets(const LshProblem& problem) {
  constexpr std::int64_t kRows = 16;
  const Shape& shape = problem.shape();
  const std::vector<std::int64_t> factors =
      choose_num_buckets(shape.seqlen_q, problem.options().chunk_len);
  const std::int64_t rounds = problem.options().num_hashes;
  const std::int64_t columns = std::accumulate(factors.begin(), factors.end(), std::int64_t{0}) / 2;
  const Array rotations(DType::kFloat32, {shape.heads, shape.head_dim, rounds, columns});
  draw_rotations(rotations.view(), problem.options().seed);
  ConstTensorView rows = problem.query_key();
  const std::int64_t step = shape.seqlen_q / kRows;
  rows.shape[1] = kRows;
  rows.strides[1] *= step;
  const reference::Hashed truth = reference::hash_buckets(rows, rotations.view(), factors);
  const auto* found = static_cast<const std::int32_t*>(problem.buckets().data);
  std::size_t compared = 0;
  for (std::size_t n = 0; n < truth.buckets.size(); ++n) {
    const std::size_t list = n / kRows, row = n % kRows;  // lists of head and round
    if (truth.gaps[n] < kRounding) continue;
    if (found[list * at(shape.seqlen_q) + row * at(step)] != truth.buckets[n]) return false;
    ++compared;
  }
  return compared > 0;
}

AnswerError check_forward(const LshProblem& problem) {
  const Shape& shape = problem.shape();
  const Tolerance tolerance = forward_tolerance(shape.dtype);
  const std::int64_t heads = sampled_heads(shape.heads);
  AnswerError error;
  Difference output;
  for (std::int64_t n = 0; n < heads; ++n) {
    const std::int64_t h = sampled_head(n, shape.heads);
    const LshHead head(rows_of(problem), h);
    for (std::int64_t sample = 0; sample < kForwardRows / heads; ++sample) {
      const std::int64_t i = spread(sample * heads + n, shape.seqlen_q);
      const Row row = head.row(i);
      compare(output, problem.result().output, i, h, row.output);
      compare_lse(error, problem.result().lse, i, h, row.lse, tolerance);
    }
  }
  include(error, output, tolerance.output);
  if (!right_buckets(problem)) error.within = false;
  return error;
}

AnswerError check_backward(const LshProblem& problem) {
  const Shape& shape = problem.shape();
  const double tolerance = tolerance_of(shape.dtype).gradient;
  const std::int64_t h = shape.heads - 1;
  const LshHead head(rows_of(problem), h);
  Difference dquery_key, dvalue;
  for (int sample = 0; sample < kGradientRows; ++sample) {
    const std::int64_t p = spread(sample, shape.seqlen_q);
    const auto dim = static_cast<double>(shape.head_dim);
    const std::vector<double> zeros(at(shape.head_dim), 0.0), q = head.query(p), k = head.key(p);
    std::vector<double> dq = zeros, dk = zeros, dv = zeros;
    const Row own = head.row(p);
    const std::vector<double> dscores = head.dscores(own, p);
    for (std::size_t n = 0; n < own.pairs.size(); ++n) {
      LshHead::add(dq, dscores[n], head.key(own.pairs[n].key));
    }
    for (const std::int64_t i : head.queries_that_see(p)) {
      const Row row = head.row(i);
      const auto pair = std::find_if(row.pairs.begin(), row.pairs.end(),
                                     [&](const Pair& each) { return each.key == p; });
      LshHead::add(dk, head.dscores(row, i)[at(pair - row.pairs.begin())], head.query(i));
      LshHead::add(dv, pair->weight, head.doutput(i));
    }
    // k = f q with f = 1 / sqrt(|q|^2 + 1e-6 head_dim), so dq += f (dk - k (k . dk)).
    const double f = 1 / std::sqrt(LshHead::dot(q, q) + 1e-6 * dim);
    LshHead::add(dq, f, dk);
    LshHead::add(dq, -f * LshHead::dot(k, dk), k);
    compare(dquery_key, problem.gradients().query, p, h, dq);
    compare(dvalue, problem.gradients().value, p, h, dv);
  }
  AnswerError error;
  include(error, dquery_key, tolerance);
  include(error, dvalue, tolerance);
  return error;
}

}  // namespace longspan::bench
