// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Which pairs of a tile dropout keeps: a function of (seed, batch, head, query, key) alone. Philox
// (src/base/philox.h) with key = seed and counter (key index / 4, query, head, batch), words 0 to
// 3, each modulo 2^32; key j takes word j mod 4 of its block.
#pragma once

#include <cmath>
#include <cstdint>

namespace longspan::kernel {

// A pair is kept when its word >= threshold. Words are whole, so probability * 2^32, which is exact
// in float64, may be rounded up: 0 keeps all, 2^32 none.
inline std::uint64_t dropout_threshold(double probability) noexcept {
  return static_cast<std::uint64_t>(std::ceil(probability * 0x1p32));
}

// Queries of one head meet keys; indices are those of the tensors.
struct DropoutTile {
  std::uint64_t seed = 0;
  std::uint64_t threshold = 1;  // 1 to 2^32
  std::int64_t batch = 0;
  std::int64_t head = 0;  // of the query
  std::int64_t first_query = 0;
  std::int64_t queries = 0;  // at most kMaxWidth
  std::int64_t first_key = 0;
  std::int64_t keys = 0;
};

}  // namespace longspan::kernel
