// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// One head of attention in float64, row by row, by the definitions: score, softcap, bias, ALiBi,
// mask, softmax, dropout, and the derivative of the loss sum(output * doutput) by each score.
#pragma once

#include <span>
#include <vector>

#include "problem.h"

namespace longspan::bench {

// A row of a query, one number a key. Hidden keys have weight 0.
struct TruthRow {
  std::vector<double> weight;  // P
  std::vector<double> kept;    // 0 or 1 / (1 - dropout): multiplies P before the values
  std::vector<double> slope;   // d score / d (query . key)
  std::vector<double> output;  // one number a dim
  double lse = 0;
  double sink_weight = 0;
};

class HeadTruth {
 public:
  HeadTruth(const Problem& problem, std::int64_t head);

  // Several at once, so that keys and values are read from memory once for all of them.
  std::vector<TruthRow> rows(std::span<const std::int64_t> queries) const;
  TruthRow row(std::int64_t query) const { return rows({&query, 1}).front(); }
  // sum(doutput * output) of the row: D without the gradient of lse.
  double weighted_sum(const TruthRow& row, std::int64_t query) const;
  // d loss / d score of one pair.
  double dscore(const TruthRow& row, std::int64_t query, std::int64_t key, double sum) const;

  double query(std::int64_t i, std::int64_t c) const { return query_[at(i * dim_ + c)]; }
  double key(std::int64_t j, std::int64_t c) const { return key_[at(c * keys_ + j)]; }
  double doutput(std::int64_t i, std::int64_t c) const { return doutput_[at(i * dim_ + c)]; }

 private:
  static std::size_t at(std::int64_t n) { return static_cast<std::size_t>(n); }
  void add_products(std::span<const std::int64_t> queries, std::vector<TruthRow>& rows) const;
  // weight holds query . key before and P after.
  void softmax(std::int64_t query, TruthRow& row) const;
  void add_values(std::vector<TruthRow>& rows) const;

  const Problem& problem_;
  std::int64_t head_, dim_, keys_;
  std::vector<double> query_;    // [query][dim]
  std::vector<double> key_;      // [dim][key]: sums over dims then run over keys side by side
  std::vector<double> value_;    // [key][dim]
  std::vector<double> doutput_;  // [query][dim], empty without a backward
};

// One element of a tensor that broadcasts to [batch 0, head, query, key].
std::int64_t broadcast_offset(const ConstTensorView& view, std::int64_t head, std::int64_t query,
                              std::int64_t key);

}  // namespace longspan::bench
