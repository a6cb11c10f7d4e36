// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Rows of some lists (heads of a batch entry) side by side, for work that takes them in any order.
// The rows of one head of [seqlen, num_heads, dim] are a whole position apart: they fill few sets
// of a cache, and hardly two of them share a page. Rows of a long list are side by side in small
// pages, of which the processor does not know enough at a time to find the next row at once; a
// workspace has large ones.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/buffer.h"
#include "base/visit_dtype.h"
#include "engine/rows.h"

namespace longspan::engine {

// What 2048 pages of 4 KiB hold, a second level table of pages; from there on a copy pays.
inline constexpr std::int64_t kLongList = std::int64_t{8} << 20;

// Where copies of lists stand, if there are any.
class ListCopies {
 public:
  ListCopies() = default;
  // `like`: rows of the tensor, data == nullptr where there is none. Where they are of the type
  // that is wanted and side by side already, and few, nothing is copied.
  template <class Rows>
  ListCopies(const Rows& like, DType dtype, std::int64_t seqlen, std::int64_t dim)
      : dtype_(dtype),
        seqlen_(seqlen),
        dim_(dim),
        given_(like.data != nullptr),
        apart_(given_ && (like.dtype != dtype || like.row_stride != dim || like.dim_stride != 1)),
        copies_(apart_ || (given_ && list_bytes() >= kLongList)) {}

  // Memory is short: where rows are side by side nothing is copied, however many they are.
  void spare_memory() noexcept { copies_ = apart_; }
  void carve(base::Carver& carver, std::int64_t lists) {
    if (copies_) data_ = carver.take<std::byte>(lists * list_bytes());
  }

 protected:
  // The rows of list n, as a RowSource or a RowTarget, or those of the tensor.
  template <class Rows>
  Rows rows_of(std::int64_t n, const Rows& tensor) const noexcept {
    if (!copies_) return tensor;
    return {data_ + n * list_bytes(), dtype_, dim_, 1};
  }
  std::int64_t list_bytes() const noexcept {
    return seqlen_ * dim_ * static_cast<std::int64_t>(size_of(dtype_));
  }

  DType dtype_ = DType::kFloat32;
  std::int64_t seqlen_ = 0;
  std::int64_t dim_ = 0;
  bool given_ = false;
  bool apart_ = false;  // or of another type
  bool copies_ = false;
  std::byte* data_ = nullptr;
};

class ListRows : public ListCopies {
 public:
  ListRows() = default;
  ListRows(const RowSource& like, std::int64_t seqlen, std::int64_t dim)
      : ListCopies(like, like.dtype, seqlen, dim) {}

  RowSource rows(std::int64_t n, const RowSource& tensor) const noexcept {
    return rows_of(n, tensor);
  }
  // Copies those of these rows that list n has.
  void load(std::int64_t n, const RowSource& tensor, mask::Range rows) const {
    if (!copies_) return;
    rows = mask::intersect(rows, {0, seqlen_});
    base::visit_floating(dtype_, [&](auto tag) {
      using E = decltype(tag);
      auto* to = reinterpret_cast<E*>(data_ + n * list_bytes());
      for_fetched(rows, {tensor}, dim_, [&](std::int64_t row) {
        const E* from = static_cast<const E*>(tensor.data) + row * tensor.row_stride;
        if (tensor.dim_stride == 1) {
          std::copy_n(from, dim_, to + row * dim_);
        } else {
          for (std::int64_t d = 0; d < dim_; ++d) to[row * dim_ + d] = from[d * tensor.dim_stride];
        }
      });
    });
  }
};

// The same of rows of T that are added to: the rows of the tensor, or copies of them that are
// rounded to it at the end.
template <class T>
class ListSums : public ListCopies {
 public:
  // `like`: data == nullptr where they are not wanted.
  ListSums(const RowTarget& like, std::int64_t seqlen, std::int64_t dim)
      : ListCopies(like, kDTypeOf<T>, seqlen, dim) {}

  bool wanted() const noexcept { return given_; }
  RowTarget rows(std::int64_t n, const RowTarget& tensor) const noexcept {
    return rows_of(n, tensor);
  }
  // Those of these rows that list n has are complete.
  void store(const kernel::KernelTable<T>& kernel, std::int64_t n, const RowTarget& tensor,
             mask::Range rows) const {
    rows = mask::intersect(rows, {0, seqlen_});
    if (!copies_ || rows.empty()) return;
    const auto* sums = reinterpret_cast<const T*>(data_ + n * list_bytes());
    kernel.store_rows(tensor, rows.begin, rows.size(), dim_, sums + rows.begin * dim_, dim_, T{1});
  }
};

}  // namespace longspan::engine
