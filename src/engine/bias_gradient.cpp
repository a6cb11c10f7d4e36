// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Sums of dS over the broadcast axes of a bias.
#include "engine/bias_gradient.h"

#include <algorithm>

namespace longspan::engine {

template <class T>
BiasGradient<T>::BiasGradient(const TensorView& into, const Extents& full, bool has_sinks)
    : into_(static_cast<T*>(into.data)), axes_(base::align_right(into)), full_(full) {
  const bool has_queries = axes_.shape[2] == full[2];
  const bool has_keys = axes_.shape[3] == full[3];
  kind_ = has_queries && has_keys ? Kind::kFull
          : has_keys              ? Kind::kKeys
          : has_sinks             ? Kind::kQueries
                                  : Kind::kKnown;
}

template <class T>
void BiasGradient<T>::add_tile(const kernel::KernelTable<T>& kernel, std::int64_t batch,
                               const PanelQueries& queries, mask::Range keys, const T* tile,
                               std::int64_t width, T* scratch) noexcept {
  if (kind_ == Kind::kKeys) {
    T* sums = sums_.data() + (batch * full_[1] + queries.head) * full_[3] + keys.begin;
    for (std::int64_t k = 0; k < keys.size(); ++k) {
      T sum = 0;
      for (std::int64_t lane = 0; lane < queries.count; ++lane) sum += tile[k * width + lane];
      sums[k] += sum;
    }
    return;
  }
  kernel.transpose(tile, width, keys.size(), width, scratch, keys.size());
  T* origin = into_ + batch * axes_.strides[0] + queries.head * axes_.strides[1] +
              queries.first * axes_.strides[2] + keys.begin * axes_.strides[3];
  const std::int64_t step = axes_.strides[3];
  for (std::int64_t lane = 0; lane < queries.count; ++lane) {
    T* row = origin + lane * axes_.strides[2];
    const T* add = scratch + lane * keys.size();
    if (step == 1) {
      for (std::int64_t k = 0; k < keys.size(); ++k) row[k] += add[k];
    } else {
      for (std::int64_t k = 0; k < keys.size(); ++k) row[k * step] += add[k];
    }
  }
}

template <class T>
void BiasGradient<T>::begin() {
  sums_.assign(static_cast<std::size_t>(sums()), T{0});
  totals_.resize(static_cast<std::size_t>(places()));
  if (kind_ != Kind::kFull) return;  // finish() writes every element
  if (std::count(axes_.shape.begin(), axes_.shape.end(), 0) > 0) return;
  for (std::int64_t b = 0; b < axes_.shape[0]; ++b) {
    for (std::int64_t h = 0; h < axes_.shape[1]; ++h) {
      for (std::int64_t q = 0; q < axes_.shape[2]; ++q) {
        T* row = into_ + b * axes_.strides[0] + h * axes_.strides[1] + q * axes_.strides[2];
        for (std::int64_t k = 0; k < axes_.shape[3]; ++k) row[k * axes_.strides[3]] = T{0};
      }
    }
  }
}

// The sums are in float64: there may be many heads and rows.
template <class T>
void BiasGradient<T>::finish() noexcept {
  if (kind_ == Kind::kFull) return;
  const std::int64_t along = full_[axis()];
  const std::int64_t stride = axes_.strides[axis()];
  for (std::int64_t b = 0; b < axes_.shape[0]; ++b) {
    for (std::int64_t h = 0; h < axes_.shape[1]; ++h) {
      std::fill(totals_.begin(), totals_.end(), 0.0);
      for (std::int64_t i = b; !sums_.empty() && i < full_[0]; i += axes_.shape[0]) {
        for (std::int64_t j = h; j < full_[1]; j += axes_.shape[1]) {
          const T* sums = sums_.data() + (i * full_[1] + j) * along;
          for (std::int64_t n = 0; n < along; ++n) {
            totals_[static_cast<std::size_t>(n % places())] += static_cast<double>(sums[n]);
          }
        }
      }
      for (std::int64_t n = 0; n < places(); ++n) {
        into_[b * axes_.strides[0] + h * axes_.strides[1] + n * stride] =
            static_cast<T>(totals_[static_cast<std::size_t>(n)]);
      }
    }
  }
}

template class BiasGradient<float>;
template class BiasGradient<double>;

}  // namespace longspan::engine
