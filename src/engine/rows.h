// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Rows of a tensor as the engine reads and writes them: queries, keys and values come from a
// RowSource, results go to a RowTarget. Another way to name rows (an index list, pages of a cache)
// is another source here, and nothing above or below has to know.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "base/visit_dtype.h"
#include "longspan/tensor.h"

namespace longspan::engine {

struct RowSource {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::int64_t row_stride = 0;
  std::int64_t dim_stride = 0;
};

struct RowTarget {
  void* data = nullptr;  // null: not wanted
  DType dtype = DType::kFloat32;
  std::int64_t row_stride = 0;
  std::int64_t dim_stride = 0;
};

inline RowSource as_source(const RowTarget& target) noexcept {
  return {target.data, target.dtype, target.row_stride, target.dim_stride};
}

template <class T>
inline constexpr DType kDTypeOf = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;

// Rows of T with unit stride along the dimension.
template <class T>
struct RowTile {
  const T* data = nullptr;
  std::int64_t stride = 0;
};

// True when rows must be copied (widened or made contiguous) before a kernel can read them.
template <class T>
bool needs_packing(const RowSource& source) noexcept {
  return source.dtype != kDTypeOf<T> || source.dim_stride != 1;
}

// True when a copy pays if the rows are read often: rows that are apart, as those of one head in
// [seqlen, heads, dim], fall into few sets of the first level cache (stride 2 KiB: 2 of 64) and
// cost an eighth of the kernel's speed.
inline bool gains_by_packing(const RowSource& source, std::int64_t dim) noexcept {
  return source.row_stride != dim;
}

// Rows first .. first + count of the source; copied to scratch [count][dim] when they must be, or
// when `pack` says so.
template <class T>
RowTile<T> load_rows(const RowSource& source, std::int64_t first, std::int64_t count,
                     std::int64_t dim, bool pack, T* scratch) noexcept {
  if (!pack && !needs_packing<T>(source)) {
    return {static_cast<const T*>(source.data) + first * source.row_stride, source.row_stride};
  }
  base::visit_floating(source.dtype, [&](auto tag) {
    using E = decltype(tag);
    for (std::int64_t n = 0; n < count; ++n) {
      const E* row = static_cast<const E*>(source.data) + (first + n) * source.row_stride;
      T* out = scratch + n * dim;
      if constexpr (std::is_same_v<E, T>) {
        if (source.dim_stride == 1) {
          std::memcpy(out, row, static_cast<std::size_t>(dim) * sizeof(T));
          continue;
        }
      }
      if (source.dim_stride == 1) {
        for (std::int64_t d = 0; d < dim; ++d) out[d] = static_cast<T>(base::to_float(row[d]));
      } else {
        for (std::int64_t d = 0; d < dim; ++d) {
          out[d] = static_cast<T>(base::to_float(row[d * source.dim_stride]));
        }
      }
    }
  });
  return {scratch, dim};
}

inline void prefetch_row(const RowSource& source, std::int64_t n, std::int64_t dim) noexcept {
  constexpr std::int64_t kLine = 64;
  const auto size = static_cast<std::int64_t>(size_of(source.dtype));
  if (source.dim_stride != 1) return;
  const char* row = static_cast<const char*>(source.data) + n * source.row_stride * size;
  for (std::int64_t at = 0; at < dim * size; at += kLine) __builtin_prefetch(row + at, 0, 2);
}

// panel[d][lane] = row (first + lane), 0 in the lanes past count.
template <class T>
void load_panel(const RowSource& source, std::int64_t first, std::int64_t count, std::int64_t dim,
                std::int64_t width, T* panel) noexcept {
  constexpr std::int64_t kAhead =
      8;  // rows may be pages apart: hardware does not see the next one coming
  constexpr std::int64_t kLine = 64;
  base::visit_floating(source.dtype, [&](auto tag) {
    using E = decltype(tag);
    for (std::int64_t lane = 0; lane < count; ++lane) {
      const E* row = static_cast<const E*>(source.data) + (first + lane) * source.row_stride;
      if (lane + kAhead < count && source.dim_stride == 1) {
        const auto* later = reinterpret_cast<const char*>(row + kAhead * source.row_stride);
        const std::int64_t bytes = dim * static_cast<std::int64_t>(sizeof(E));
        for (std::int64_t at = 0; at < bytes; at += kLine) __builtin_prefetch(later + at);
      }
      for (std::int64_t d = 0; d < dim; ++d) {
        panel[d * width + lane] = static_cast<T>(base::to_float(row[d * source.dim_stride]));
      }
    }
  });
  for (std::int64_t d = 0; d < dim; ++d) {
    for (std::int64_t lane = count; lane < width; ++lane) panel[d * width + lane] = T{0};
  }
}

// row n = panel[d][lane] * factor, rounded once.
template <class T>
void store_lane(const RowTarget& target, std::int64_t n, const T* panel, std::int64_t lane,
                std::int64_t dim, std::int64_t width, T factor) noexcept {
  base::visit_floating(target.dtype, [&](auto tag) {
    using E = decltype(tag);
    E* row = static_cast<E*>(target.data) + n * target.row_stride;
    for (std::int64_t d = 0; d < dim; ++d) {
      row[d * target.dim_stride] = base::from_float<E>(panel[d * width + lane] * factor);
    }
  });
}

// row n = x, dim times.
template <class T>
void store_repeated(const RowTarget& target, std::int64_t n, T x, std::int64_t dim) noexcept {
  store_lane(target, n, &x, 0, dim, 0, T{1});
}

}  // namespace longspan::engine
