// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The round function and the key schedule as the paper writes them.
#include "reference/philox_reference.h"

namespace longspan::reference {
namespace {

std::uint32_t low(std::uint64_t x) { return static_cast<std::uint32_t>(x); }
std::uint32_t high(std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); }

}  // namespace

PhiloxCounter philox4x32(PhiloxCounter counter, PhiloxKey key, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    if (round > 0) {
      key[0] += 0x9E3779B9;  // the golden ratio
      key[1] += 0xBB67AE85;  // sqrt(3) - 1
    }
    const std::uint64_t first = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t second = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {high(second) ^ counter[1] ^ key[0], low(second), high(first) ^ counter[3] ^ key[1],
               low(first)};
  }
  return counter;
}

bool keeps(const Dropout& dropout, std::int64_t batch, std::int64_t head, std::int64_t query,
           std::int64_t key) {
  const auto word = [](std::int64_t index) { return static_cast<std::uint32_t>(index); };
  const PhiloxCounter block = philox4x32({word(key / 4), word(query), word(head), word(batch)},
                                         {low(dropout.seed), high(dropout.seed)});
  return block[static_cast<std::size_t>(key % 4)] >= dropout.probability * 0x1p32;
}

}  // namespace longspan::reference
