// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Pairs of bfloat16 from float32 by VCVTNE2PS2BF16. For files compiled for AVX-512 with
// AVX512_BF16.
#if defined(LONGSPAN_KERNELS_PAIR_CONVERSION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_PAIR_CONVERSION_INL_H_
#undef LONGSPAN_KERNELS_PAIR_CONVERSION_INL_H_
#else
#define LONGSPAN_KERNELS_PAIR_CONVERSION_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "kernels/pairs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

struct ConvertedPairs : PairOperands {
  static HWY_INLINE Row join(const hn::Vec<D> (&values)[kValues]) {
    alignas(64) static constexpr std::uint16_t kWeave[32] = {
        0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const auto halves =
        reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(values[1].raw, values[0].raw));
    return Row{_mm512_permutexvar_epi16(_mm512_load_si512(kWeave), halves)};
  }
};

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
