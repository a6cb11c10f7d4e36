// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What happens to stored dot products when a score is more than a scale: softcap, bias, ALiBi.
#if defined(LONGSPAN_KERNELS_SCORE_TERMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_SCORE_TERMS_INL_H_
#undef LONGSPAN_KERNELS_SCORE_TERMS_INL_H_
#else
#define LONGSPAN_KERNELS_SCORE_TERMS_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <cstdint>

#include "kernels/exp2-inl.h"
#include "kernels/kernel_table.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// tanh as x P(x^2) / Q(x^2), both of degree 4: relative error 2.3e-8 before rounding up to 9.1,
// from where on tanh is 1 in float32. float64 takes Highway's.
struct TanhConstants {
  float limit = 9.1f;
  float numerator[5] = {1.0f, 0.133744761f, 0.00348781259f, 2.04812113e-05f, 1.31775533e-08f};
  float denominator[5] = {1.0f, 0.467077911f, 0.025847394f, 0.000327292277f, 7.70405961e-07f};
};
inline constexpr TanhConstants kTanhConstants;

template <class D, class V = hn::Vec<D>>
HWY_INLINE V tanh_of(D d, V x) {
  if constexpr (sizeof(hn::TFromD<D>) == 8) {
    return hn::Tanh(d, x);
  } else {
    const TanhConstants& c = *opaque(&kTanhConstants);
    const V limit = hn::Set(d, c.limit);
    const V bounded = hn::Min(limit, hn::Max(hn::Neg(limit), x));
    const V square = hn::Mul(bounded, bounded);
    V p = hn::Set(d, c.numerator[4]);
    V q = hn::Set(d, c.denominator[4]);
    for (int k = 3; k >= 0; --k) {
      p = hn::MulAdd(p, square, hn::Set(d, c.numerator[k]));
      q = hn::MulAdd(q, square, hn::Set(d, c.denominator[k]));
    }
    return hn::IfThenElse(hn::IsNaN(x), x, hn::Div(hn::Mul(bounded, p), q));
  }
}

// From a dot product to a finished score in natural units, for one key and the lanes from `lane`
// on; `at` is their place in the tile. `slope` becomes the derivative by scale * dot, 1 - tanh^2,
// with softcap.
template <class T, class D = hn::ScalableTag<T>>
HWY_INLINE hn::Vec<D> finish_score(const ScoreTerms<T>& terms, T scale, hn::Vec<D> dot,
                                   std::int64_t key, std::int64_t lane, std::int64_t at,
                                   hn::Vec<D>* slope = nullptr) {
  const D d;
  auto s = hn::Mul(dot, hn::Set(d, scale));
  if (terms.softcap > 0) {
    const auto t = tanh_of(d, hn::Mul(s, hn::Set(d, terms.softcap_inverse)));
    s = hn::Mul(hn::Set(d, terms.softcap), t);
    if (slope != nullptr) *slope = hn::NegMulAdd(t, t, hn::Set(d, T{1}));
  }
  if (terms.bias != nullptr) s = hn::Add(s, hn::Load(d, terms.bias + at));
  if (terms.query_positions != nullptr) {
    const auto distance = hn::Abs(
        hn::Sub(hn::Load(d, terms.query_positions + lane), hn::Set(d, terms.key_positions[key])));
    s = hn::NegMulAdd(hn::Set(d, terms.alibi_slope), distance, s);
  }
  return s;
}

// scores [keys][width]: dot products become finished scores. With slopes (same shape) theirs go
// there; softcap only.
template <class T>
void finish_scores(const ScoreTerms<T>& terms, T scale, std::int64_t first, std::int64_t last,
                   std::int64_t width, T* HWY_RESTRICT scores, T* HWY_RESTRICT slopes) {
  using D = hn::ScalableTag<T>;
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t k = first; k < last; ++k) {
    for (std::int64_t l = 0; l < width; l += lanes) {
      const std::int64_t at = k * width + l;
      hn::Vec<D> slope = hn::Zero(d);
      const auto s = finish_score<T>(terms, scale, hn::Load(d, scores + at), k, l, at,
                                     slopes == nullptr ? nullptr : &slope);
      if (slopes != nullptr) hn::Store(slope, d, slopes + at);
      hn::Store(s, d, scores + at);
    }
  }
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
