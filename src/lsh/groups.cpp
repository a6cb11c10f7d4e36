// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Builds groups.
#include "lsh/groups.h"

#include <algorithm>
#include <array>

#include "base/round.h"
#include "kernels/interval_tests.h"

namespace longspan::lsh {

using engine::PairTest;
using kernel::interval_count;
using kernel::interval_first;

Groups::Groups(const Rounds& rounds, Sizes sizes, const mask::BoundMask* local)
    : rounds_(rounds),
      sizes_(sizes),
      local_(local),
      pieces_(base::ceil_div(
          std::min(rounds.options().chunk_len, std::max<std::int64_t>(rounds.shape().seqlen_k, 1)),
          sizes.keys)) {}

std::int64_t Groups::columns(const Rounds& rounds, std::int64_t round) noexcept {
  if (rounds.options().dedup == Dedup::kNone) return 0;
  return rounds.options().wrap == Wrap::kAll ? rounds.count() : round;
}

std::int64_t Groups::runs_of_window(const Rounds& rounds, std::int64_t run_keys) noexcept {
  const std::int64_t chunk = std::min(rounds.options().chunk_len, rounds.shape().seqlen_k);
  return rounds.window() * std::max<std::int64_t>(base::ceil_div(chunk, run_keys), 1);
}

// Arrays are as long as the engine reads them, whatever the group.
Groups::Test& Groups::test(std::int64_t column, std::int64_t part) {
  for (std::size_t t = 0; t < used_tests_; ++t) {
    if (pool_[t].column == column && pool_[t].part == part) return pool_[t];
  }
  if (used_tests_ == pool_.size()) {
    const auto lanes = static_cast<std::size_t>(
        base::round_up(sizes_.queries, kernel::kIntervalLanes) + kernel::kIntervalLanes);
    pool_.push_back({0, 0, std::vector<std::int32_t>(lanes), std::vector<std::int32_t>(lanes)});
  }
  Test& fresh = pool_[used_tests_++];
  fresh.column = column;
  fresh.part = part;
  std::fill(fresh.count.begin(), fresh.count.end(), interval_count(0));
  return fresh;
}

// A pair counts in the first round whose window holds it: windows of earlier rounds hide it.
void Groups::load_tests(std::int64_t b, std::int64_t h, std::int64_t round,
                        std::span<const std::int32_t> queries) {
  const std::int32_t* numbers = rounds_.query_numbers(b, h);
  const std::int64_t counted = rounds_.options().dedup == Dedup::kNone ? 0 : round;
  const bool wraps = rounds_.options().wrap != Wrap::kNone;
  for (std::int64_t earlier = 0; earlier < counted; ++earlier) {
    if (!wraps) {
      Test& into = test(earlier, 0);
      for (std::size_t lane = 0; lane < queries.size(); ++lane) {
        const Segment window =
            rounds_.plain_window(earlier, numbers[queries[lane] * rounds_.count() + earlier]);
        into.first[lane] = interval_first(window.first);
        into.count[lane] = interval_count(window.count);
      }
      continue;
    }
    for (std::size_t lane = 0; lane < queries.size(); ++lane) {
      const std::int64_t number = numbers[queries[lane] * rounds_.count() + earlier];
      rounds_.window_of(earlier, number, rounds_.window(), segments_);
      for (const Segment& segment : segments_) {
        // Windows of two rounds that reach into a third one are tests of their own.
        const std::int64_t twice = 2 * earlier;
        Test* into = &test(segment.round, twice);
        if (into->count[lane] != interval_count(0)) into = &test(segment.round, twice + 1);
        into->first[lane] = interval_first(segment.first);
        into->count[lane] = interval_count(segment.count);
      }
    }
  }
  if (local_ != nullptr) {
    Test& local = test(PairTest::kKeyIndex, 0);
    std::array<mask::Range, kernel::kMaxWidth> keys;
    for (std::size_t begin = 0; begin < queries.size(); begin += keys.size()) {
      const std::size_t count = std::min(keys.size(), queries.size() - begin);
      local_->keys_of_queries(b, {0, static_cast<std::int64_t>(count), queries.data() + begin},
                              keys);
      for (std::size_t lane = 0; lane < count; ++lane) {
        local.first[begin + lane] = interval_first(keys[lane].begin);
        local.count[begin + lane] = interval_count(keys[lane].size());
      }
    }
  }
  for (std::size_t t = 0; t < used_tests_; ++t) {
    tests_.push_back({pool_[t].column, pool_[t].first.data(), pool_[t].count.data()});
  }
}

void Groups::add_runs(std::span<const std::int32_t> keys, std::int64_t tag, std::int64_t step,
                      std::span<const PairTest> further) {
  const auto most = static_cast<std::size_t>(sizes_.keys);
  for (std::size_t begin = 0; begin < keys.size(); begin += most, tag += step) {
    runs_.push_back({tag, keys.subspan(begin, std::min(most, keys.size() - begin)), further});
  }
}

std::span<const std::int32_t> Groups::chunk(std::int64_t b, std::int64_t h,
                                            ChunkPlace at) const noexcept {
  const std::span<const std::int32_t> order = rounds_.sorted_keys(b, h, at.round);
  const auto length = static_cast<std::size_t>(rounds_.options().chunk_len);
  const std::size_t begin = static_cast<std::size_t>(at.chunk) * length;
  return order.subspan(begin, std::min(length, order.size() - begin));
}

void Groups::load_runs(std::int64_t b, std::int64_t h, std::int64_t round, std::int64_t number) {
  if (rounds_.whole_buckets()) {
    const mask::Range places = rounds_.places_of_bucket(b, h, round, number);
    add_runs(rounds_.sorted_keys(b, h, round)
                 .subspan(static_cast<std::size_t>(places.begin),
                          static_cast<std::size_t>(places.size())),
             places.begin, sizes_.keys, {});
    return;
  }
  if (rounds_.options().wrap != Wrap::kNone) return load_wrapped_runs(b, h, round, number);
  const Segment window = rounds_.plain_window(round, number);
  for (std::int64_t c = window.first; c < window.first + window.count; ++c) {
    add_runs(chunk(b, h, {round, c}), c * pieces_, 1, {});
  }
}

void Groups::load_wrapped_runs(std::int64_t b, std::int64_t h, std::int64_t round,
                               std::int64_t number) {
  const bool once = rounds_.options().dedup != Dedup::kNone;
  const std::int64_t members =
      once ? std::min(rounds_.window(), rounds_.cycle()) : rounds_.window();
  for (std::int64_t n = 0; n < members; ++n) {
    add_runs(chunk(b, h, rounds_.wrapped(round, number, n)), (number + n) * pieces_, 1,
             once ? members_before(round, number, n) : std::span<const PairTest>{});
  }
}

// The chunks of a window before its n-th that are of other rounds: they may hold the same keys.
std::span<const PairTest> Groups::members_before(std::int64_t round, std::int64_t number,
                                                 std::int64_t n) {
  if (rounds_.options().wrap != Wrap::kAll) return {};
  const std::int64_t own = rounds_.wrapped(round, number, n).round;
  rounds_.window_of(round, number, n, segments_);
  std::vector<PairTest> tests;
  for (std::size_t s = 0; s < segments_.size(); ++s) {
    if (segments_[s].round == own) continue;
    // Not a part that queries have.
    Test& all = test(segments_[s].round, -1 - n * rounds_.window() - static_cast<std::int64_t>(s));
    std::fill(all.first.begin(), all.first.end(), interval_first(segments_[s].first));
    std::fill(all.count.begin(), all.count.end(), interval_count(segments_[s].count));
    tests.push_back({all.column, all.first.data(), all.count.data()});
  }
  if (tests.empty()) return {};
  return further_.emplace_back(std::move(tests));
}

void Groups::of_round(std::int64_t b, std::int64_t h, std::int64_t round, mask::Range places,
                      const Body& body) {
  const std::span<const std::int32_t> order = rounds_.sorted_queries(b, h, round);
  const std::int32_t* numbers = rounds_.query_numbers(b, h);
  const auto number_at = [&](std::int64_t place) {
    return std::int64_t{numbers[order[place] * rounds_.count() + round]};
  };
  for (std::int64_t begin = places.begin, end = begin; begin < places.end; begin = end) {
    const std::int64_t number = number_at(begin);
    const std::int64_t most = std::min(places.end, begin + sizes_.queries);
    for (end = begin + 1; end < most && number_at(end) == number;) ++end;
    const auto queries =
        order.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    used_tests_ = 0;
    tests_.clear();
    runs_.clear();
    further_.clear();
    load_tests(b, h, round, queries);
    load_runs(b, h, round, number);
    body({queries, tests_, runs_, next_keys(b, h, round, number)});
  }
}

// The chunk behind a window; windows of buckets are not foreseen.
std::span<const std::int32_t> Groups::next_keys(std::int64_t b, std::int64_t h, std::int64_t round,
                                                std::int64_t number) const noexcept {
  if (rounds_.whole_buckets() || rounds_.chunks() == 0) return {};
  ChunkPlace next;
  if (rounds_.options().wrap == Wrap::kNone) {
    const Segment window = rounds_.plain_window(round, number);
    next = {round, window.first + window.count};
    if (next.chunk >= rounds_.chunks()) return {};
  } else {
    next = rounds_.wrapped(round, number, rounds_.window());
  }
  constexpr std::size_t kMost = 128;  // their rows must stay in the cache until they are read
  const std::span<const std::int32_t> keys = chunk(b, h, next);
  return keys.first(std::min(kMost, keys.size()));
}

void Groups::of_mask(std::int64_t b, mask::Range queries, const mask::BoundMask& mask,
                     std::span<const std::int32_t> all, const Body& body) {
  for (std::int64_t begin = queries.begin; begin < queries.end; begin += sizes_.queries) {
    const std::int64_t end = std::min(queries.end, begin + sizes_.queries);
    const mask::Range seen = mask.visible_keys(b, {begin, end});
    runs_.clear();
    for (std::int64_t piece = seen.begin / sizes_.keys; piece * sizes_.keys < seen.end; ++piece) {
      const std::int64_t first = piece * sizes_.keys;
      const std::int64_t last = std::min(first + sizes_.keys, rounds_.shape().seqlen_k);
      runs_.push_back(
          {piece,
           all.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first)),
           {}});
    }
    body({all.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)),
          {},
          runs_,
          {}});
  }
}

}  // namespace longspan::lsh
