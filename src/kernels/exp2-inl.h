// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// 2^x for vectors of float32 and float64, for any x: 0 below the normal range, +inf above it, NaN
// for NaN. x is split as n + f, 0 <= f <= 1; 2^f is a minimax polynomial (relative error) whose
// constant term is exactly 1, so that 2^0 is. float32: degree 5, error 8.3e-8. float64: degree 11,
// error 3.3e-18. Both before rounding.
#if defined(LONGSPAN_KERNELS_EXP2_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_EXP2_INL_H_
#undef LONGSPAN_KERNELS_EXP2_INL_H_
#else
#define LONGSPAN_KERNELS_EXP2_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
struct Exp2Constants;

template <>
struct Exp2Constants<float> {
  float least = -126.0f;
  float coefficients[6] = {1.0f,          0.693151312f,   0.24016445f,
                           0.0557999131f, 0.00901703028f, 0.00186713008f};
  static constexpr int kDegree = 5;
  static constexpr int kMantissaBits = 23;
  static constexpr float kMagic =
      12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  static constexpr float kMost = 128.0f;
};
template <>
struct Exp2Constants<double> {
  double least = -1022.0;
  double coefficients[12] = {1.0,
                             0.693147180559945928,
                             0.240226506959063303,
                             0.0555041086656022387,
                             0.00961812909955089561,
                             0.00133335586295626759,
                             0.000154035123097339487,
                             0.0000152531750537952462,
                             1.32083673082200493e-6,
                             1.02532123040520901e-7,
                             6.55952983551727078e-9,
                             6.26346527342259112e-10};
  static constexpr int kDegree = 11;
  static constexpr int kMantissaBits = 52;
  static constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kMost = 1024.0;
};
template <class T>
inline constexpr Exp2Constants<T> kExp2Constants;

// The constants are read from memory where they are used (a broadcast operand costs nothing beside
// the multiplication). A caller with all registers full of accumulators passes them through
// opaque(), so that the compiler does not keep them in registers across its loop and the
// accumulators in memory: that cost a tenth of the forward kernel.
template <class T>
HWY_INLINE T* opaque(T* p) {
  asm volatile("" : "+r"(p));
  return p;
}

template <class D, class V = hn::Vec<D>, class T = hn::TFromD<D>>
HWY_INLINE V exp2_polynomial(D d, V f, const Exp2Constants<T>& c) {
  V p = hn::Set(d, c.coefficients[c.kDegree]);
  for (int k = c.kDegree - 1; k >= 0; --k) p = hn::MulAdd(p, f, hn::Set(d, c.coefficients[k]));
  return p;
}

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
// vreduceps and vscalefps: f = x - floor(x), and the polynomial's result times 2^floor(x), in one
// instruction each; vscalefps also gives inf and NaN where they are due. Lanes that would be
// subnormal are zeroed by mask: producing them takes an assist.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> exp2_of(D d, hn::Vec<D> x, const Exp2Constants<T>& c = kExp2Constants<T>) {
  constexpr int kFloor = 0x09;  // no fraction bits, towards -inf, no exceptions
  if constexpr (sizeof(T) == 4) {
    const hn::Vec<D> p = exp2_polynomial(d, hn::Vec<D>{_mm512_reduce_ps(x.raw, kFloor)}, c);
    const __mmask16 normal = _mm512_cmp_ps_mask(x.raw, _mm512_set1_ps(c.least), _CMP_NLT_UQ);
    return hn::Vec<D>{_mm512_maskz_scalef_ps(normal, p.raw, x.raw)};
  } else {
    const hn::Vec<D> p = exp2_polynomial(d, hn::Vec<D>{_mm512_reduce_pd(x.raw, kFloor)}, c);
    const __mmask8 normal = _mm512_cmp_pd_mask(x.raw, _mm512_set1_pd(c.least), _CMP_NLT_UQ);
    return hn::Vec<D>{_mm512_maskz_scalef_pd(normal, p.raw, x.raw)};
  }
}
#else
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> exp2_of(D d, hn::Vec<D> x, const Exp2Constants<T>& c = kExp2Constants<T>) {
  using C = Exp2Constants<T>;
  using U = hwy::MakeUnsigned<T>;
  const hn::RebindToUnsigned<D> du;
  const auto magic = hn::Set(d, C::kMagic);
  const auto capped = hn::Min(x, hn::Set(d, C::kMost));
  // floor(x), or x - 1 for odd integers x, where f = 1 does as well. 0 is even: 2^0 is exact.
  const auto rounded = hn::Add(hn::Sub(capped, hn::Set(d, T(0.5))), magic);
  const auto f = hn::Sub(x, hn::Sub(rounded, magic));  // from x: NaN stays NaN, whatever Min did
  // The low bits of `rounded` hold n; n + bias moved to the exponent field is 2^n (2^kMost is inf).
  constexpr U kBias = (U{1} << (sizeof(T) * 8 - 2 - C::kMantissaBits)) - 1;
  const auto n = hn::Add(hn::BitCast(du, rounded), hn::Set(du, kBias));
  const auto power = hn::BitCast(d, hn::ShiftLeft<C::kMantissaBits>(n));
  const auto p = hn::Mul(exp2_polynomial(d, f, c), power);
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, c.least)), p);
}
#endif

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
