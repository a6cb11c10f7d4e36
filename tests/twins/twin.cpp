// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// VDPBF16PS in plain arithmetic: the odd members of the pairs first, then the even ones, each step
// a fused multiply-add rounded to nearest; subnormal inputs and results are 0 of their sign.
#include "twins/twin.h"

#include <bit>
#include <cmath>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "twins/twin.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
// clang-format off
#include <hwy/highway.h>
#include "kernels/pair_table-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {

struct TwinDot : PairOperands {
  using V = hn::Vec<D>;
  static HWY_INLINE V flush(V x) {
    const D d;
    const V exponent = hn::BitCast(d, hn::Set(DU(), 0x7F800000u));
    const auto subnormal = hn::Eq(hn::And(x, exponent), hn::Zero(d));
    return hn::IfThenElse(subnormal, hn::And(x, hn::SignBit(d)), x);
  }
  static HWY_INLINE V odd(Row a) {
    return flush(hn::BitCast(D(), hn::And(a, hn::Set(DU(), 0xFFFF0000u))));
  }
  static HWY_INLINE V even(Row a) { return flush(hn::BitCast(D(), hn::ShiftLeft<16>(a))); }
  static HWY_INLINE V multiply_add(Row a, Row b, V c) {
    const V first = flush(hn::MulAdd(odd(a), odd(b), flush(c)));
    return flush(hn::MulAdd(even(a), even(b), first));
  }
  static HWY_INLINE Row join(const V (&values)[kValues]) {
    const auto low = round_to_bfloat16(D(), flush(values[0]));
    const auto high = round_to_bfloat16(D(), flush(values[1]));
    return hn::Or(hn::ShiftRight<16>(low), hn::And(high, hn::Set(DU(), 0xFFFF0000u)));
  }
};

void twin_operands(KernelTable<float>& table) { use_pairs<TwinDot>(table); }

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <cctype>

#include "kernels/registry.h"

namespace longspan::kernel {
HWY_EXPORT(twin_operands);

namespace {

std::vector<test::TwinKernel> list_twins() {
  std::vector<test::TwinKernel> twins;
  const auto runs = hwy::SupportedTargets() & static_cast<std::int64_t>(HWY_TARGETS);
  for (int bit = 0; bit < 63; ++bit) {
    const std::int64_t target = std::int64_t{1} << bit;
    if ((runs & target) == 0) continue;
    std::string name = hwy::TargetName(target);
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    test::TwinKernel twin{"VDPBF16PS in " + name, choose_kernel(name).float32};
    hwy::GetChosenTarget().Update(target);
    HWY_DYNAMIC_DISPATCH(twin_operands)(twin.table);
    twins.push_back(twin);
  }
  return twins;
}

}  // namespace
}  // namespace longspan::kernel

namespace longspan::test {

const std::vector<TwinKernel>& twin_kernels() {
  static const std::vector<TwinKernel> twins = kernel::list_twins();
  return twins;
}

float twin_dot(float acc, std::uint32_t a, std::uint32_t b) {
  const auto flush = [](float x) {
    return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0F, x) : x;
  };
  const auto step = [&](float x, float y, float c) {
    return flush(std::fma(flush(x), flush(y), flush(c)));
  };
  const auto odd = [](std::uint32_t pair) { return std::bit_cast<float>(pair & 0xFFFF0000u); };
  const auto even = [](std::uint32_t pair) { return std::bit_cast<float>(pair << 16); };
  return step(even(a), even(b), step(odd(a), odd(b), acc));
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bf16"))) void hardware_dot(float* acc, const std::uint32_t* a,
                                                                const std::uint32_t* b) {
  const __m512 sum =
      _mm512_dpbf16_ps(_mm512_loadu_ps(acc), reinterpret_cast<__m512bh>(_mm512_loadu_si512(a)),
                       reinterpret_cast<__m512bh>(_mm512_loadu_si512(b)));
  _mm512_storeu_ps(acc, sum);
}
#else
void hardware_dot(float*, const std::uint32_t*, const std::uint32_t*) {}
#endif

}  // namespace longspan::test
#endif  // HWY_ONCE
