// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Bias and ALiBi of one tile as the kernels read them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "engine/attention_call.h"
#include "engine/rows.h"

namespace longspan::engine {

// The bias of one head between rows of queries and keys that begin at first_key.
inline RowSource bias_rows(const BiasSource& bias, std::int64_t batch, std::int64_t head,
                           std::int64_t first_key) noexcept {
  const std::int64_t offset =
      batch * bias.strides[0] + head * bias.strides[1] + first_key * bias.strides[3];
  return {static_cast<const std::byte*>(bias.data) +
              offset * static_cast<std::int64_t>(size_of(bias.dtype)),
          bias.dtype, bias.strides[2], bias.strides[3]};
}

// Positions relative to the first key of the tile: differences up to 2^24 are exact in float32.
// Lanes past the queries get 0.
template <class T>
void load_positions(const mask::BoundMask& mask, std::int64_t batch, const PanelQueries& rows,
                    mask::Range keys, std::int64_t width, T* query_positions,
                    T* key_positions) noexcept {
  constexpr std::int64_t kAtOnce = 64;
  static_assert(kAtOnce >= kernel::kMaxWidth);
  std::array<std::int64_t, kAtOnce> positions{};
  const std::int64_t origin = mask.key_position(keys.begin);
  mask.query_positions(batch, rows.range(), positions);
  for (std::int64_t lane = 0; lane < width; ++lane) {
    query_positions[lane] = lane < rows.count
                                ? static_cast<T>(positions[static_cast<std::size_t>(lane)] - origin)
                                : T{0};
  }
  for (std::int64_t begin = keys.begin; begin < keys.end; begin += kAtOnce) {
    const mask::Range part{begin, std::min(begin + kAtOnce, keys.end)};
    mask.key_positions(part, positions);
    for (std::int64_t k = 0; k < part.size(); ++k) {
      key_positions[begin - keys.begin + k] =
          static_cast<T>(positions[static_cast<std::size_t>(k)] - origin);
    }
  }
}

}  // namespace longspan::engine
