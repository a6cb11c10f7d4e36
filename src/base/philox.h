// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Philox 4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3" (SC11, section 3.3): four random words as a function of a counter of
// four words and a key of two, so that any number of threads draw the same numbers in any order.
#pragma once

#include <array>
#include <cstdint>

namespace longspan::base {

inline constexpr int kPhiloxRounds = 10;
inline constexpr std::uint32_t kPhiloxMultipliers[2] = {0xD2511F53, 0xCD9E8D57};
// Added to the key between rounds: the golden ratio and sqrt(3) - 1, as fractions of 2^32.
inline constexpr std::uint32_t kPhiloxKeySteps[2] = {0x9E3779B9, 0xBB67AE85};

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;
using PhiloxBlock = std::array<std::uint32_t, 4>;

// The two halves of a seed, the low one first.
constexpr PhiloxKey philox_key(std::uint64_t seed) noexcept {
  return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
}

constexpr PhiloxBlock philox(PhiloxCounter c, PhiloxKey key, int rounds = kPhiloxRounds) noexcept {
  for (int n = 0; n < rounds; ++n) {
    const std::uint64_t a = std::uint64_t{kPhiloxMultipliers[0]} * c[0];
    const std::uint64_t b = std::uint64_t{kPhiloxMultipliers[1]} * c[2];
    c = {static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ key[0], static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += kPhiloxKeySteps[0];
    key[1] += kPhiloxKeySteps[1];
  }
  return c;
}

}  // namespace longspan::base
