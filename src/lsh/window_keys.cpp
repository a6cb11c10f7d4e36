// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Windows from chunks to keys.
#include "lsh/window_keys.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace longspan::lsh {

void WindowKeys::append_window(const GrowingOrder& order, const WindowQuery& query,
                               std::int64_t round) {
  const std::int64_t bucket = query.buckets[round], chunk_len = options_.chunk_len;
  if (options_.whole_buckets) {
    order.append_keys(round, order.places_of_bucket(round, bucket), keys_);
    return;
  }
  const auto append = [&](std::int64_t of_round, std::int64_t first, std::int64_t last) {
    const std::int64_t end = std::min(last * chunk_len, order.length());
    order.append_keys(of_round, {first * chunk_len, end}, keys_);
  };
  const std::int64_t rank = order.rank(round, bucket, query.position);
  if (options_.wrap == Wrap::kNone) {
    const ChunkRange chunks = chunks_of_rank(options_, order.length(), rank);
    append(round, chunks.begin, chunks.end);
    return;
  }
  const std::int64_t chunks = count_chunks(order.length(), chunk_len);
  const ChunkWindow window(options_, chunks, {round, (rank - 1) / chunk_len});
  const std::int64_t cycle = options_.wrap == Wrap::kAll ? options_.num_hashes * chunks : chunks;
  const bool once = options_.dedup != Dedup::kNone;
  const std::int64_t members = once ? std::min(window.size(), cycle) : window.size();
  for (std::int64_t n = 0; n < members; ++n) {
    append(window[n].round, window[n].chunk, window[n].chunk + 1);
  }
}

// Of those that stand there several times the first stays. Open addressing, at most half full.
void WindowKeys::drop_repeats() {
  constexpr std::int32_t kFree = -1;
  const int bits = static_cast<int>(std::bit_width(2 * keys_.size() + 1));
  const std::uint32_t last = (std::uint32_t{1} << bits) - 1;
  seen_.assign(std::size_t{last} + 1, kFree);
  std::erase_if(keys_, [&](std::int32_t key) {
    constexpr std::uint32_t kGolden = 2654435769U;  // 2^32 / 1.618: spreads equal steps (Knuth)
    std::uint32_t at = static_cast<std::uint32_t>(key) * kGolden >> (32 - bits);
    while (seen_[at] != kFree && seen_[at] != key) at = (at + 1) & last;
    return std::exchange(seen_[at], key) == key;
  });
}

std::span<const std::int32_t> WindowKeys::find(const GrowingOrder& order,
                                               const WindowQuery& query) {
  keys_.clear();
  const bool one_chunk = order.length() <= options_.chunk_len;  // all meet all, once
  for (std::int64_t r = 0; !one_chunk && r < options_.num_hashes; ++r) {
    append_window(order, query, r);
  }
  const auto is_own = [&](std::int32_t key) { return shared_ && key == query.position; };
  own_count_ = 1;
  if (options_.dedup == Dedup::kNone && !one_chunk && !query.local.contains(query.position)) {
    own_count_ = static_cast<double>(std::count_if(keys_.begin(), keys_.end(), is_own));
  }
  std::erase_if(keys_, [&](std::int32_t key) { return is_own(key) || query.local.contains(key); });
  if (options_.dedup != Dedup::kNone) {
    drop_repeats();
  }
  const mask::Range whole = one_chunk ? mask::Range{0, order.length()} : query.local;
  for (std::int64_t key = whole.begin; key < whole.end; ++key) {
    if (!is_own(static_cast<std::int32_t>(key))) keys_.push_back(static_cast<std::int32_t>(key));
  }
  return keys_;
}

}  // namespace longspan::lsh
