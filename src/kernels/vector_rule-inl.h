// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The merge rule (src/partial/merge_rule-inl.h) for vectors, base 2.
#if defined(LONGSPAN_KERNELS_VECTOR_RULE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_VECTOR_RULE_INL_H_
#undef LONGSPAN_KERNELS_VECTOR_RULE_INL_H_
#else
#define LONGSPAN_KERNELS_VECTOR_RULE_INL_H_
#endif

#include <hwy/highway.h>

#include "kernels/exp2-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
struct VectorOps {
  using V = hn::Vec<D>;
  static HWY_INLINE V max(V a, V b) { return hn::Max(a, b); }
  static HWY_INLINE V sub(V a, V b) { return hn::Sub(a, b); }
  static HWY_INLINE V mul(V a, V b) { return hn::Mul(a, b); }
  static HWY_INLINE V mul_add(V a, V b, V c) { return hn::MulAdd(a, b, c); }
  static HWY_INLINE V exp(V x) { return exp2_of(D(), x); }
  static HWY_INLINE V zero_where_minus_inf(V x, V y) {
    return hn::IfThenZeroElse(hn::Eq(x, hn::Neg(hn::Inf(D()))), y);
  }
};

#include "partial/merge_rule-inl.h"

template <class D>
using VectorRule = MergeRule<VectorOps<D>>;

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
