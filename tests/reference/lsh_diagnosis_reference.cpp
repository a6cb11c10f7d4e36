// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Pairs counted one by one, and exact attention over all of them.
#include <cmath>

#include "reference/lsh_reference.h"

namespace longspan::reference {

LshRowDiagnosis LshAttention::diagnosis(std::int64_t batch, std::int64_t head,
                                        std::int64_t query) const {
  const Head rows = head_of(batch, head);
  LshRowDiagnosis diagnosis;
  std::vector<Pair> pairs;
  for (std::int64_t key = 0; key < seqlen_k_; ++key) {
    if (!sees(batch, head, query, key)) continue;
    Pair pair;
    pair.key = key;
    pair.total = 1;
    score(rows, query, pair);
    pairs.push_back(pair);
  }
  diagnosis.sees = !pairs.empty();
  for (std::int64_t round = 0; round < rounds(); ++round) {
    const Counts window = window_of(rows, round, query);
    for (Pair& pair : pairs) {
      pair.found += window[pair.key];
      if (shared_ && pair.key == query) continue;
      const std::int64_t bucket = plain()   ? 0
                                  : shared_ ? key_bucket(rows, round, query)
                                            : query_bucket(rows, round, query);
      if (!plain() && key_bucket(rows, round, pair.key) != bucket) continue;
      ++diagnosis.in_one_bucket;
      if (window[pair.key] == 0) ++diagnosis.cut;
    }
  }
  const Row exact = row_of(rows, pairs, -1);
  diagnosis.exact = exact.output;
  double mass = 0, recalled = 0, recalled_pairs = 0, largest = -HUGE_VAL;
  for (const Pair& pair : pairs) largest = std::fmax(largest, pair.score);
  for (const Pair& pair : pairs) {
    const double weight = std::exp(pair.score - largest);
    mass += weight;
    if (pair.found > 0 || is_local(batch, query, pair.key)) {
      recalled += weight;
      ++recalled_pairs;
    }
    if (pair.found == 0 || (shared_ && pair.key == query)) continue;
    ++diagnosis.found;
    diagnosis.finds += pair.found;
  }
  diagnosis.recalled_mass = recalled / mass;
  diagnosis.recalled_pairs = recalled_pairs / static_cast<double>(pairs.size());
  return diagnosis;
}

}  // namespace longspan::reference
