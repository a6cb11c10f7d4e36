// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A pair that stands outside the tiles of gathered rows: a query and the key that it is itself.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>

#include "engine/attention_call.h"

namespace longspan::engine {

// Past this distance the smaller of two parts has weight 0 in float64.
inline constexpr double kNoWeightBelow = 750;

template <class T>
struct OwnPair {
  const T* scores = nullptr;   // [seqlen], scale * query . key; null: there is no such pair
  std::int64_t first_key = 0;  // of query 0; those of the others follow it
  bool added = true;           // `score` is added to what the pair's score would be, or is it
  double score = 0;
  // How often the pair counts, 0 where it is hidden; asked only where it can matter.
  const std::function<double(std::int64_t query)>* count = nullptr;
};

struct OwnScore {
  double score = 0;
  double slope = 0;  // of it over query . key, without scale
};

template <class T>
OwnScore own_score(const AttentionCall<T>& call, const OwnPair<T>& own, std::int64_t batch,
                   std::int64_t head, std::int64_t query) {
  if (!own.added) return {own.score, 0};
  OwnScore result{static_cast<double>(own.scores[query]), 1};
  if (call.softcap > 0) {
    const double part = std::tanh(result.score / call.softcap);
    result = {call.softcap * part, 1 - part * part};
  }
  if (call.alibi_slopes.data != nullptr) {
    const auto distance = static_cast<double>(call.mask->query_position(batch, query) -
                                              call.mask->key_position(own.first_key + query));
    result.score -= call.alibi_slopes.at(batch, head) * std::fabs(distance);
  }
  result.score += own.score;
  return result;
}

}  // namespace longspan::engine
