// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Rows as the engine names them: queries, keys and values come from a RowSource, results go to a
// RowTarget; kernels read and write them. Another way to name rows (an index list, pages of a
// cache) is another source here, and nothing above has to know.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/rows.h"
#include "kernels/kernel_table.h"

namespace longspan::engine {

using base::RowSource;
using base::RowTarget;

inline RowSource as_source(const RowTarget& target) noexcept {
  return {target.data, target.dtype, target.row_stride, target.dim_stride};
}

template <class T>
inline constexpr DType kDTypeOf = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;

// Fetches row n into the second level cache.
inline void prefetch_row(const RowSource& source, std::int64_t n, std::int64_t dim) noexcept {
  constexpr std::int64_t kLine = 64;
  const auto size = static_cast<std::int64_t>(size_of(source.dtype));
  if (source.dim_stride != 1) return;
  const char* row = static_cast<const char*>(source.data) + n * source.row_stride * size;
  for (std::int64_t at = 0; at < dim * size; at += kLine) __builtin_prefetch(row + at, 0, 2);
}

// True when rows must be packed before a kernel can read them.
inline bool needs_packing(const kernel::OperandFormat& format, const RowSource& source) noexcept {
  return !format.reads_rows || source.dtype != format.dtype || source.dim_stride != 1;
}

// True when a copy pays if the rows are read often: rows that are apart, as those of one head in
// [seqlen, heads, dim], fall into few sets of the first level cache (stride 2 KiB: 2 of 64) and
// cost an eighth of the kernel's speed.
inline bool gains_by_packing(const RowSource& source, std::int64_t dim) noexcept {
  return source.row_stride != dim;
}

// Rows that a kernel can read where they are.
inline kernel::OperandRows rows_in_place(const RowSource& source, std::int64_t first) noexcept {
  const std::int64_t offset = first * source.row_stride;
  return {static_cast<const std::byte*>(source.data) +
              offset * static_cast<std::int64_t>(size_of(source.dtype)),
          source.row_stride};
}

}  // namespace longspan::engine
