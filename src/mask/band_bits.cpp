// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Bits of a tile from bands: the queries of a key are an interval, so its word is a difference of
// two masks. Of gathered queries (LSH) the keys of each are an interval; a kernel compares them.
#include <algorithm>

#include "mask/band.h"

namespace longspan::mask {
namespace {

constexpr int kLanes = 64;

std::uint64_t low_bits(std::int64_t count) noexcept {
  return count >= kLanes ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

std::uint64_t lanes_of(Range seeing, Range queries) noexcept {
  const Range lanes = intersect(seeing, queries);
  if (lanes.empty()) return 0;
  return low_bits(lanes.end - queries.begin) & ~low_bits(lanes.begin - queries.begin);
}

void fill_key_by_key(Bands met, Range queries, Range keys,
                     std::span<std::uint64_t> key_words) noexcept {
  const Band* band = nullptr;  // of the last key: neighbours mostly share it
  for (std::int64_t key = keys.begin; key < keys.end; ++key) {
    if (band == nullptr || !band->keys().contains(key)) {
      const auto next = std::partition_point(met.begin(), met.end(),
                                             [&](const Band& b) { return b.keys().end <= key; });
      band = next != met.end() && next->keys().contains(key) ? &*next : nullptr;
    }
    key_words[static_cast<std::size_t>(key - keys.begin)] =
        band != nullptr ? lanes_of(band->queries_of(key), queries) : 0;
  }
}

}  // namespace

void keys_of_queries(Bands bands, Positions queries, std::span<Range> keys_of_lane) noexcept {
  const Band* band = nullptr;  // of the last query: neighbours mostly share it
  for (std::int64_t lane = 0; lane < queries.count; ++lane) {
    const std::int64_t query = queries[lane];
    if (band == nullptr || !band->queries().contains(query)) {
      const auto next = std::partition_point(
          bands.begin(), bands.end(), [&](const Band& b) { return b.queries().end <= query; });
      band = next != bands.end() && next->queries().contains(query) ? &*next : nullptr;
    }
    keys_of_lane[lane] = band != nullptr ? band->keys_of(query) : Range{};
  }
}

// Most runs of neighbouring keys are seen by all queries or by none.
void fill_bits(Bands bands, Range queries, Range keys,
               std::span<std::uint64_t> key_words) noexcept {
  constexpr std::int64_t kRun = 32;
  const Bands met = meeting(bands, queries, kEverywhere);
  for (std::int64_t first = keys.begin; first < keys.end; first += kRun) {
    const Range run{first, std::min(first + kRun, keys.end)};
    const std::span<std::uint64_t> words = key_words.subspan(
        static_cast<std::size_t>(first - keys.begin), static_cast<std::size_t>(run.size()));
    const Coverage seen = coverage(met, queries, run);
    if (seen == Coverage::kPartial) {
      fill_key_by_key(met, queries, run, words);
    } else {
      std::fill(words.begin(), words.end(),
                seen == Coverage::kFull ? low_bits(queries.size()) : std::uint64_t{0});
    }
  }
}

}  // namespace longspan::mask
