// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Distances that may be without end, in whole numbers that do not overflow.
#pragma once

#include <algorithm>
#include <cstdint>

namespace longspan::mask {

// Farther than any index, yet an index can still be added to it or subtracted from it without
// overflow.
inline constexpr std::int64_t kFar = std::int64_t{1} << 61;

// Sums of offsets and window sides that leave the type stop at its ends.
inline std::int64_t saturating_add(std::int64_t a, std::int64_t b) noexcept {
  std::int64_t sum;
  if (!__builtin_add_overflow(a, b, &sum)) return sum;
  return b < 0 ? INT64_MIN : INT64_MAX;
}
inline std::int64_t saturating_subtract(std::int64_t a, std::int64_t b) noexcept {
  std::int64_t difference;
  if (!__builtin_sub_overflow(a, b, &difference)) return difference;
  return b > 0 ? INT64_MIN : INT64_MAX;
}
inline std::int64_t clamp_far(std::int64_t n) noexcept { return std::clamp(n, -kFar, kFar); }

}  // namespace longspan::mask
