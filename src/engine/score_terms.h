// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Brings bias and ALiBi of one tile into the form that the kernels read.
#pragma once

#include <cmath>
#include <cstdint>

#include "engine/attention_call.h"

namespace longspan::engine {

// tile[key][lane] = bias of (query rows.first + lane, key keys.begin + key), 0 in the lanes past
// rows.count. A bias of -inf excludes: its bit in words is cleared and 0 is stored. Returns true
// when there was one.
template <class T>
bool load_bias(const BiasSource& bias, std::int64_t batch, const PanelQueries& rows,
               mask::Range keys, std::int64_t width, T* tile, std::uint64_t* words) noexcept {
  bool excludes = false;
  base::visit_floating(bias.dtype, [&](auto tag) {
    using E = decltype(tag);
    const E* origin = static_cast<const E*>(bias.data) + batch * bias.strides[0] +
                      rows.head * bias.strides[1] + keys.begin * bias.strides[3];
    for (std::int64_t lane = 0; lane < rows.count; ++lane) {
      const E* row = origin + (rows.first + lane) * bias.strides[2];
      for (std::int64_t k = 0; k < keys.size(); ++k) {
        T x = static_cast<T>(base::to_float(row[k * bias.strides[3]]));
        if (std::isinf(x) && x < 0) {
          words[k] &= ~(std::uint64_t{1} << lane);
          excludes = true;
          x = T{0};
        }
        tile[k * width + lane] = x;
      }
    }
  });
  for (std::int64_t k = 0; k < keys.size(); ++k) {
    for (std::int64_t lane = rows.count; lane < width; ++lane) tile[k * width + lane] = T{0};
  }
  return excludes;
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
