// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Bits of a tile from bands. Contiguous queries: the queries of a key are an interval, so its word
// is a difference of two masks. Gathered queries (LSH): the keys of each lane are an interval, and
// the lanes are compared one key at a time.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "mask/band.h"

namespace longspan::mask {
namespace {

constexpr int kLanes = 64;

std::uint64_t low_bits(std::int64_t count) noexcept {
  return count >= kLanes ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

std::uint64_t lanes_of(Range seeing, Range rows) noexcept {
  const Range lanes = intersect(seeing, rows);
  if (lanes.empty()) return 0;
  return low_bits(lanes.end - rows.begin) & ~low_bits(lanes.begin - rows.begin);
}

void fill_key_by_key(Bands met, Range rows, Positions keys,
                     std::span<std::uint64_t> key_words) noexcept {
  const Band* band = nullptr;  // of the last key: neighbours mostly share it
  for (std::int64_t k = 0; k < keys.count; ++k) {
    const std::int64_t key = keys[k];
    if (band == nullptr || !band->keys().contains(key)) {
      const auto next = std::partition_point(met.begin(), met.end(),
                                             [&](const Band& b) { return b.keys().end <= key; });
      band = next != met.end() && next->keys().contains(key) ? &*next : nullptr;
    }
    key_words[k] = band != nullptr ? lanes_of(band->queries_of(key), rows) : 0;
  }
}

// Most runs of neighbouring keys are seen by all rows or by none.
void fill_contiguous(Bands bands, Range rows, Positions keys,
                     std::span<std::uint64_t> key_words) noexcept {
  constexpr std::int64_t kRun = 32;
  const Bands met = meeting(bands, rows, kEverywhere);
  if (keys.index != nullptr) return fill_key_by_key(met, rows, keys, key_words);
  for (std::int64_t first = 0; first < keys.count; first += kRun) {
    const Positions run{keys.first + first, std::min(kRun, keys.count - first)};
    const std::span<std::uint64_t> words = key_words.subspan(first, run.count);
    const Coverage seen = coverage(met, rows, {run.first, run.first + run.count});
    if (seen == Coverage::kPartial) {
      fill_key_by_key(met, rows, run, words);
    } else {
      std::fill(words.begin(), words.end(),
                seen == Coverage::kFull ? low_bits(rows.size()) : std::uint64_t{0});
    }
  }
}

// Eight bytes of 0 or 1 to eight bits, the byte at the lowest address to bit 0. Byte l stands at
// bit 8 l; the factor has ones at bits 56 - 7 m (m = 0..7), so products land on 56 + l + 7 (l - m):
// all different, hence no carries, and in the top byte only those with m == l, at 56 + l.
std::uint64_t pack_bytes(const std::uint8_t* bytes) noexcept {
  static_assert(std::endian::native == std::endian::little);
  std::uint64_t eight;
  std::memcpy(&eight, bytes, sizeof eight);
  return (eight * 0x0102040810204080u) >> 56;
}

void fill_gathered(Bands bands, Positions queries, Positions keys,
                   std::span<std::uint64_t> key_words) noexcept {
  // Lane l sees `count[l]` keys from `first[l]`, counted from `origin` so that all fits 32 bits:
  // one unsigned comparison a pair.
  const std::int64_t origin = keys.index != nullptr ? 0 : keys.first;
  constexpr Range kIndices{0, std::int64_t{1} << 31};
  alignas(64) std::array<std::uint32_t, kLanes> first{}, count{};
  std::array<Range, kLanes> all;
  keys_of_queries(bands, queries, all);
  for (std::int64_t lane = 0; lane < queries.count; ++lane) {
    const Range seen = intersect({all[lane].begin - origin, all[lane].end - origin}, kIndices);
    first[lane] = static_cast<std::uint32_t>(seen.begin);
    count[lane] = static_cast<std::uint32_t>(seen.size());
  }
  alignas(64) std::array<std::uint8_t, kLanes> hits;
  for (std::int64_t k = 0; k < keys.count; ++k) {
    const auto key = static_cast<std::uint32_t>(keys[k] - origin);
    for (int lane = 0; lane < kLanes; ++lane) {  // all 64, so that the loop has no tail
      hits[lane] = static_cast<std::uint8_t>(key - first[lane] < count[lane]);
    }
    std::uint64_t word = 0;
    for (int lane = 0; lane < kLanes; lane += 8) word |= pack_bytes(&hits[lane]) << lane;
    key_words[k] = word;
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

void fill_bits(Bands bands, Positions queries, Positions keys,
               std::span<std::uint64_t> key_words) noexcept {
  if (queries.index == nullptr) {
    fill_contiguous(bands, {queries.first, queries.first + queries.count}, keys, key_words);
  } else {
    fill_gathered(bands, queries, keys, key_words);
  }
}

}  // namespace longspan::mask
