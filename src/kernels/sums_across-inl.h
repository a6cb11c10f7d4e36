// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Sums of the lanes of many vectors at once. Two vectors meet in one: each keeps the lanes that the
// other gives away, and adds to them its own lanes from there. With vectors of which bit b of the
// number differs, lanes meet across bit b of theirs; after log2(lanes) such steps lane n holds the
// sum of vector n. The first step is taken for each pair of vectors and the last once, so near
// lanes meet first: what crosses blocks of 128 bits costs three times what stays in one.
#if defined(LONGSPAN_KERNELS_SUMS_ACROSS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_SUMS_ACROSS_INL_H_
#undef LONGSPAN_KERNELS_SUMS_ACROSS_INL_H_
#else
#define LONGSPAN_KERNELS_SUMS_ACROSS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET != HWY_SCALAR
// Pieces of kBytes in turn: the even ones of `even`, the odd ones of `odd`.
template <std::size_t kBytes, class D, class V = hn::Vec<D>>
HWY_INLINE V take_in_turn(D d, V odd, V even) {
  if constexpr (kBytes <= 8) {
    const hn::Repartition<hwy::UnsignedFromSize<kBytes>, D> pieces;
    return hn::BitCast(d, hn::OddEven(hn::BitCast(pieces, odd), hn::BitCast(pieces, even)));
  } else if constexpr (kBytes == 16) {
    return hn::OddEvenBlocks(odd, even);
  } else {
    return hn::ConcatUpperLower(d, odd, even);
  }
}

// Neighbouring pieces of kBytes change places.
template <std::size_t kBytes, class D, class V = hn::Vec<D>>
HWY_INLINE V swap_neighbours(D d, V v) {
  if constexpr (kBytes <= 8) {
    const hn::Repartition<hwy::UnsignedFromSize<kBytes>, D> pieces;
    return hn::BitCast(d, hn::Reverse2(pieces, hn::BitCast(pieces, v)));
  } else if constexpr (kBytes == 16) {
    return hn::SwapAdjacentBlocks(v);
  } else {
    return hn::ConcatLowerUpper(d, v, v);
  }
}
#endif

// N vectors, one after the other in memory. Lane n, and each that differs from it by a multiple of
// N: a part of the sum of vector n, the whole when N is the number of lanes.
template <std::int64_t N, class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> sums_across(D d, const T* vectors) {
  if constexpr (N == 1) return hn::Load(d, vectors);
#if HWY_TARGET != HWY_SCALAR
  else {
    constexpr std::size_t kBytes = N / 2 * sizeof(T);
    const auto low = sums_across<N / 2>(d, vectors);
    const auto high =
        sums_across<N / 2>(d, vectors + N / 2 * static_cast<std::int64_t>(hn::MaxLanes(d)));
    return hn::Add(take_in_turn<kBytes>(d, high, low),
                   swap_neighbours<kBytes>(d, take_in_turn<kBytes>(d, low, high)));
  }
#endif
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
