// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Which weights dropout keeps: Philox 4x32-10 (Salmon et al. 2011, section 3.1) written out.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "longspan/attention.h"

namespace longspan::bench {

inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                           std::uint64_t seed) {
  auto low = static_cast<std::uint32_t>(seed);
  auto high = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t first = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t second = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(second >> 32) ^ counter[1] ^ low,
               static_cast<std::uint32_t>(second),
               static_cast<std::uint32_t>(first >> 32) ^ counter[3] ^ high,
               static_cast<std::uint32_t>(first)};
    low += 0x9E3779B9;
    high += 0xBB67AE85;
  }
  return counter;
}

// 1 / (1 - probability), or 0 for a dropped weight (batch 0).
inline double dropout_factor(const Dropout& dropout, std::int64_t head, std::int64_t query,
                             std::int64_t key) {
  if (dropout.probability == 0) return 1;
  const auto words = philox({static_cast<std::uint32_t>(key / 4), static_cast<std::uint32_t>(query),
                             static_cast<std::uint32_t>(head), 0},
                            dropout.seed);
  const double word = words[static_cast<std::size_t>(key % 4)];
  return word >= dropout.probability * 0x1p32 ? 1 / (1 - dropout.probability) : 0;
}

}  // namespace longspan::bench
