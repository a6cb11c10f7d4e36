// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// How many queries make a panel.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/round.h"
#include "kernels/kernel_table.h"

namespace longspan::engine {

// Execution::query_chunk of a call: 0 (chosen), or no more than there are queries.
inline std::int64_t clamp_query_chunk(std::int64_t query_chunk, std::int64_t seqlen_q) noexcept {
  return std::min(query_chunk, std::max<std::int64_t>(seqlen_q, 1));
}

// Panels of equal width: 64 queries are 32 + 32, not 48 + 16. `query_chunk` above 0 is the most.
// Widest panels are whole multiples of `multiple` queries where there are such.
template <class T>
std::int64_t choose_panel_rows(const kernel::KernelTable<T>& kernel, std::int64_t seqlen_q,
                               std::int64_t query_chunk, std::int64_t multiple = 1) noexcept {
  const std::int64_t lanes = kernel.lanes;
  const std::int64_t whole = lanes * kernel.vectors / multiple * multiple / lanes;
  const std::int64_t widest = whole > 0 ? whole : kernel.vectors;
  const std::int64_t vectors = std::max<std::int64_t>(base::ceil_div(seqlen_q, lanes), 1);
  const std::int64_t panels = base::ceil_div(vectors, widest);
  const std::int64_t rows = lanes * base::ceil_div(vectors, panels);
  return query_chunk > 0 ? std::min(rows, query_chunk) : rows;
}

}  // namespace longspan::engine
