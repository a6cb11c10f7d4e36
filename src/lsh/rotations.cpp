// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Drawing rotations, and laying them out.
#include "lsh/rotations.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "base/extent.h"
#include "base/philox.h"
#include "base/visit_dtype.h"
#include "longspan/lsh_attention.h"
#include "lsh/normal_pair.h"

namespace longspan {
namespace lsh {

std::array<double, 4> rotation_block(std::uint64_t seed, std::int64_t head, std::int64_t component,
                                     std::int64_t round, std::int64_t block) noexcept {
  // Dropout of the same seed has a batch entry for its last word, far below 2^31.
  constexpr std::uint32_t kRotations = 0x80000000;
  const base::PhiloxBlock words = base::philox(
      {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(component),
       static_cast<std::uint32_t>(head), kRotations + static_cast<std::uint32_t>(round)},
      base::philox_key(seed));
  const auto [a, b] = normal_pair(words[0], words[1]);
  const auto [c, d] = normal_pair(words[2], words[3]);
  return {a, b, c, d};
}

template <class T>
void RotationSource::fill_rows(std::int64_t head, T* rows) const {
  for (std::int64_t round = 0; round < num_hashes; ++round) {
    T* round_rows = rows + round * columns * head_dim;
    for (std::int64_t d = 0; d < head_dim; ++d) {
      for (std::int64_t first = 0; first < columns; first += 4) {
        const std::int64_t last = std::min(first + 4, columns);
        std::array<double, 4> numbers{};
        if (is_given(given)) {
          const std::int64_t at = head * given.strides[0] + d * given.strides[1] +
                                  round * given.strides[2] + first * given.strides[3];
          for (std::int64_t c = first; c < last; ++c) {
            numbers[c - first] =
                base::load_double(given.data, given.dtype, at + (c - first) * given.strides[3]);
          }
        } else {
          numbers = rotation_block(seed, head, d, round, first / 4);
        }
        for (std::int64_t c = first; c < last; ++c) {
          round_rows[c * head_dim + d] = static_cast<T>(numbers[c - first]);
        }
      }
    }
  }
}

template void RotationSource::fill_rows<float>(std::int64_t, float*) const;
template void RotationSource::fill_rows<double>(std::int64_t, double*) const;

}  // namespace lsh

void draw_rotations(TensorView rotations, std::uint64_t seed) {
  const bool float64 = rotations.dtype == DType::kFloat64;
  base::require(float64 || rotations.dtype == DType::kFloat32, [&] {
    return std::string("draw_rotations: rotations must be float32 or float64; found ") +
           name_of(rotations.dtype);
  });
  base::require(rotations.rank == 4, [&] {
    return "draw_rotations: rotations must have shape [num_heads, head_dim, num_hashes, columns]; "
           "found " +
           shape_string(rotations);
  });
  base::require(element_count(rotations) == 0 || rotations.data != nullptr, [&] {
    return "draw_rotations: rotations " + shape_string(rotations) + " has no data (null pointer)";
  });
  base::require(!base::overlaps_itself(rotations), [&] {
    return "draw_rotations: rotations must not overlap itself; found shape " +
           shape_string(rotations) + " with strides under which elements coincide";
  });
  for (const std::int64_t extent : rotations.shape) {
    base::require(extent <= INT32_MAX, [&] {
      return "draw_rotations: extents must stay below 2^31; found " + shape_string(rotations);
    });
  }
  const auto [heads, head_dim, num_hashes, columns] = rotations.shape;
  const Extents& strides = rotations.strides;
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t d = 0; d < head_dim; ++d) {
      for (std::int64_t r = 0; r < num_hashes; ++r) {
        for (std::int64_t c = 0; c < columns; c += 4) {
          const std::array<double, 4> numbers = lsh::rotation_block(seed, h, d, r, c / 4);
          for (std::int64_t n = 0; n < std::min<std::int64_t>(4, columns - c); ++n) {
            const std::int64_t at =
                h * strides[0] + d * strides[1] + r * strides[2] + (c + n) * strides[3];
            if (float64) {
              static_cast<double*>(rotations.data)[at] = numbers[n];
            } else {
              static_cast<float*>(rotations.data)[at] = static_cast<float>(numbers[n]);
            }
          }
        }
      }
    }
  }
}

}  // namespace longspan
