// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The micro-kernel of every product: C[R][N vectors] = sum_k A(r, k) * B[k][N vectors]. A is read
// one operand at a time (broadcast from memory), B and C are rows of lanes. C stays in registers.
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

#include "kernels/kernel_table.h"

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

// Rows of A handled together; an even number, so that they are whole pairs where they are also what
// is summed over next. The widest row of C is kMaxVectors.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
inline constexpr int kRows = 8;
#else
inline constexpr int kRows = 4;
#endif

// How A(r, k) lies in memory.
enum class Layout {
  kRowMajor,     // a[r * stride + k]: rows of keys meet a panel of queries
  kColumnMajor,  // a[k * stride + r]: components of values meet a panel of probabilities
};

// Operands whose values are taken for 0 where they are not finite.
enum class Clean { kNothing, kA, kB };

// How one operand of A meets a vector of operands of B. An operand is kValues neighbours along the
// dimension that is summed over, so the depth of a product is counted in operands; sums take kDepth
// values at a time.
template <class T>
struct PlainDot {
  using Real = T;
  using Operand = T;
  using D = hn::ScalableTag<T>;
  using Row = hn::Vec<D>;
  struct State {};  // what the instructions need while a block lasts
  static constexpr int kValues = 1;
  static constexpr int kDepth = 1;
  static constexpr int kRowMultiple = kRows;
  static constexpr Layout kComponents = Layout::kColumnMajor;
  static HWY_INLINE Row load(const Operand* b) { return hn::Load(D(), b); }
  static HWY_INLINE void store(Row row, Operand* b) { hn::Store(row, D(), b); }
  static HWY_INLINE Row broadcast(Operand a) { return hn::Set(D(), a); }
  static HWY_INLINE hn::Vec<D> multiply_add(Row a, Row b, hn::Vec<D> c) {
    return hn::MulAdd(a, b, c);
  }
  // Operands from vectors of their values, and one of the values again.
  static HWY_INLINE Row join(const hn::Vec<D> (&values)[kValues]) { return values[0]; }
  static HWY_INLINE Real value(Operand a, int) { return a; }
  // Value m of each operand goes to row m, at `lane` of it; rows are `stride` operands apart.
  static HWY_INLINE void store_values(Row row, Operand* rows, std::int64_t, std::int64_t lane) {
    hn::Store(row, D(), rows + lane);
  }
  // 0 in the place of values that are not finite.
  static HWY_INLINE Row finite(Row a) { return hn::IfThenElseZero(hn::IsFinite(a), a); }
  // 0 in the place of values that are not kept.
  static HWY_INLINE Row keep(Row row, const hn::Mask<D> (&kept)[kValues]) {
    return hn::IfThenElseZero(kept[0], row);
  }
};

// Operands that n values along a sum take.
template <class Dot>
constexpr std::int64_t operands(std::int64_t n) {
  return (n + Dot::kValues - 1) / Dot::kValues;
}

// Component c of the values of a key (of keys, where it is keys that are summed over); the others
// that stand together follow it.
template <class Dot>
HWY_INLINE const typename Dot::Operand* component(const OperandRows& rows, std::int64_t key,
                                                  std::int64_t c) {
  const auto* group =
      static_cast<const typename Dot::Operand*>(rows.data) + c / Dot::kRowMultiple * rows.group;
  const std::int64_t k = key / Dot::kValues;
  const std::int64_t r = c % Dot::kRowMultiple;
  return Dot::kComponents == Layout::kRowMajor ? group + r * rows.stride + k
                                               : group + k * rows.stride + r;
}

// Calls body.run<R>(first) for groups of kGroup rows and once for the rest.
template <int R, class Body>
HWY_INLINE void rest_of_rows(std::int64_t first, std::int64_t rest, const Body& body) {
  if constexpr (R > 0) {
    if (rest == R) {
      body.template run<R>(first);
    } else {
      rest_of_rows<R - 1>(first, rest, body);
    }
  }
}
template <int kGroup, class Body>
HWY_INLINE void for_row_groups(std::int64_t rows, const Body& body) {
  std::int64_t first = 0;
  for (; first + kGroup <= rows; first += kGroup) body.template run<kGroup>(first);
  rest_of_rows<kGroup - 1>(first, rows - first, body);
}

// The products of one A with one B, some rows of C at a time. What a whole tile of rows gives may
// be kept in the object (tile_products-inl.h); here there is nothing to keep.
template <class Dot, int N>
class Products {
  using Operand = typename Dot::Operand;

 public:
  explicit Products(typename Dot::State&) {}

  // c = rows `row` .. `row` + R of C; `a` is where row `row` of A begins.
  template <Layout kLayout, Clean kClean = Clean::kNothing, int R>
  HWY_INLINE void multiply(const Operand* HWY_RESTRICT a, std::int64_t stride, std::int64_t /*row*/,
                           std::int64_t depth, const Operand* HWY_RESTRICT b, std::int64_t b_stride,
                           hn::Vec<typename Dot::D> (&c)[R][N]) {
    constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(typename Dot::D()));
    LONGSPAN_UNROLL
    for (int r = 0; r < R; ++r) {
      LONGSPAN_UNROLL
      for (int n = 0; n < N; ++n) c[r][n] = hn::Zero(typename Dot::D());
    }
    LONGSPAN_UNROLL_4
    for (std::int64_t k = 0; k < depth; ++k) {
      typename Dot::Row row[N];
      LONGSPAN_UNROLL
      for (int n = 0; n < N; ++n) {
        row[n] = Dot::load(b + k * b_stride + n * kLanes);
        if constexpr (kClean == Clean::kB) row[n] = Dot::finite(row[n]);
      }
      LONGSPAN_UNROLL
      for (int r = 0; r < R; ++r) {
        auto scalar =
            Dot::broadcast(kLayout == Layout::kRowMajor ? a[r * stride + k] : a[k * stride + r]);
        if constexpr (kClean == Clean::kA) scalar = Dot::finite(scalar);
        LONGSPAN_UNROLL
        for (int n = 0; n < N; ++n) c[r][n] = Dot::multiply_add(scalar, row[n], c[r][n]);
      }
    }
  }
};

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
