// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The micro-kernel of every product: C[R][N vectors] += sum_k A(r, k) * B[k][N vectors]. A is read
// one scalar at a time (broadcast from memory), B and C are rows of lanes. C stays in registers.
//   registers: R * N accumulators + N of B + 1 broadcast. AVX-512 and NEON have 32: 8 x 3 takes
//   28. AVX2 and SSE have 16: 4 x 3 takes all of them.
#if defined(LONGSPAN_KERNELS_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_PRODUCT_INL_H_
#undef LONGSPAN_KERNELS_PRODUCT_INL_H_
#else
#define LONGSPAN_KERNELS_PRODUCT_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

// Loops over the registers of a tile must be unrolled whole: an array of vectors that is indexed at
// run time lives in memory.
#ifndef LONGSPAN_UNROLL
#if HWY_COMPILER_CLANG
#define LONGSPAN_UNROLL _Pragma("clang loop unroll(full)")
#define LONGSPAN_UNROLL_4 _Pragma("clang loop unroll_count(4)")
#else
#define LONGSPAN_UNROLL _Pragma("GCC unroll 16")
#define LONGSPAN_UNROLL_4 _Pragma("GCC unroll 4")
#endif
#endif

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Rows of A handled together, and the widest row of C in vectors.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
inline constexpr int kRows = 8;
#else
inline constexpr int kRows = 4;
#endif
inline constexpr int kTileVectors = 3;

// How A(r, k) lies in memory.
enum class Layout {
  kRowMajor,     // a[r * stride + k]: rows of keys meet a panel of queries
  kColumnMajor,  // a[k * stride + r]: components of values meet a panel of probabilities
};

// How one operand of A meets a vector of operands of B. An operand is kValues neighbours along the
// dimension that is summed over, so the depth of a product is counted in operands.
template <class T>
struct PlainDot {
  using Real = T;
  using Operand = T;
  using D = hn::ScalableTag<T>;
  using Row = hn::Vec<D>;
  static constexpr int kValues = 1;
  static HWY_INLINE Row load(const Operand* b) { return hn::Load(D(), b); }
  static HWY_INLINE void store(Row row, Operand* b) { hn::Store(row, D(), b); }
  static HWY_INLINE Row broadcast(Operand a) { return hn::Set(D(), a); }
  static HWY_INLINE hn::Vec<D> multiply_add(Row a, Row b, hn::Vec<D> c) {
    return hn::MulAdd(a, b, c);
  }
  // Operands from vectors of their values, and one of the values again.
  static HWY_INLINE Row join(const hn::Vec<D> (&values)[kValues]) { return values[0]; }
  static HWY_INLINE Real value(Operand a, int) { return a; }
  // 0 in the place of values that are not finite.
  static HWY_INLINE Row finite(Row a) { return hn::IfThenElseZero(hn::IsFinite(a), a); }
  // 0 in the place of values that are not kept.
  static HWY_INLINE Row keep(Row row, const hn::Mask<D> (&kept)[kValues]) {
    return hn::IfThenElseZero(kept[0], row);
  }
};

// Operands of A whose values are not finite are taken for 0.
template <class Dot>
struct FiniteDot : Dot {
  static HWY_INLINE typename Dot::Row broadcast(typename Dot::Operand a) {
    return Dot::finite(Dot::broadcast(a));
  }
};

// Rows handled together where they are also what is summed over next: whole operands.
template <class Dot>
inline constexpr int kRowsOf = kRows / Dot::kValues* Dot::kValues;

template <class Dot, Layout kLayout, int R, int N>
HWY_INLINE void multiply(const typename Dot::Operand* HWY_RESTRICT a, std::int64_t stride,
                         std::int64_t depth, const typename Dot::Operand* HWY_RESTRICT b,
                         std::int64_t b_stride, hn::Vec<typename Dot::D> (&c)[R][N]) {
  constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(typename Dot::D()));
  LONGSPAN_UNROLL_4
  for (std::int64_t k = 0; k < depth; ++k) {
    typename Dot::Row row[N];
    LONGSPAN_UNROLL
    for (int n = 0; n < N; ++n) row[n] = Dot::load(b + k * b_stride + n * kLanes);
    LONGSPAN_UNROLL
    for (int r = 0; r < R; ++r) {
      const auto scalar =
          Dot::broadcast(kLayout == Layout::kRowMajor ? a[r * stride + k] : a[k * stride + r]);
      LONGSPAN_UNROLL
      for (int n = 0; n < N; ++n) c[r][n] = Dot::multiply_add(scalar, row[n], c[r][n]);
    }
  }
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
