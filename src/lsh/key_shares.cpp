// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Cuts shares and gives them turns.
#include "lsh/key_shares.h"

#include <algorithm>

#include "base/round.h"

namespace longspan::lsh {
namespace {

// Enough shares for many threads, and long enough that keys beyond an edge, which are loaded once
// more, are few.
std::int64_t share_length(std::int64_t seqlen, std::int64_t unit) {
  constexpr std::int64_t kWanted = 16, kLeast = 256, kMost = 1024;
  const std::int64_t even = std::clamp(base::ceil_div(seqlen, kWanted), kLeast, kMost);
  return base::round_up(even, std::min(unit, std::max<std::int64_t>(seqlen, 1)));
}

}  // namespace

KeyShares::KeyShares(const Rounds& rounds)
    : rounds_(rounds),
      by_window_(true),
      length_(share_length(rounds.shape().seqlen_k, rounds.options().chunk_len)) {
  const LshOptions& options = rounds.options();
  const mask::Range all{0, rounds.shape().seqlen_k};
  std::vector<mask::Range> met;
  for (std::int64_t begin = 0; begin < all.end; begin += length_) {
    mask::Range keys{begin, std::min(begin + length_, all.end)};
    if (!options.whole_buckets) {
      keys.begin -= std::min(options.chunks_before, rounds.chunks()) * options.chunk_len;
      keys.end += std::min(options.chunks_after, rounds.chunks()) * options.chunk_len;
    }
    const bool wraps = options.wrap != Wrap::kNone && (keys.begin < 0 || keys.end > all.end);
    met.push_back(wraps ? all : mask::intersect(keys, all));
  }
  choose_turns(met);
}

KeyShares::KeyShares(const Rounds& rounds, const mask::BoundMask& mask, std::int64_t run_keys)
    : rounds_(rounds), by_window_(false), length_(share_length(rounds.shape().seqlen_q, 1)) {
  const RoundsShape& shape = rounds.shape();
  std::vector<mask::Range> met;
  for (std::int64_t share = 0; share * length_ < shape.seqlen_q; ++share) {
    mask::Range keys;
    for (std::int64_t b = 0; b < shape.batch; ++b) {
      const mask::Range seen = mask.visible_keys(b, places(0, 0, 0, share));
      if (seen.empty()) continue;
      const mask::Range runs{seen.begin / run_keys * run_keys, base::round_up(seen.end, run_keys)};
      keys = keys.empty()
                 ? runs
                 : mask::Range{std::min(keys.begin, runs.begin), std::max(keys.end, runs.end)};
    }
    met.push_back(keys);
  }
  choose_turns(met);
}

// The first turn in which no share meets a key of this one.
void KeyShares::choose_turns(std::span<const mask::Range> met) {
  for (std::size_t share = 0; share < met.size(); ++share) {
    const auto free = [&](const std::vector<std::int64_t>& turn) {
      return std::all_of(turn.begin(), turn.end(), [&](std::int64_t other) {
        return mask::intersect(met[static_cast<std::size_t>(other)], met[share]).empty();
      });
    };
    const auto turn = std::find_if(turns_.begin(), turns_.end(), free);
    std::vector<std::int64_t>& into = turn == turns_.end() ? turns_.emplace_back() : *turn;
    into.push_back(static_cast<std::int64_t>(share));
  }
}

mask::Range KeyShares::places(std::int64_t b, std::int64_t h, std::int64_t round,
                              std::int64_t share) const {
  const std::int64_t begin = share * length_, end = begin + length_;
  const std::int64_t seqlen_q = rounds_.shape().seqlen_q;
  if (!by_window_) return {begin, std::min(end, seqlen_q)};
  // The windows from the number of the first key on, to that of the next share's first key.
  const std::span<const std::int32_t> keys = rounds_.sorted_keys(b, h, round);
  const std::span<const std::int32_t> queries = rounds_.sorted_queries(b, h, round);
  const std::int32_t* key_numbers = rounds_.key_numbers(b, h);
  const std::int32_t* query_numbers = rounds_.query_numbers(b, h);
  const auto place_of = [&](std::int64_t key_place) {
    const std::int32_t number =
        key_numbers[keys[static_cast<std::size_t>(key_place)] * rounds_.count() + round];
    return std::partition_point(queries.begin(), queries.end(),
                                [&](std::int32_t query) {
                                  return query_numbers[query * rounds_.count() + round] < number;
                                }) -
           queries.begin();
  };
  return {begin == 0 ? 0 : place_of(begin),
          end >= rounds_.shape().seqlen_k ? seqlen_q : place_of(end)};
}

}  // namespace longspan::lsh
