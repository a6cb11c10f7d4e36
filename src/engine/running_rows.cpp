// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Merges and writes rows.
#include "engine/running_rows.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

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

// Of E, components side by side. Exponents of inf and NaN are all ones; comparing integers is
// something that compilers do many at a time.
template <class E>
bool all_finite(const E* row, std::int64_t dim) {
  using Real = decltype(base::to_float(E{}));
  using Bits = std::conditional_t<sizeof(Real) == 8, std::uint64_t, std::uint32_t>;
  constexpr auto kInfinity = std::bit_cast<Bits>(std::numeric_limits<Real>::infinity());
  Bits special = 0;
  for (std::int64_t d = 0; d < dim; ++d) {
    const auto bits = std::bit_cast<Bits>(base::to_float(row[d]));
    special |= (bits & kInfinity) == kInfinity ? Bits{1} : Bits{0};
  }
  return special == 0;
}

// The phases of a list.
template <class T>
class RowMerger {
 public:
  RowMerger(const GatheredCall<T>& call, const GatheredForward<T>& head)
      : call_(call), head_(head) {}

  void run(std::span<const std::int32_t> queries, std::int64_t width,
           const kernel::PanelState<T>& part) {
    const auto count = static_cast<std::int64_t>(queries.size());
    merge_numbers(queries, width, part);
    call_.kernel->add_panel(indexed(head_.rows.numerator, queries), 0, count, call_.head_dim_v,
                            width, part.numerator, into_.weights + width,
                            head_.phase == 0 ? nullptr : into_.weights);
    for (std::int64_t lane = 0; lane < count; ++lane) {
      head_.rows.reference[queries[lane]] = into_.reference[lane];
      head_.rows.sum[queries[lane]] = into_.sum[lane];
    }
  }

 private:
  void merge_numbers(std::span<const std::int32_t> queries, std::int64_t width,
                     const kernel::PanelState<T>& part) {
    for (std::int64_t lane = 0; lane < width; ++lane) {
      const bool known = head_.phase > 0 && lane < static_cast<std::int64_t>(queries.size());
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

  const GatheredCall<T>& call_;
  const GatheredForward<T>& head_;
  Lanes<T> into_;
  Lanes<T> part_;
};

// What follows them.
template <class T>
class RowFinisher {
 public:
  RowFinisher(const GatheredCall<T>& call, const GatheredForward<T>& head)
      : call_(call), head_(head), unit_(call.reference_unit()) {}

  void write(std::int64_t query) const {
    const LastStep step = last_step(query);
    store_number(head_.rows.lse, query, step.lse);
    const auto factor = static_cast<T>(step.factor), own = static_cast<T>(step.own);
    const T* total = known_row(query);
    const std::int64_t dim = call_.head_dim_v, stride = head_.rows.numerator.dim_stride;
    const RowTarget& output = head_.rows.output;
    base::visit_floating(output.dtype, [&](auto tag) {
      using E = decltype(tag);
      E* to = static_cast<E*>(output.data) + query * output.row_stride;
      if (!step.sees_own && output.dim_stride == 1 && stride == 1) {
        for (std::int64_t d = 0; d < dim; ++d) to[d] = base::from_float<E>(total[d] * factor);
        return;
      }
      for (std::int64_t d = 0; d < dim; ++d) {
        T x = total[d * stride] * factor;
        if (step.sees_own) x += own * static_cast<T>(own_value(query, d));
        to[d * output.dim_stride] = base::from_float<E>(x);
      }
    });
  }

 private:
  const T* known_row(std::int64_t query) const {
    return static_cast<const T*>(head_.rows.numerator.data) +
           query * head_.rows.numerator.row_stride;
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
      const std::int64_t key = head_.own.first_key + query;
      return all_finite(static_cast<const E*>(value.data) + key * value.row_stride,
                        call_.head_dim_v);
    });
  }

  double own_value(std::int64_t query, std::int64_t d) const {
    const RowSource& value = head_.value;
    const std::int64_t key = head_.own.first_key + query;
    return base::load_double(value.data, value.dtype,
                             key * value.row_stride + d * value.dim_stride);
  }

  LastStep last_step(std::int64_t query) const {
    double reference = static_cast<double>(head_.rows.reference[query]) * unit_;
    auto sum = static_cast<double>(head_.rows.sum[query]);
    LastStep step;
    double total = 1;
    if (head_.own.scores != nullptr) {
      const double score = own_score(call_, head_.own, head_.batch, head_.head, query).score;
      if (!(score < reference - kNoWeightBelow) || !own_value_is_finite(query)) {
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

  const GatheredCall<T>& call_;
  const GatheredForward<T>& head_;
  const double unit_;
};

}  // namespace

template <class T>
void merge_rows(const GatheredCall<T>& call, const GatheredForward<T>& head,
                std::span<const std::int32_t> queries, std::int64_t width,
                const kernel::PanelState<T>& part) {
  RowMerger<T>(call, head).run(queries, width, part);
}

template <class T>
void finish_rows(const GatheredCall<T>& call, const GatheredForward<T>& head, mask::Range queries) {
  const RowFinisher<T> finisher(call, head);
  for_fetched(queries, {as_source(head.rows.output)}, call.head_dim_v,
              [&](std::int64_t n) { finisher.write(n); });
}

template void merge_rows(const GatheredCall<float>&, const GatheredForward<float>&,
                         std::span<const std::int32_t>, std::int64_t,
                         const kernel::PanelState<float>&);
template void merge_rows(const GatheredCall<double>&, const GatheredForward<double>&,
                         std::span<const std::int32_t>, std::int64_t,
                         const kernel::PanelState<double>&);
template void finish_rows(const GatheredCall<float>&, const GatheredForward<float>&, mask::Range);
template void finish_rows(const GatheredCall<double>&, const GatheredForward<double>&, mask::Range);

}  // namespace longspan::engine
