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

#include "kernels/kernel_table.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// scores [keys][width]: dot products become finished scores in natural units. With slopes (same
// shape) the derivative of each score by scale * dot, 1 - tanh^2, goes there; softcap only.
template <class T>
void finish_scores(const ScoreTerms<T>& terms, T scale, std::int64_t keys, std::int64_t width,
                   T* HWY_RESTRICT scores, T* HWY_RESTRICT slopes) {
  using D = hn::ScalableTag<T>;
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t k = 0; k < keys; ++k) {
    for (std::int64_t l = 0; l < width; l += lanes) {
      const std::int64_t at = k * width + l;
      auto s = hn::Mul(hn::Load(d, scores + at), hn::Set(d, scale));
      if (terms.softcap > 0) {
        const auto cap = hn::Set(d, terms.softcap);
        const auto t = hn::Tanh(d, hn::Div(s, cap));
        s = hn::Mul(cap, t);
        if (slopes != nullptr) hn::Store(hn::NegMulAdd(t, t, hn::Set(d, T{1})), d, slopes + at);
      }
      if (terms.bias != nullptr) s = hn::Add(s, hn::Load(d, terms.bias + at));
      if (terms.query_positions != nullptr) {
        const auto distance = hn::Abs(
            hn::Sub(hn::Load(d, terms.query_positions + l), hn::Set(d, terms.key_positions[k])));
        s = hn::NegMulAdd(hn::Set(d, terms.alibi_slope), distance, s);
      }
      hn::Store(s, d, scores + at);
    }
  }
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
