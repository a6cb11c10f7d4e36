// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Transposition, lanes x lanes at a time, in registers. Number an element of a square of L rows by
// the bits of (row, column). Taking the even and the odd elements of two neighbouring rows apart,
// the evens to the upper half of the rows and the odds to the lower, moves the lowest bit of the
// column to the top of the row's bits and the lowest bit of the row to the top of the column's.
// After log2(L) such steps row and column have changed places.
#if defined(LONGSPAN_KERNELS_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_TRANSPOSE_INL_H_
#undef LONGSPAN_KERNELS_TRANSPOSE_INL_H_
#else
#define LONGSPAN_KERNELS_TRANSPOSE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET != HWY_SCALAR
template <int L, class D, class V = hn::Vec<D>>
HWY_INLINE void part_even_and_odd(D d, const V (&in)[L], V (&out)[L]) {
  LONGSPAN_UNROLL
  for (int i = 0; i < L / 2; ++i) {
    out[i] = hn::ConcatEven(d, in[2 * i + 1], in[2 * i]);
    out[i + L / 2] = hn::ConcatOdd(d, in[2 * i + 1], in[2 * i]);
  }
}

// Vectors of two blocks of 128 bits: what crosses from block to block costs three times what stays
// in one, and is done once.
template <int L, class D, class V = hn::Vec<D>>
HWY_INLINE void exchange_blocks(D d, const V (&in)[L], V (&out)[L]) {
  LONGSPAN_UNROLL
  for (int i = 0; i < L / 2; ++i) {
    out[i] = hn::ConcatLowerLower(d, in[i + L / 2], in[i]);
    out[i + L / 2] = hn::ConcatUpperUpper(d, in[i + L / 2], in[i]);
  }
}

// One step of the transposition of squares of `kSquare` x `kSquare`, one in each block.
template <int kSquare, int L, class D, class V = hn::Vec<D>>
HWY_INLINE void interleave_in_blocks(D d, const V (&in)[L], V (&out)[L]) {
  LONGSPAN_UNROLL
  for (int first = 0; first < L; first += kSquare) {
    LONGSPAN_UNROLL
    for (int i = 0; i < kSquare / 2; ++i) {
      const V a = in[first + i], b = in[first + i + kSquare / 2];
      out[first + 2 * i] = hn::InterleaveLower(d, a, b);
      out[first + 2 * i + 1] = hn::InterleaveUpper(d, a, b);
    }
  }
}

// Rows become columns, in place.
template <int L, class D, class V = hn::Vec<D>>
HWY_INLINE void transpose_square(D d, V (&rows)[L]) {
  static_assert(L == 2 || L == 4 || L == 8 || L == 16);
  V step[L];
  const auto keep = [&]() HWY_ATTR {
    LONGSPAN_UNROLL
    for (int i = 0; i < L; ++i) rows[i] = step[i];
  };
  if constexpr (L * sizeof(hn::TFromD<D>) == 32) {
    exchange_blocks<L>(d, rows, step);
    interleave_in_blocks<L / 2, L>(d, step, rows);
    if constexpr (L == 8) {
      interleave_in_blocks<L / 2, L>(d, rows, step);
      keep();
    }
  } else {
    LONGSPAN_UNROLL
    for (int reached = 1; reached < L; reached *= 2) {
      part_even_and_odd<L>(d, rows, step);
      keep();
    }
  }
}
#endif

// Rows and columns of `in` become columns and rows of `out`, square by square and one by one where
// none fits. T is only moved: any type of its size may be meant.
//   in.row(r).load(c)   the neighbours (r, c) .. (r, c + lanes)     in.row(r).number(c)  one
//   out.store(v, c, r)  the neighbours (c, r) .. (c, r + lanes)     out.set(x, c, r)     one
//   in.ahead(r)         row r will be read soon
// Both by value: stores then can't change where they go.
template <class T, class In, class Out>
HWY_INLINE void transpose_between(In in, std::int64_t rows, std::int64_t columns, Out out) {
  std::int64_t r = 0;
#if HWY_TARGET != HWY_SCALAR
  using D = hn::ScalableTag<T>;
  const D d;
  constexpr int L = static_cast<int>(hn::MaxLanes(D()));
  for (; r + L <= rows; r += L) {
    for (std::int64_t next = r + L; next < std::min(r + std::int64_t{2} * L, rows); ++next)
      in.ahead(next);
    decltype(in.row(r)) row[L];
    for (int i = 0; i < L; ++i) row[i] = in.row(r + i);
    std::int64_t c = 0;
    for (; c + L <= columns; c += L) {
      hn::Vec<D> square[L];
      LONGSPAN_UNROLL
      for (int i = 0; i < L; ++i) square[i] = row[i].load(c);
      transpose_square<L>(d, square);
      LONGSPAN_UNROLL
      for (int i = 0; i < L; ++i) out.store(square[i], c + i, r);
    }
    for (; c < columns; ++c) {
      for (int i = 0; i < L; ++i) out.set(row[i].number(c), c, r + i);
    }
  }
#endif
  for (; r < rows; ++r) {
    const auto row = in.row(r);
    for (std::int64_t c = 0; c < columns; ++c) out.set(row.number(c), c, r);
  }
}

// Rows of T in memory, as either side.
template <class T>
struct PlainRows {
  T* data;
  std::int64_t stride;
  using D = hn::ScalableTag<std::remove_const_t<T>>;
  struct Row {
    const T* data;
    HWY_INLINE hn::Vec<D> load(std::int64_t c) const { return hn::LoadU(D(), data + c); }
    HWY_INLINE T number(std::int64_t c) const { return data[c]; }
  };
  HWY_INLINE Row row(std::int64_t r) const { return {data + r * stride}; }
  HWY_INLINE void ahead(std::int64_t) const {}
  HWY_INLINE void store(hn::Vec<D> v, std::int64_t r, std::int64_t c) const {
    hn::StoreU(v, D(), data + r * stride + c);
  }
  HWY_INLINE void set(T x, std::int64_t r, std::int64_t c) const { data[r * stride + c] = x; }
};

// out[c][r] = in[r][c] for r < rows, c < columns; strides in elements.
template <class T>
void transpose(const T* HWY_RESTRICT in, std::int64_t in_stride, std::int64_t rows,
               std::int64_t columns, T* HWY_RESTRICT out, std::int64_t out_stride) {
  transpose_between<T>(PlainRows<const T>{in, in_stride}, rows, columns,
                       PlainRows<T>{out, out_stride});
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
