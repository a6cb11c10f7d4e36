// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Bias and ALiBi of one tile as the kernels read them.
#pragma once

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
template <class T>
void load_positions(const mask::BoundMask& mask, std::int64_t batch, const PanelQueries& rows,
                    mask::Range keys, std::int64_t width, T* query_positions,
                    T* key_positions) noexcept {
  const std::int64_t origin = mask.key_position(batch, keys.begin);
  for (std::int64_t lane = 0; lane < width; ++lane) {
    query_positions[lane] =
        lane < rows.count ? static_cast<T>(mask.query_position(batch, rows.first + lane) - origin)
                          : T{0};
  }
  for (std::int64_t k = 0; k < keys.size(); ++k) {
    key_positions[k] = static_cast<T>(mask.key_position(batch, keys.begin + k) - origin);
  }
}

}  // namespace longspan::engine
