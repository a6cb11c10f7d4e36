// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Checks of tensors of vectors.
#include "base/rows4.h"

#include <string>

#include "base/check.h"

namespace longspan::base {

RowSource Rows4::source(std::int64_t batch, std::int64_t head) const noexcept {
  const std::int64_t offset = batch * strides[0] + head * strides[2];
  return {static_cast<const std::byte*>(data) + offset * static_cast<std::int64_t>(size_of(dtype)),
          dtype, strides[1], strides[3]};
}

Rows4 check_rows(const std::string& where, const char* name, const char* dim,
                 const ConstTensorView& view) {
  require(is_floating(view.dtype), [&] {
    return where + name + " must be float32, float64, float16 or bfloat16; found " +
           name_of(view.dtype);
  });
  require(view.rank >= 2 && view.rank <= 4, [&] {
    return where + name + " must have rank 2, 3 or 4; found rank " + std::to_string(view.rank) +
           ", " + shape_string(view);
  });
  const std::int64_t count = element_count(view);
  require(count == 0 || view.data != nullptr,
          [&] { return where + name + " " + shape_string(view) + " has no data (null pointer)"; });
  Rows4 rows;
  rows.data = view.data;
  rows.extent = extent_of(view);
  rows.dtype = view.dtype;
  const int rank = view.rank;
  const int s = rank == 4 ? 1 : 0;
  rows.shape = {rank == 4 ? view.shape[0] : 1, view.shape[s], rank >= 3 ? view.shape[s + 1] : 1,
                view.shape[rank - 1]};
  rows.strides = {rank == 4 ? view.strides[0] : 0, view.strides[s],
                  rank >= 3 ? view.strides[s + 1] : 0, view.strides[rank - 1]};
  require(rows.shape[3] > 0, [&] {
    return where + dim + " must be at least 1; found " + name + " " + shape_string(view);
  });
  return rows;
}

}  // namespace longspan::base
