// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The words in which masks are asked and answered: ranges, positions that may be gathered,
// coverage, the call's shape.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "mask/far.h"

namespace longspan::mask {

struct Range {  // [begin, end)
  std::int64_t begin = 0;
  std::int64_t end = 0;
  bool empty() const noexcept { return begin >= end; }
  std::int64_t size() const noexcept { return end > begin ? end - begin : 0; }
  bool contains(std::int64_t n) const noexcept { return begin <= n && n < end; }
};

inline Range intersect(Range a, Range b) noexcept {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

// Indices along an axis: first, first + 1, ... or, when `index` is given, index[0], index[1], ...
// (any order).
struct Positions {
  std::int64_t first = 0;
  std::int64_t count = 0;
  const std::int32_t* index = nullptr;
  std::int64_t operator[](std::int64_t n) const noexcept {
    return index != nullptr ? index[n] : first + n;
  }
};

inline constexpr Range kEverywhere{-kFar, kFar};

enum class Coverage : std::uint8_t { kNone, kFull, kPartial };

struct CallShape {
  std::int64_t batch = 0;
  std::int64_t num_heads = 0;
  std::int64_t seqlen_q = 0;
  std::int64_t seqlen_k = 0;
  const char* function = "attention";  // that is called

  std::string where() const { return std::string(function) + ": "; }  // how its errors begin
};

}  // namespace longspan::mask
