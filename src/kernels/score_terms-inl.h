// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// From dot products to scores where a score is more than a scale: softcap, bias, ALiBi.
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
#include "kernels/product-inl.h"

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

// scores[r][n]: dot products of key first + r with vector n of the lanes become finished scores in
// natural units. `slopes`, where given, become their derivatives by scale * dot (1 - tanh^2 with
// softcap).
template <class T, int R, int N, class V = hn::Vec<hn::ScalableTag<T>>>
HWY_INLINE void finish_scores(const ScoreTerms<T>& terms, T scale, std::int64_t first,
                              std::int64_t lane, std::int64_t width, V (&scores)[R][N],
                              V* slopes = nullptr) {
  const hn::ScalableTag<T> d;
  constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(hn::ScalableTag<T>()));
  const auto for_each = [&](const auto& body) HWY_ATTR {
    LONGSPAN_UNROLL
    for (int r = 0; r < R; ++r) {
      LONGSPAN_UNROLL
      for (int n = 0; n < N; ++n) body(r, n, scores[r][n]);
    }
  };
  for_each([&](int, int, V& s) HWY_ATTR { s = hn::Mul(s, hn::Set(d, scale)); });
  if (terms.softcap > 0) {
    for_each([&](int r, int n, V& s) HWY_ATTR {
      const V t = tanh_of(d, hn::Mul(s, hn::Set(d, terms.softcap_inverse)));
      if (slopes != nullptr) slopes[r * N + n] = hn::NegMulAdd(t, t, hn::Set(d, T{1}));
      s = hn::Mul(hn::Set(d, terms.softcap), t);
    });
  }
  if (terms.bias != nullptr) {
    for_each([&](int r, int n, V& s) HWY_ATTR {
      s = hn::Add(s, hn::Load(d, terms.bias + (first + r) * width + lane + n * kLanes));
    });
  }
  if (terms.query_positions != nullptr) {
    for_each([&](int r, int n, V& s) HWY_ATTR {
      const V query = hn::Load(d, terms.query_positions + lane + n * kLanes);
      const V distance = hn::Abs(hn::Sub(query, hn::Set(d, terms.key_positions[first + r])));
      s = hn::NegMulAdd(hn::Set(d, terms.alibi_slope), distance, s);
    });
  }
}

// The same for stored scores [keys][width].
template <class T>
HWY_INLINE void finish_stored_scores(const ScoreTerms<T>& terms, T scale, std::int64_t keys,
                                     std::int64_t width, T* scores) {
  using V = hn::Vec<hn::ScalableTag<T>>;
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t k = 0; k < keys; ++k) {
    for (std::int64_t l = 0; l < width; l += lanes) {
      V score[1][1] = {{hn::Load(d, scores + k * width + l)}};
      finish_scores<T, 1, 1>(terms, scale, k, l, width, score);
      hn::Store(score[0][0], d, scores + k * width + l);
    }
  }
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
