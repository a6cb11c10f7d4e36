// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Arithmetic on the ends of bands: trimming, hulls, coverage. No question allocates; each costs one
// binary search over the documents and a few comparisons.
#include "mask/band.h"

#include <algorithm>

namespace longspan::mask {

void Band::keep_from(std::int64_t diagonal) noexcept { lower_ = std::max(lower_, diagonal); }
void Band::keep_before(std::int64_t diagonal) noexcept { upper_ = std::min(upper_, diagonal); }
void Band::keep_step(std::int64_t end, std::int64_t diagonal) { steps_.push_back({end, diagonal}); }

// begin(i) < end(i) is a maximum below a minimum: each of the one must be below each of the other,
// and each such pair bounds i from one side, or holds for all i or for none.
bool Band::trim() noexcept {
  if (lower_ >= upper_) return false;
  queries_.begin = std::max(queries_.begin, keys_.begin - upper_ + 1);
  queries_.end = std::min(queries_.end, keys_.end - lower_);
  for (const Step& step : steps_) {
    if (keys_.begin >= step.end) {
      queries_.begin = std::max(queries_.begin, keys_.begin - step.upper + 1);
    }
    if (lower_ >= step.upper) queries_.end = std::min(queries_.end, step.end - lower_);
  }
  if (queries_.empty() || keys_.empty()) return false;
  keys_ = {begin(queries_.begin), end(queries_.end - 1)};
  return true;
}

Range Band::queries_of(std::int64_t key) const noexcept {
  std::int64_t first = std::max(queries_.begin, key - upper_ + 1);
  for (const Step& step : steps_) {
    if (key >= step.end) first = std::max(first, key - step.upper + 1);
  }
  return {first, std::min(queries_.end, key - lower_ + 1)};
}

Range Band::keys_of(Range queries) const noexcept {
  const Range seeing = intersect(queries, queries_);
  return {begin(seeing.begin), end(seeing.end - 1)};
}

bool Band::covers(Range queries, Range keys) const noexcept {
  return queries_.begin <= queries.begin && queries.end <= queries_.end &&
         begin(queries.end - 1) <= keys.begin && keys.end <= end(queries.begin);
}

Bands meeting(Bands bands, Range queries, Range keys) noexcept {
  if (queries.empty() || keys.empty()) return {};
  const auto first = std::partition_point(bands.begin(), bands.end(), [&](const Band& band) {
    return band.queries().end <= queries.begin || band.keys().end <= keys.begin;
  });
  const auto last = std::partition_point(first, bands.end(), [&](const Band& band) {
    return band.queries().begin < queries.end && band.keys().begin < keys.end;
  });
  return {first, last};
}

Range visible_keys(Bands bands, Range queries) noexcept {
  const Bands met = meeting(bands, queries, kEverywhere);
  if (met.empty()) return {};
  return {met.front().keys_of(queries).begin, met.back().keys_of(queries).end};
}

// Only the first and the last band can be met without a visible pair: those between lie whole
// inside the tile.
Coverage coverage(Bands bands, Range queries, Range keys) noexcept {
  const Bands met = meeting(bands, queries, keys);
  if (met.size() == 1 && met.front().covers(queries, keys)) return Coverage::kFull;
  for (const Band& band : met) {
    if (!intersect(band.keys_of(queries), keys).empty()) return Coverage::kPartial;
  }
  return Coverage::kNone;
}

}  // namespace longspan::mask
