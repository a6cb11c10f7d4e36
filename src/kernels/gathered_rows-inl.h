// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Rows that are taken from, and added to, where an index says, each with a factor of its own: keys
// that are normalised vectors, and their gradients. Components stand side by side.
#if defined(LONGSPAN_KERNELS_GATHERED_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_GATHERED_ROWS_INL_H_
#undef LONGSPAN_KERNELS_GATHERED_ROWS_INL_H_
#else
#define LONGSPAN_KERNELS_GATHERED_ROWS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "base/rows.h"
#include "base/visit_dtype.h"
#include "kernels/elements-inl.h"
#include "kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
inline constexpr auto kLanesOfRows = static_cast<std::int64_t>(hn::MaxLanes(hn::ScalableTag<T>()));

template <class T, class E, class To>
HWY_INLINE void scale_rows_to(const SourceRows<T, E>& from, const TargetRows<T, To>& to,
                              std::int64_t count, std::int64_t dim, const T* factors) {
  for_fetched(from, count, [&](std::int64_t n) HWY_ATTR {
    const auto row = from.row(n);
    std::int64_t c = 0;
    if constexpr (Elements<T, E>::kVectors && Elements<T, To>::kVectors) {
      const auto factor = hn::Set(hn::ScalableTag<T>(), factors[n]);
      for (; c + kLanesOfRows<T> <= dim; c += kLanesOfRows<T>) {
        to.store(hn::Mul(row.load(c), factor), n, c);
      }
    }
    for (; c < dim; ++c) to.set(row.number(c) * factors[n], n, c);
  });
}

template <class T>
void scale_rows(const base::RowSource& source, const base::RowTarget& target, std::int64_t count,
                std::int64_t dim, const T* factors) {
  visit_rows<T>(source, 0, dim, [&]<class E>(const SourceRows<T, E>& from) HWY_ATTR {
    if (target.dtype == DType::kBFloat16) {
      scale_rows_to(from, TargetRows<T, base::BFloat16>(target, 0, dim), count, dim, factors);
    } else {
      scale_rows_to(from, TargetRows<T, T>(target, 0, dim), count, dim, factors);
    }
  });
}

// row . other
template <class T, class E>
HWY_INLINE T dot(const typename SourceRows<T, E>::Row& row, const T* other, std::int64_t dim) {
  const hn::ScalableTag<T> d;
  T sum = 0;
  std::int64_t c = 0;
  if constexpr (Elements<T, E>::kVectors) {
    auto sums = hn::Zero(d);
    for (; c + kLanesOfRows<T> <= dim; c += kLanesOfRows<T>) {
      sums = hn::MulAdd(row.load(c), hn::LoadU(d, other + c), sums);
    }
    sum = hn::GetLane(hn::SumOfLanes(d, sums));
  }
  for (; c < dim; ++c) sum += row.number(c) * other[c];
  return sum;
}

// into -= share * row
template <class T, class E>
HWY_INLINE void subtract(const typename SourceRows<T, E>::Row& row, T share, std::int64_t dim,
                         T* into) {
  const hn::ScalableTag<T> d;
  std::int64_t c = 0;
  if constexpr (Elements<T, E>::kVectors) {
    for (; c + kLanesOfRows<T> <= dim; c += kLanesOfRows<T>) {
      hn::StoreU(hn::NegMulAdd(hn::Set(d, share), row.load(c), hn::LoadU(d, into + c)), d,
                 into + c);
    }
  }
  for (; c < dim; ++c) into[c] -= share * row.number(c);
}

template <class T>
void take_along(const base::RowSource& source, std::int64_t count, std::int64_t dim,
                const T* shares, T* rows, std::int64_t stride) {
  visit_rows<T>(source, 0, dim, [&]<class E>(const SourceRows<T, E>& from) HWY_ATTR {
    for_fetched(from, count, [&](std::int64_t n) HWY_ATTR {
      if (shares[n] == 0) return;
      T* into = rows + n * stride;
      subtract<T, E>(from.row(n), shares[n] * dot<T, E>(from.row(n), into, dim), dim, into);
    });
  });
}

template <class T>
void add_rows(const base::RowTarget& target, std::int64_t count, std::int64_t dim, const T* rows,
              std::int64_t stride, const T* factors) {
  const hn::ScalableTag<T> d;
  const TargetRows<T, T> to(target, 0, dim);
  for_fetched(to, count, [&](std::int64_t n) HWY_ATTR {
    const T* row = rows + n * stride;
    T* into = to.places[n];
    std::int64_t c = 0;
    for (; c + kLanesOfRows<T> <= dim; c += kLanesOfRows<T>) {
      hn::StoreU(hn::MulAdd(hn::LoadU(d, row + c), hn::Set(d, factors[n]), hn::LoadU(d, into + c)),
                 d, into + c);
    }
    for (; c < dim; ++c) into[c] += row[c] * factors[n];
  });
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
