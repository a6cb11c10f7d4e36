// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Keys are reduced in fixed segments, merged in ascending order. The cut depends on seqlen_k alone
// (or on the key_chunk that was asked for), never on threads, batch or heads: who computes a
// segment changes no bit.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/round.h"
#include "mask/tile.h"

namespace longspan::engine {

struct KeySegments {
  std::int64_t seqlen_k = 0;
  std::int64_t length = 1;

  std::int64_t count() const noexcept { return base::ceil_div(seqlen_k, length); }
  mask::Range at(std::int64_t segment) const noexcept {
    return {segment * length, std::min(seqlen_k, (segment + 1) * length)};
  }
  // Key blocks that a range meets; blocks are counted from the start of each segment.
  std::int64_t blocks_met(mask::Range keys, std::int64_t block) const noexcept {
    if (keys.empty()) return 0;
    const std::int64_t per_segment = base::ceil_div(length, block);
    const auto block_of = [&](std::int64_t key) {
      return key / length * per_segment + key % length / block;
    };
    return block_of(keys.end - 1) - block_of(keys.begin) + 1;
  }
};

// A segment is at least 4096 keys, so that a merge (head_dim_v operations a row) is small beside
// the multiply-adds before it, 4096 (head_dim + head_dim_v), and there are at most 64, enough to
// share few queries among many threads.
inline KeySegments choose_segments(std::int64_t seqlen_k, std::int64_t key_chunk) noexcept {
  constexpr std::int64_t kLeast = 4096;
  constexpr std::int64_t kMostSegments = 64;
  constexpr std::int64_t kMultiple = 256;
  if (key_chunk > 0) return {seqlen_k, std::min(key_chunk, std::max<std::int64_t>(seqlen_k, 1))};
  const std::int64_t even = base::ceil_div(seqlen_k, kMostSegments);
  return {seqlen_k, std::max(kLeast, base::round_up(even, kMultiple))};
}

}  // namespace longspan::engine
