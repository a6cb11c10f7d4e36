// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Rows that will be read soon: a kernel fetches them into the second level cache, some with each
// group of keys. Rows may be pages apart, where the processor does not see the next one coming; all
// at once they would fill the line buffers.
#pragma once

#include <cstdint>

namespace longspan::kernel {

inline constexpr int kRowsAhead = 3;  // kinds of rows that a block can fetch

struct RowsAhead {
  const char* data = nullptr;
  std::int64_t stride = 0;  // in bytes
  std::int64_t bytes = 0;   // of a row
  std::int64_t rows = 0;
  const std::int32_t* index = nullptr;  // row n is index[n] of them; null: n
};

// Functions that only fetch must be inlined at once: GCC takes them for functions without effect
// and drops their calls (tools/check_fetches.py looks whether it did).
enum class Cache { kFirst, kSecond };

template <Cache kCache>
[[gnu::always_inline]] inline void fetch_lines(const void* data, std::int64_t bytes) noexcept {
  constexpr std::int64_t kLine = 64;
  const auto* lines = static_cast<const char*>(data);
  for (std::int64_t at = 0; at < bytes; at += kLine) {
    __builtin_prefetch(lines + at, /*rw=*/0, kCache == Cache::kFirst ? 3 : 2);
  }
}

// Fetches row r, if there is one.
[[gnu::always_inline]] inline void fetch_row(const RowsAhead& ahead, std::int64_t r) noexcept {
  if (r >= ahead.rows) return;
  const std::int64_t at_row = ahead.index != nullptr ? ahead.index[r] : r;
  fetch_lines<Cache::kSecond>(ahead.data + at_row * ahead.stride, ahead.bytes);
}

// The rows of a block in parts, one for each group of its keys.
class PartsAhead {
 public:
  [[gnu::always_inline]] PartsAhead(const RowsAhead (&kinds)[kRowsAhead],
                                    std::int64_t parts) noexcept
      : kinds_(kinds) {
    for (int kind = 0; kind < kRowsAhead; ++kind) {
      rows_[kind] = parts > 0 ? (kinds[kind].rows + parts - 1) / parts : 0;
    }
  }
  [[gnu::always_inline]] void fetch(std::int64_t part) const noexcept {
    for (int kind = 0; kind < kRowsAhead; ++kind) {
      const std::int64_t first = part * rows_[kind];
      for (std::int64_t r = first; r < first + rows_[kind]; ++r) fetch_row(kinds_[kind], r);
    }
  }

 private:
  const RowsAhead (&kinds_)[kRowsAhead];
  std::int64_t rows_[kRowsAhead];  // of a part
};

}  // namespace longspan::kernel
