// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// 0 * NaN is NaN: what a product with cleaned operands (Clean, product-inl.h) left out is added
// afterwards, to what sees it.
#if defined(LONGSPAN_KERNELS_NOT_FINITE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_NOT_FINITE_INL_H_
#undef LONGSPAN_KERNELS_NOT_FINITE_INL_H_
#else
#define LONGSPAN_KERNELS_NOT_FINITE_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>
#include <cstdint>

#include "kernels/kernel_table.h"
#include "kernels/product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {

// Bit l of word k: lane l sees key k. Null words: all do.
HWY_INLINE bool sees(const std::uint64_t* words, std::int64_t key, std::int64_t lane) {
  return words == nullptr || (words[key] >> lane & 1) != 0;
}

// Components of keys that meet a panel [key][lane] of operands: into[component][lane] gets those
// that are not finite.
template <class Dot>
HWY_NOINLINE void add_components_not_finite(const OperandRows& rows, std::int64_t first_key,
                                            std::int64_t keys, std::int64_t dim,
                                            const std::uint64_t* words,
                                            const typename Dot::Operand* panel, std::int64_t width,
                                            typename Dot::Real* into) {
  for (std::int64_t k = 0; k < keys; ++k) {
    const int m = static_cast<int>(k % Dot::kValues);
    for (std::int64_t c = 0; c < dim; ++c) {
      const auto x = Dot::value(*component<Dot>(rows, first_key + k, c), m);
      if (std::isfinite(x)) continue;
      for (std::int64_t lane = 0; lane < width; ++lane) {
        if (!sees(words, k, lane)) continue;
        into[c * width + lane] += Dot::value(panel[k / Dot::kValues * width + lane], m) * x;
      }
    }
  }
}

// Operands [key][lane] that meet rows of lanes: into[key][component] gets the components of rows
// that are not finite.
template <class Dot>
HWY_NOINLINE void add_rows_not_finite(const typename Dot::Operand* operand, std::int64_t depth,
                                      std::int64_t keys, std::int64_t width,
                                      const std::uint64_t* words, const typename Dot::Operand* rows,
                                      std::int64_t stride, std::int64_t dim,
                                      typename Dot::Real* into) {
  for (std::int64_t lane = 0; lane < width; ++lane) {
    const int m = static_cast<int>(lane % Dot::kValues);
    const std::int64_t pair = lane / Dot::kValues;
    for (std::int64_t c = 0; c < dim; ++c) {
      const auto x = Dot::value(rows[pair * stride + c], m);
      if (std::isfinite(x)) continue;
      for (std::int64_t k = 0; k < keys; ++k) {
        if (!sees(words, k, lane)) continue;
        into[k * stride + c] += Dot::value(operand[k * depth + pair], m) * x;
      }
    }
  }
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
