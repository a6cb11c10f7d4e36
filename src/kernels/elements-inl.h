// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Numbers of any floating type as vectors of the type they are computed in: widened exactly when
// read, rounded once (to nearest, ties to even) when written. The same bits as src/base/float16.h.
#if defined(LONGSPAN_KERNELS_ELEMENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_ELEMENTS_INL_H_
#undef LONGSPAN_KERNELS_ELEMENTS_INL_H_
#else
#define LONGSPAN_KERNELS_ELEMENTS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <type_traits>

#include "base/float16.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// bfloat16 in the upper halves of the words that hold a float32, rounded; the lower halves are
// whatever is left. NaN stays NaN.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_to_bfloat16(D /* d */, hn::Vec<D> v) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFF)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x00400000));
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), quiet, rounded);
}

// Vectors of T from and to memory that holds E, where this target has a way; everywhere one number
// at a time.
template <class T, class E>
struct Elements {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2 && !defined(HWY_DISABLE_F16C)
  static constexpr bool kHalf = std::is_same_v<E, base::Float16>;
#else
  static constexpr bool kHalf = false;  // Highway's emulation leaves out inf and NaN
#endif
  static constexpr bool kVectors =
      std::is_same_v<E, T> ||
      (std::is_same_v<T, float> && (kHalf || std::is_same_v<E, base::BFloat16>));

  static HWY_INLINE V load(const E* p) {
    const D d;
    if constexpr (std::is_same_v<E, T>) {
      return hn::LoadU(d, p);
    } else {
      const hn::Rebind<std::uint16_t, D> d16;
      const auto bits = hn::LoadU(d16, &p->bits);
      if constexpr (kHalf) {
        return hn::PromoteTo(d, hn::BitCast(hn::Rebind<hwy::float16_t, D>(), bits));
      } else {
        const hn::RebindToUnsigned<D> du;
        return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, bits)));
      }
    }
  }
  static HWY_INLINE void store(V v, E* p) {
    const D d;
    if constexpr (std::is_same_v<E, T>) {
      hn::StoreU(v, d, p);
    } else {
      const hn::Rebind<std::uint16_t, D> d16;
      if constexpr (kHalf) {
        const hn::Rebind<hwy::float16_t, D> dh;
        hn::StoreU(hn::BitCast(d16, hn::DemoteTo(dh, v)), d16, &p->bits);
      } else {
        hn::StoreU(hn::TruncateTo(d16, hn::ShiftRight<16>(round_to_bfloat16(d, v))), d16, &p->bits);
      }
    }
  }
};

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
