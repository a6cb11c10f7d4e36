// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// delta_i = doutput_i . output_i - dlse_i, the number that the backward pass needs of a row beside
// its lse, and what follows from it alone: the gradient of sinks.
#pragma once

#include <cmath>
#include <cstdint>

#include "base/visit_dtype.h"
#include "engine/checked_call.h"
#include "engine/checked_result.h"
#include "engine/rows.h"

namespace longspan::engine {

inline double number_at(const RowSource& numbers, std::int64_t n) noexcept {
  return base::load_double(numbers.data, numbers.dtype, n * numbers.row_stride);
}

inline double component(const RowSource& rows, std::int64_t n, std::int64_t d) noexcept {
  return base::load_double(rows.data, rows.dtype, n * rows.row_stride + d * rows.dim_stride);
}

// dsinks[head] (elements of T) from delta, [batch][num_heads][seqlen_q]. The value of a sink is 0,
// so its dP is 0 and its dS is -P delta.
template <class T>
void reduce_sinks(const CheckedCall& checked, const TensorAxes& lse, const T* delta,
                  const TensorView& dsinks) {
  for (std::int64_t head = 0; head < checked.num_heads; ++head) {
    double sum = 0;
    for (std::int64_t batch = 0; checked.seqlen_q > 0 && batch < checked.batch; ++batch) {
      const RowSource numbers = lse.source(batch, head);
      const T* of_head = delta + (batch * checked.num_heads + head) * checked.seqlen_q;
      // lse is rounded to T, and so must the sink be: where it is all that a row sees, both are
      // equal.
      const auto sink = static_cast<double>(static_cast<T>(checked.sinks.at(batch, head)));
      for (std::int64_t n = 0; n < checked.seqlen_q; ++n) {
        const double here = number_at(numbers, n);
        if (std::isinf(here) && here < 0) continue;  // a sink of -inf, and no key
        sum -= std::exp(sink - here) * static_cast<double>(of_head[n]);
      }
    }
    static_cast<T*>(dsinks.data)[head * dsinks.strides[0]] = static_cast<T>(sum);
  }
}

}  // namespace longspan::engine
