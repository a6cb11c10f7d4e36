// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Merges and writes rows.
#include "engine/running_rows.h"

#include <cmath>
#include <limits>

#include "base/visit_dtype.h"
#include "engine/finish_lane.h"
#include "engine/own_pair.h"
#include "partial/scalar_rule.h"

namespace longspan::engine {
namespace {

template <class T>
struct Lanes {  // (reference, sum) of a panel, and two numerators that tell the weights of a merge
  alignas(64) T reference[kernel::kMaxWidth];
  alignas(64) T sum[kernel::kMaxWidth];
  alignas(64) T weights[2 * kernel::kMaxWidth];
  kernel::PanelState<T> state() noexcept { return {reference, sum, weights}; }
};

// The whole row is total * factor + value * own.
struct LastStep {
  double factor = 0;
  double own = 0;
  double lse = 0;
  bool sees_own = false;  // in a way that changes the row
};

// Of E, components side by side.
template <class E>
bool all_finite(const E* row, std::int64_t dim) {
  bool special = false;
  for (std::int64_t d = 0; d < dim; ++d) {
    const auto x = base::to_float(row[d]);
    special |= !(std::fabs(x) <= std::numeric_limits<decltype(x)>::max());
  }
  return !special;
}

template <class T>
class RowMerger {
 public:
  RowMerger(const GatheredCall<T>& call, const GatheredForward<T>& head)
      : call_(call), head_(head), unit_(call.reference_unit()) {}

  void run(std::span<const std::int32_t> queries, std::int64_t width,
           const kernel::PanelState<T>& part, T* rows) {
    const auto count = static_cast<std::int64_t>(queries.size());
    for (const std::int32_t query : queries) fetch_rows(query);
    merge_numbers(queries, width, part);
    call_.kernel->write_rows({rows, kDTypeOf<T>, call_.head_dim_v, 1}, 0, count, call_.head_dim_v,
                             width, part.numerator, into_.weights + width);
    for (std::int64_t lane = 0; lane < count; ++lane) {
      const T* row = rows + lane * call_.head_dim_v;
      if (head_.last_phase) {
        write_result(queries[lane], lane, row);
      } else {
        keep(queries[lane], lane, row);
      }
    }
  }

 private:
  void merge_numbers(std::span<const std::int32_t> queries, std::int64_t width,
                     const kernel::PanelState<T>& part) {
    for (std::int64_t lane = 0; lane < width; ++lane) {
      const bool known = !head_.first_phase && lane < static_cast<std::int64_t>(queries.size());
      into_.reference[lane] =
          known ? head_.rows.reference[queries[lane]] : -std::numeric_limits<T>::infinity();
      into_.sum[lane] = known ? head_.rows.sum[queries[lane]] : T{0};
      into_.weights[lane] = part_.weights[width + lane] = T{1};
      into_.weights[width + lane] = part_.weights[lane] = T{0};
      part_.sum[lane] = part.sum[lane];
      part_.reference[lane] = part.reference[lane];
      if (part.sum[lane] != 0) continue;
      // Nothing seen, whatever stands in the reference (a bound) and the numerator.
      part_.reference[lane] = -std::numeric_limits<T>::infinity();
      for (std::int64_t d = 0; d < call_.head_dim_v; ++d) part.numerator[d * width + lane] = T{0};
    }
    call_.kernel->merge_state(into_.state(), part_.state(), width, /*head_dim_v=*/2);
  }

  T* known_row(std::int64_t query) const {
    return static_cast<T*>(head_.rows.numerator.data) + query * head_.rows.numerator.row_stride;
  }

  // All at once before they are waited for one by one: rows lie anywhere.
  void fetch_rows(std::int64_t query) const {
    constexpr std::int64_t kLine = 64;
    const auto* known = reinterpret_cast<const char*>(known_row(query));
    const std::int64_t bytes = call_.head_dim_v * std::int64_t{sizeof(T)};
    for (std::int64_t at = 0; at < bytes; at += kLine) __builtin_prefetch(known + at, /*rw=*/1);
    if (!head_.last_phase || head_.own.scores == nullptr) return;
    const RowSource& value = head_.value;
    const auto element = static_cast<std::int64_t>(size_of(value.dtype));
    const auto* row = static_cast<const char*>(value.data) + query * value.row_stride * element;
    for (std::int64_t at = 0; at < call_.head_dim_v * element; at += kLine) {
      __builtin_prefetch(row + at);
    }
  }

  // store(d, total numerator). What is known is not read in the first phase.
  template <class Store>
  void for_totals(std::int64_t query, std::int64_t lane, const T* row, const Store& store) const {
    const T* known = known_row(query);
    const std::int64_t dim = call_.head_dim_v, stride = head_.rows.numerator.dim_stride;
    const T weight = into_.weights[lane];
    if (head_.first_phase) {
      for (std::int64_t d = 0; d < dim; ++d) store(d, row[d]);
    } else if (stride == 1) {
      for (std::int64_t d = 0; d < dim; ++d) store(d, row[d] + weight * known[d]);
    } else {
      for (std::int64_t d = 0; d < dim; ++d) store(d, row[d] + weight * known[d * stride]);
    }
  }

  void keep(std::int64_t query, std::int64_t lane, const T* row) const {
    head_.rows.reference[query] = into_.reference[lane];
    head_.rows.sum[query] = into_.sum[lane];
    T* known = known_row(query);
    const std::int64_t stride = head_.rows.numerator.dim_stride;
    if (stride == 1) {
      for_totals(query, lane, row, [&](std::int64_t d, T total) { known[d] = total; });
    } else {
      for_totals(query, lane, row, [&](std::int64_t d, T total) { known[d * stride] = total; });
    }
  }

  // 0 times what is not finite is NaN.
  bool own_value_is_finite(std::int64_t query) const {
    const RowSource& value = head_.value;
    if (value.dim_stride != 1) {
      for (std::int64_t d = 0; d < call_.head_dim_v; ++d) {
        if (!std::isfinite(own_value(query, d))) return false;
      }
      return true;
    }
    return base::visit_floating(value.dtype, [&](auto tag) {
      using E = decltype(tag);
      return all_finite(static_cast<const E*>(value.data) + query * value.row_stride,
                        call_.head_dim_v);
    });
  }

  double own_value(std::int64_t query, std::int64_t d) const {
    const RowSource& value = head_.value;
    return base::load_double(value.data, value.dtype,
                             query * value.row_stride + d * value.dim_stride);
  }

  LastStep last_step(std::int64_t query, std::int64_t lane) const {
    double reference = static_cast<double>(into_.reference[lane]) * unit_;
    auto sum = static_cast<double>(into_.sum[lane]);
    LastStep step;
    double total = 1;
    if (head_.own.scores != nullptr) {
      const double score = own_score(call_, head_.own, head_.batch, head_.head, query).score;
      if (!(score < reference - kFar) || !own_value_is_finite(query)) {
        const double count = (*head_.own.count)(query);
        if (count > 0) {
          step.sees_own = true;
          const auto weights = partial::ScalarRule::merge(reference, sum, score, count);
          total = weights.into;
          step.own = weights.part * count;
        }
      }
    }
    if (call_.sinks.data != nullptr) {
      const double sink = call_.sinks.at(head_.batch, head_.head);
      const double weight = partial::ScalarRule::merge(reference, sum, sink, 1.0).into;
      total *= weight;
      step.own *= weight;
    }
    step.lse = reference + std::log(sum);
    if (sum == 0) return step;
    step.factor = total / sum;
    step.own /= sum;
    return step;
  }

  void write_result(std::int64_t query, std::int64_t lane, const T* row) const {
    const LastStep step = last_step(query, lane);
    store_number(head_.rows.lse, query, step.lse);
    const auto factor = static_cast<T>(step.factor), own = static_cast<T>(step.own);
    const RowTarget& output = head_.rows.output;
    base::visit_floating(output.dtype, [&](auto tag) {
      using E = decltype(tag);
      E* to = static_cast<E*>(output.data) + query * output.row_stride;
      if (!step.sees_own && output.dim_stride == 1) {
        for_totals(query, lane, row,
                   [&](std::int64_t d, T total) { to[d] = base::from_float<E>(total * factor); });
        return;
      }
      for_totals(query, lane, row, [&](std::int64_t d, T total) {
        T x = total * factor;
        if (step.sees_own) x += own * static_cast<T>(own_value(query, d));
        to[d * output.dim_stride] = base::from_float<E>(x);
      });
    });
  }

  const GatheredCall<T>& call_;
  const GatheredForward<T>& head_;
  const double unit_;
  Lanes<T> into_;
  Lanes<T> part_;
};

}  // namespace

template <class T>
void merge_rows(const GatheredCall<T>& call, const GatheredForward<T>& head,
                std::span<const std::int32_t> queries, std::int64_t width,
                const kernel::PanelState<T>& part, T* rows) {
  RowMerger<T>(call, head).run(queries, width, part, rows);
}

template void merge_rows(const GatheredCall<float>&, const GatheredForward<float>&,
                         std::span<const std::int32_t>, std::int64_t,
                         const kernel::PanelState<float>&, float*);
template void merge_rows(const GatheredCall<double>&, const GatheredForward<double>&,
                         std::span<const std::int32_t>, std::int64_t,
                         const kernel::PanelState<double>&, double*);

}  // namespace longspan::engine
