// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The lanes of a panel in a visibility word.
#if defined(LONGSPAN_KERNELS_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_LANES_INL_H_
#undef LONGSPAN_KERNELS_LANES_INL_H_
#else
#define LONGSPAN_KERNELS_LANES_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Bits of the lanes of a panel.
template <std::int64_t kWidth>
inline constexpr std::uint64_t kLanesOf = kWidth == 64 ? ~std::uint64_t{0}
                                                       : (std::uint64_t{1} << (kWidth % 64)) - 1;

// The lanes of vector n.
template <class D>
HWY_INLINE hn::Mask<D> lane_mask(D d, std::uint64_t word, int n) {
  const std::uint64_t bits = word >> (n * static_cast<std::int64_t>(hn::MaxLanes(D())));
  return hn::LoadMaskBits(d, reinterpret_cast<const std::uint8_t*>(&bits));
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
