// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The templates of both passes over VDPBF16PS. Compiled for Highway's AVX3 target with one
// instruction set more; only templates over this file's own type are instantiated here, so no
// function that other files share is compiled for it.
#include "kernels/avx512_bf16.h"

#if defined(__x86_64__) && !defined(LONGSPAN_WITHOUT_AVX512)

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX2 | HWY_AVX3_DL)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/avx512_bf16.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
// clang-format off
#include <hwy/highway.h>
// clang-format on

#if HWY_TARGET == HWY_AVX3
#undef HWY_TARGET_STR
#define HWY_TARGET_STR HWY_TARGET_STR_AVX3 ",avx512bf16"
#include "kernels/pair_conversion-inl.h"
#include "kernels/pair_table-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace {

// acc + odd * odd, then + even * even; each rounded once, to nearest, subnormals taken for 0.
struct BFloat16Dot : ConvertedPairs {
  static HWY_INLINE hn::Vec<D> multiply_add(Row a, Row b, hn::Vec<D> c) {
    return hn::Vec<D>{_mm512_dpbf16_ps(c.raw, reinterpret_cast<__m512bh>(a.raw),
                                       reinterpret_cast<__m512bh>(b.raw))};
  }
};

}  // namespace

void use_dot_products(KernelTable<float>& table) { use_pairs<BFloat16Dot>(table); }

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HWY_AVX3

#if HWY_ONCE
#include "kernels/cpuid.h"

namespace longspan::kernel {

std::string avx512_bf16_refusal() {
  if ((hwy::SupportedTargets() & HWY_AVX3) == 0) {
    return "this processor, or the system, lacks AVX-512 (F, BW, CD, DQ, VL)";
  }
  constexpr unsigned kAvx512Bf16 = 1u << 5;
  if ((cpuid(7, 1).eax & kAvx512Bf16) == 0) return "this processor lacks AVX512_BF16";
  return {};
}

std::string avx512_bf16_drawback() {
  // Intel's processors with AMX (and AVX512_FP16, which came with it) start a VDPBF16PS every two
  // cycles, four float32 multiply-adds meanwhile: half the FLOP.
  constexpr unsigned kGenuineIntel = 0x756E6547;  // "Genu"
  constexpr unsigned kAvx512Fp16 = 1u << 23;
  if (cpuid(0, 0).ebx == kGenuineIntel && (cpuid(7, 0).edx & kAvx512Fp16) != 0) {
    return "VDPBF16PS has half the speed of float32 arithmetic on this processor";
  }
  return {};
}

KernelTable<float> avx512_bf16_table(const KernelTable<float>& avx3) {
  KernelTable<float> table = avx3;
  N_AVX3::use_dot_products(table);
  return table;
}

}  // namespace longspan::kernel
#endif  // HWY_ONCE

#else  // not x86-64, or left out

namespace longspan::kernel {
std::string avx512_bf16_refusal() { return "this build has no AVX-512"; }
std::string avx512_bf16_drawback() { return {}; }
KernelTable<float> avx512_bf16_table(const KernelTable<float>& avx3) { return avx3; }
}  // namespace longspan::kernel

#endif
