// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Which pairs of a tile of gathered queries and keys are hidden, where every reason is of one form:
// a number of the key, at least 0, lies in an interval of the query. Its position outside the band
// of a mask, its chunk in an earlier round in the window that the query had there.
#pragma once

#include <cstdint>

namespace longspan::kernel {

// Intervals are stored so that one signed comparison a pair decides: with first + 2^31 and count -
// 2^31, both modulo 2^32, number - first < count holds exactly when first <= number < first +
// count.
constexpr std::int32_t interval_first(std::int64_t first) noexcept {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(first) + 0x80000000u);
}
constexpr std::int32_t interval_count(std::int64_t count) noexcept {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(count) - 0x80000000u);
}

// All numbers but those of begin <= number < end.
struct Interval {
  std::int32_t first = 0;
  std::int32_t count = 0;
};
constexpr Interval interval_outside(std::int64_t begin, std::int64_t end) noexcept {
  constexpr std::int64_t kAll = std::int64_t{1} << 32;
  // Modulo 2^32 they are one interval; the largest one leaves out -1, which no number is.
  if (begin >= end) return {interval_first(0), interval_count(kAll - 1)};
  return {interval_first(end), interval_count(kAll - (end - begin))};
}

// Arrays by lane are read to a multiple of so many lanes; what stands past the lanes is not used.
inline constexpr std::int64_t kIntervalLanes = 16;

struct IntervalTest {
  const std::int32_t* numbers = nullptr;  // [keys]
  const std::int32_t* first = nullptr;    // [lanes], interval_first()
  const std::int32_t* count = nullptr;    // [lanes], interval_count()
};

struct IntervalTile {
  const IntervalTest* tests = nullptr;
  std::int64_t count = 0;  // of tests
  std::int64_t keys = 0;
  std::int64_t lanes = 0;  // at most kMaxWidth
};

}  // namespace longspan::kernel
