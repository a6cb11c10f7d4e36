// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Hashing: vectors are lanes, rotations are rows of the one product, the argmax over them is
// vertical.
#if defined(LONGSPAN_KERNELS_HASH_PANEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_HASH_PANEL_INL_H_
#undef LONGSPAN_KERNELS_HASH_PANEL_INL_H_
#else
#define LONGSPAN_KERNELS_HASH_PANEL_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/hash_panel.h"
#include "kernels/lanes-inl.h"
#include "kernels/product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Buckets must be the same on every machine, and not every machine has a fused multiply-add.
template <class T>
struct RoundedDot : PlainDot<T> {
  using typename PlainDot<T>::Row;
  static HWY_INLINE Row multiply_add(Row a, Row b, Row c) { return hn::Add(c, hn::Mul(a, b)); }
};

template <class T, int N>
struct Hash {
  using D = hn::ScalableTag<T>;
  using Index = hn::RebindToSigned<D>;
  static constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));
  static constexpr std::int64_t kWidth = N * kLanes;
  // A rounded product needs registers beside the fused one's, and kRows rows take all of 16.
  static constexpr int kTogether = kRows == 4 ? 3 : kRows / 2;

  struct Columns {
    const HashPanel<T>& h;
    template <int R>
    HWY_INLINE void run(std::int64_t first) const {
      const D d;
      typename RoundedDot<T>::State state;
      Products<RoundedDot<T>, N> products(state);
      hn::Vec<D> acc[R][N];
      products.template multiply<Layout::kRowMajor>(h.rotations + first * h.head_dim, h.head_dim,
                                                    first, h.head_dim, h.panel, kWidth, acc);
      LONGSPAN_UNROLL
      for (int r = 0; r < R; ++r) {
        LONGSPAN_UNROLL
        for (int n = 0; n < N; ++n) {
          hn::Store(acc[r][n], d, h.products + (first + r) * kWidth + n * kLanes);
        }
      }
    }
  };

  static void panel(const HashPanel<T>& h) {
    for_row_groups<kTogether>(h.rounds * h.columns, Columns{h});
    std::fill(h.buckets, h.buckets + h.rounds * kWidth, 0);
    const T* product = h.products;
    for (std::int64_t round = 0; round < h.rounds; ++round) {
      std::int64_t digit = 1;
      for (const std::int64_t factor : h.factors) {
        for (int n = 0; n < N; ++n) {
          add_argmax(product + n * kLanes, factor / 2, static_cast<std::int32_t>(digit),
                     h.buckets + round * kWidth + n * kLanes);
        }
        product += factor / 2 * kWidth;
        digit *= factor;
      }
    }
  }

  // buckets += digit * argmax([x, -x]), x[0], x[1], ... kWidth apart. The first of equal ones wins,
  // so the positive half before the negative, and NaN never does.
  static HWY_INLINE void add_argmax(const T* HWY_RESTRICT x, std::int64_t half, std::int32_t digit,
                                    std::int32_t* HWY_RESTRICT buckets) {
    using Integer = hn::TFromD<Index>;
    const D d;
    const Index di;
    auto most = hn::Neg(hn::Inf(d)), least = hn::Inf(d);
    auto index = hn::Zero(di), at_most = hn::Zero(di), at_least = hn::Zero(di);
    for (std::int64_t c = 0; c < half; ++c) {
      const auto v = hn::Load(d, x + c * kWidth);
      const auto above = hn::Gt(v, most), below = hn::Lt(v, least);
      most = hn::IfThenElse(above, v, most);
      least = hn::IfThenElse(below, v, least);
      at_most = hn::IfThenElse(hn::RebindMask(di, above), index, at_most);
      at_least = hn::IfThenElse(hn::RebindMask(di, below), index, at_least);
      index = hn::Add(index, hn::Set(di, Integer{1}));
    }
    const auto positive = hn::RebindMask(di, hn::Ge(most, hn::Neg(least)));
    alignas(64) Integer argmax[kLanes];
    hn::Store(hn::IfThenElse(positive, at_most, hn::Add(at_least, index)), di, argmax);
    for (std::int64_t l = 0; l < kLanes; ++l) {
      buckets[l] += digit * static_cast<std::int32_t>(argmax[l]);
    }
  }
};

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
