// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// From the running summary of one query to what is written: (output, lse), or the paper's
// (numerator, sum, max).
#pragma once

#include <cmath>
#include <cstdint>

#include "engine/forward_call.h"
#include "engine/rows.h"
#include "kernels/kernel_table.h"
#include "partial/scalar_rule.h"

namespace longspan::engine {

inline void store_number(const RowTarget& target, std::int64_t n, double x) noexcept {
  if (target.data == nullptr) return;
  base::visit_floating(target.dtype, [&](auto tag) {
    using E = decltype(tag);
    static_cast<E*>(target.data)[n * target.row_stride] = base::from_float<E>(x);
  });
}

// Writes the numbers of one query and returns the factor that turns its numerator into its output.
// `unit` is what one unit of the reference is in natural units; `scale` is of the numerator; `sink`
// is null or the logit of a virtual key of value 0.
template <class T>
T finish_lane(const PanelRows& rows, const kernel::PanelState<T>& state, std::int64_t lane,
              std::int64_t width, std::int64_t dim, double unit, double scale,
              const double* sink) noexcept {
  const std::int64_t n = rows.first + lane;
  double reference = static_cast<double>(state.reference[lane]) * unit;
  double sum = static_cast<double>(state.sum[lane]);
  if (rows.sum.data != nullptr) {
    store_number(rows.max, n, reference);
    store_number(rows.sum, n, sum);
    return static_cast<T>(scale);
  }
  if (sum == 0) {  // nothing seen: 0, whatever stands in the numerator
    for (std::int64_t d = 0; d < dim; ++d) state.numerator[d * width + lane] = T{0};
  }
  double factor = 1;
  if (sink != nullptr) factor = partial::ScalarRule::merge(reference, sum, *sink, 1.0).into;
  const double result = sum == 0 ? 0.0 : scale * factor / sum;
  store_number(rows.lse, n, reference + std::log(sum));
  return static_cast<T>(result);
}

}  // namespace longspan::engine
