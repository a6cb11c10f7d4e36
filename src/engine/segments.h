// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Keys are reduced in fixed segments, merged in ascending order. The cut depends on seqlen_k alone
// (or on the key_chunk that was asked for), never on threads, batch or heads: who computes a
// segment changes no bit.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mask/tile.h"

namespace longspan::engine {

struct KeySegments {
  std::int64_t seqlen_k = 0;
  std::int64_t length = 1;

  std::int64_t count() const noexcept { return (seqlen_k + length - 1) / length; }
  mask::Range at(std::int64_t segment) const noexcept {
    return {segment * length, std::min(seqlen_k, (segment + 1) * length)};
  }
};

// A segment is at least 4096 keys, so that a merge (head_dim_v operations a row) is small beside
// the 4096 * (head_dim
// + head_dim_v) multiply-adds before it, and there are at most 64, enough to share few queries
// among many threads.
inline KeySegments choose_segments(std::int64_t seqlen_k, std::int64_t key_chunk) noexcept {
  constexpr std::int64_t kLeast = 4096;
  constexpr std::int64_t kMostSegments = 64;
  constexpr std::int64_t kMultiple = 256;
  if (key_chunk > 0) return {seqlen_k, std::min(key_chunk, std::max<std::int64_t>(seqlen_k, 1))};
  const std::int64_t even = (seqlen_k + kMostSegments - 1) / kMostSegments;
  return {seqlen_k, std::max(kLeast, (even + kMultiple - 1) / kMultiple * kMultiple)};
}

}  // namespace longspan::engine
