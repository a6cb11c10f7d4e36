// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Rows as the engine names them: queries, keys and values come from a RowSource, results go to a
// RowTarget, a range of rows or an index list; kernels read and write them. Another way to name
// rows (pages of a cache) is another source here, and nothing above has to know.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/rows.h"
#include "kernels/kernel_table.h"
#include "kernels/rows_ahead.h"
#include "mask/tile.h"

namespace longspan::engine {

using base::RowSource;
using base::RowTarget;

inline RowSource shifted(RowSource source, std::int64_t elements) noexcept {
  source.data = static_cast<const std::byte*>(source.data) +
                elements * static_cast<std::int64_t>(size_of(source.dtype));
  return source;
}

inline RowSource as_source(const RowTarget& target) noexcept {
  return {target.data, target.dtype, target.row_stride, target.dim_stride, target.index};
}

template <class T>
inline constexpr DType kDTypeOf = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;

inline kernel::RowsAhead rows_ahead(const RowSource& source, mask::Range rows,
                                    std::int64_t dim) noexcept {
  if (source.data == nullptr || source.dim_stride != 1 || source.row_stride == 0) return {};
  const auto size = static_cast<std::int64_t>(size_of(source.dtype));
  return {static_cast<const char*>(source.data) + rows.begin * source.row_stride * size,
          source.row_stride * size, dim * size, rows.size()};
}

// The same of gathered rows.
inline kernel::RowsAhead rows_ahead(const RowSource& source, std::span<const std::int32_t> index,
                                    std::int64_t dim) noexcept {
  kernel::RowsAhead rows =
      rows_ahead(source, mask::Range{0, static_cast<std::int64_t>(index.size())}, dim);
  rows.index = index.data();
  return rows;
}

// body(n) for row n of a range; rows n of the sources have been fetched by then.
template <std::size_t kSources, class Body>
void for_fetched(mask::Range rows, const RowSource (&sources)[kSources], std::int64_t dim,
                 const Body& body) {
  constexpr std::int64_t kDistance = 16;
  kernel::RowsAhead ahead[kSources];
  for (std::size_t s = 0; s < kSources; ++s) ahead[s] = rows_ahead(sources[s], rows, dim);
  for (std::int64_t r = -kDistance; r < rows.size(); ++r) {
    for (const kernel::RowsAhead& source : ahead) kernel::fetch_row(source, r + kDistance);
    if (r >= 0) body(rows.begin + r);
  }
}

// Fetches one number of T of each row of a list: numbers of gathered rows lie apart, too.
template <class T>
[[gnu::always_inline]] inline void fetch_numbers(const T* numbers, std::int64_t stride,
                                                 std::span<const std::int32_t> index) noexcept {
  for (const std::int32_t n : index) {
    kernel::fetch_lines<kernel::Cache::kFirst>(numbers + n * stride, sizeof(T));
  }
}

// The rows of a list of indices.
template <class Rows>
Rows indexed(Rows rows, std::span<const std::int32_t> index) noexcept {
  rows.index = index.data();
  return rows;
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
inline kernel::OperandRows rows_in_place(const kernel::OperandFormat& format,
                                         const RowSource& source, std::int64_t first) noexcept {
  const std::int64_t offset = first * source.row_stride;
  return {static_cast<const std::byte*>(source.data) +
              offset * static_cast<std::int64_t>(size_of(source.dtype)),
          source.row_stride, format.row_multiple};
}

}  // namespace longspan::engine
