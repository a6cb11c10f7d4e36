// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The forward template over VDPBF16PS. Compiled for Highway's AVX3 target with one instruction set
// more; only templates over this file's own type are instantiated here, so no function that other
// files share is compiled for it.
#include "kernels/avx512_bf16.h"

#if defined(__x86_64__)

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
#include "kernels/pair_table-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace {

// acc + odd * odd, then + even * even; each rounded once, to nearest, subnormals taken for 0.
struct BFloat16Dot : PairOperands {
  static HWY_INLINE hn::Vec<D> multiply_add(Row a, Row b, hn::Vec<D> c) {
    return hn::Vec<D>{_mm512_dpbf16_ps(c.raw, reinterpret_cast<__m512bh>(a.raw),
                                       reinterpret_cast<__m512bh>(b.raw))};
  }
  static HWY_INLINE Row join(const hn::Vec<D> (&values)[kValues]) {
    alignas(64) static constexpr std::uint16_t kWeave[32] = {
        0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const auto halves =
        reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(values[1].raw, values[0].raw));
    return Row{_mm512_permutexvar_epi16(_mm512_load_si512(kWeave), halves)};
  }
};

}  // namespace

void replace_operands(KernelTable<float>& table) { use_pairs<BFloat16Dot>(table); }

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HWY_AVX3

#if HWY_ONCE
#include <cpuid.h>

namespace longspan::kernel {
namespace {

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned part) {
  Registers r;
  __get_cpuid_count(leaf, part, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

}  // namespace

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
  N_AVX3::replace_operands(table);
  return table;
}

}  // namespace longspan::kernel
#endif  // HWY_ONCE

#else  // not x86-64

namespace longspan::kernel {
std::string avx512_bf16_refusal() { return "it is for x86-64 processors"; }
std::string avx512_bf16_drawback() { return {}; }
KernelTable<float> avx512_bf16_table(const KernelTable<float>& avx3) { return avx3; }
}  // namespace longspan::kernel

#endif
