// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// All terms but dense and predicate say: the keys of a query are one interval, and its two ends
// never move left from one query to the next. Their AND is again of that form, so it is kept as one
// band a document, and the three questions about it are arithmetic on its ends:
//
//     keys ->
//   q . . # # . . . .   begin(i) = max(keys.begin, i + lower)
//   | . . # # # . . .   end(i)   = min(keys.end, i + upper,
//   v . . . # # # . .                  max(step.end, i + step.upper) for each step)
//     . . . . # # # .
//
// keys: lengths and key ranges; lower: left edge of windows; upper: right edge of windows, causal;
// steps: prefixes (flat, then causal).
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "mask/far.h"
#include "mask/tile.h"

namespace longspan::mask {

class Band {
 public:
  Band(Range queries, Range keys) : queries_(queries), keys_(keys) {}

  // AND of one more term. Diagonals are within kFar; key j stands on diagonal j - i of query i.
  void keep_keys(Range keys) noexcept { keys_ = intersect(keys_, keys); }
  void keep_from(std::int64_t diagonal) noexcept;           // j >= i + diagonal
  void keep_before(std::int64_t diagonal) noexcept;         // j < i + diagonal
  void keep_step(std::int64_t end, std::int64_t diagonal);  // j < end or j < i + diagonal

  // Drops queries that see no key and keys that no query sees; false when nothing is left. The rest
  // stays contiguous and without gaps: begin(i + 1) <= begin(i) + 1 <= end(i) for rows that are not
  // empty. What follows relies on it.
  bool trim() noexcept;

  Range queries() const noexcept { return queries_; }
  Range keys() const noexcept { return keys_; }
  Range keys_of(std::int64_t query) const noexcept { return {begin(query), end(query)}; }
  Range queries_of(std::int64_t key) const noexcept;
  // Of a range that meets the band: exactly the keys of some query of it.
  Range keys_of(Range queries) const noexcept;
  bool covers(Range queries, Range keys) const noexcept;  // every pair is visible

 private:
  struct Step {
    std::int64_t end, upper;
  };
  std::int64_t begin(std::int64_t query) const noexcept {
    return std::max(keys_.begin, query + lower_);
  }
  std::int64_t end(std::int64_t query) const noexcept {
    std::int64_t end = std::min(keys_.end, query + upper_);
    for (const Step& step : steps_) end = std::min(end, std::max(step.end, query + step.upper));
    return end;
  }

  Range queries_, keys_;
  std::int64_t lower_ = -kFar;
  std::int64_t upper_ = kFar;
  std::vector<Step> steps_;
};

// Trimmed bands of one batch entry, one a document, in order: their queries are disjoint, and so
// are their keys.
using Bands = std::span<const Band>;

// The bands that have both queries and keys in common with the ranges (not yet: visible pairs).
Bands meeting(Bands bands, Range queries, Range keys) noexcept;

Range visible_keys(Bands bands, Range queries) noexcept;
Coverage coverage(Bands bands, Range queries, Range keys) noexcept;  // exact
void fill_bits(Bands bands, Range queries, Range keys, std::span<std::uint64_t> key_words) noexcept;
// keys_of_lane[l]: the keys of query queries[l], empty where it has no band.
void keys_of_queries(Bands bands, Positions queries, std::span<Range> keys_of_lane) noexcept;

}  // namespace longspan::mask
