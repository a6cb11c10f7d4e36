// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The state of a panel beside its blocks: two of them merged, and whether numbers are finite.
#if defined(LONGSPAN_KERNELS_PANEL_STATE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_PANEL_STATE_INL_H_
#undef LONGSPAN_KERNELS_PANEL_STATE_INL_H_
#else
#define LONGSPAN_KERNELS_PANEL_STATE_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "kernels/kernel_table.h"
#include "kernels/vector_rule-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
bool all_finite(const T* values, std::int64_t count) {
  const hn::ScalableTag<T> d;
  auto sum = hn::Zero(d);  // x - x is 0, or NaN for inf and NaN
  for (std::int64_t i = 0; i < count; i += static_cast<std::int64_t>(hn::Lanes(d))) {
    const auto x = hn::Load(d, values + i);
    sum = hn::Add(sum, hn::Sub(x, x));
  }
  return hn::AllTrue(d, hn::Eq(sum, hn::Zero(d)));
}

template <class T>
void merge_state(const PanelState<T>& into, const PanelState<T>& part, std::int64_t width,
                 std::int64_t head_dim_v) {
  using D = hn::ScalableTag<T>;
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t l = 0; l < width; l += lanes) {
    auto reference = hn::Load(d, into.reference + l);
    auto sum = hn::Load(d, into.sum + l);
    const auto weights = VectorRule<D>::merge(reference, sum, hn::Load(d, part.reference + l),
                                              hn::Load(d, part.sum + l));
    hn::Store(reference, d, into.reference + l);
    hn::Store(sum, d, into.sum + l);
    for (std::int64_t i = 0; i < head_dim_v; ++i) {
      T* at = into.numerator + i * width + l;
      hn::Store(VectorRule<D>::combine(weights, hn::Load(d, at),
                                       hn::Load(d, part.numerator + i * width + l)),
                d, at);
    }
  }
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
