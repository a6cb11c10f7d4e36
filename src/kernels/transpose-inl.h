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

#include <cstdint>

#include "kernels/product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET != HWY_SCALAR
template <int L, class D, class V = hn::Vec<D>>
HWY_INLINE void transpose_step(D d, const V (&in)[L], V (&out)[L]) {
  LONGSPAN_UNROLL
  for (int i = 0; i < L / 2; ++i) {
    out[i] = hn::ConcatEven(d, in[2 * i + 1], in[2 * i]);
    out[i + L / 2] = hn::ConcatOdd(d, in[2 * i + 1], in[2 * i]);
  }
}
#endif

// out[c][r] = in[r][c] for r < rows, c < columns; strides in elements. T is only moved: any type of
// its size may be meant.
template <class T>
void transpose(const T* HWY_RESTRICT in, std::int64_t in_stride, std::int64_t rows,
               std::int64_t columns, T* HWY_RESTRICT out, std::int64_t out_stride) {
  std::int64_t r = 0;
#if HWY_TARGET != HWY_SCALAR
  using D = hn::ScalableTag<T>;
  const D d;
  constexpr int L = static_cast<int>(hn::MaxLanes(D()));
  for (; r + L <= rows; r += L) {
    std::int64_t c = 0;
    for (; c + L <= columns; c += L) {
      hn::Vec<D> a[L];
      hn::Vec<D> b[L];
      LONGSPAN_UNROLL
      for (int i = 0; i < L; ++i) a[i] = hn::LoadU(d, in + (r + i) * in_stride + c);
      constexpr int kSteps = L == 2 ? 1 : L == 4 ? 2 : L == 8 ? 3 : 4;
      static_assert(L <= 16);
      transpose_step<L>(d, a, b);
      if constexpr (kSteps >= 2) transpose_step<L>(d, b, a);
      if constexpr (kSteps >= 3) transpose_step<L>(d, a, b);
      if constexpr (kSteps >= 4) transpose_step<L>(d, b, a);
      LONGSPAN_UNROLL
      for (int i = 0; i < L; ++i) {
        hn::StoreU(kSteps % 2 == 0 ? a[i] : b[i], d, out + (c + i) * out_stride + r);
      }
    }
    for (; c < columns; ++c) {
      for (int i = 0; i < L; ++i) out[c * out_stride + r + i] = in[(r + i) * in_stride + c];
    }
  }
#endif
  for (; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) out[c * out_stride + r] = in[r * in_stride + c];
  }
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
