// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The merge of partial results over tensors: longspan::merge and longspan::clear.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/extent.h"
#include "base/parallel_for.h"
#include "base/visit_dtype.h"
#include "longspan/partial.h"
#include "partial/partial_shape.h"
#include "partial/scalar_rule.h"

namespace longspan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::int64_t kRowsPerTask = 256;

struct Row {  // where one row of a partial lies
  std::int64_t output;
  std::int64_t lse;
};

Row row_of(const partial::PartialRows& p, std::int64_t batch, std::int64_t head, std::int64_t i) {
  return {batch * p.output_strides[0] + i * p.output_strides[1] + head * p.output_strides[2],
          batch * p.lse_strides[0] + head * p.lse_strides[1] + i * p.lse_strides[2]};
}

// (output, lse) of one row; the output is sums / divisor.
void store_row(const partial::PartialRows& p, Row at, const double* sums, double divisor,
               double lse) {
  base::visit_floating(p.lse_dtype, [&](auto tag) {
    using E = decltype(tag);
    static_cast<E*>(p.lse_out)[at.lse] = base::from_float<E>(lse);
  });
  base::visit_floating(p.dtype, [&](auto tag) {
    using E = decltype(tag);
    E* row = static_cast<E*>(p.output_out) + at.output;
    for (std::int64_t d = 0; d < p.dim; ++d) {
      row[d * p.output_strides[3]] = base::from_float<E>(sums[d] / divisor);
    }
  });
}

// sums[0 .. dim) += weight * row
void add_row(const partial::PartialRows& p, std::int64_t offset, double weight, double* sums) {
  base::visit_floating(p.dtype, [&](auto tag) {
    const auto* row = static_cast<const decltype(tag)*>(p.output) + offset;
    for (std::int64_t d = 0; d < p.dim; ++d) {
      sums[d] += weight * static_cast<double>(base::to_float(row[d * p.output_strides[3]]));
    }
  });
}

void merge_row(const partial::PartialRows& into, std::span<const partial::PartialRows> parts,
               std::int64_t batch, std::int64_t head, std::int64_t i, std::vector<double>& lses,
               std::vector<double>& sums) {
  using Rule = partial::ScalarRule;
  const Row at = row_of(into, batch, head, i);
  double common = lses[0] = base::load_double(into.lse, into.lse_dtype, at.lse);
  bool changes = false;
  for (std::size_t n = 0; n < parts.size(); ++n) {
    const double lse =
        base::load_double(parts[n].lse, parts[n].lse_dtype, row_of(parts[n], batch, head, i).lse);
    lses[n + 1] = lse;
    common = partial::ScalarOps::max(common, lse);
    changes = changes || lse != -kInfinity;
  }
  if (!changes) return;  // every part is the identity

  std::fill(sums.begin(), sums.end(), -0.0);  // the identity of +, for -0 as well
  double sum = 0;
  for (std::size_t n = 0; n <= parts.size(); ++n) {
    if (lses[n] == -kInfinity) continue;  // its output is never read
    const partial::PartialRows& p = n == 0 ? into : parts[n - 1];
    const double w = Rule::weight(lses[n], common);
    sum += w;
    add_row(p, row_of(p, batch, head, i).output, w, sums.data());
  }
  store_row(into, at, sums.data(), sum, common + std::log(sum));
}

}  // namespace

void clear(Partial into) {
  const partial::PartialRows rows = partial::check_partial("clear", into);
  if (rows.heads * rows.seqlen == 0) return;  // however many batch entries there may be
  const std::vector<double> zeros(static_cast<std::size_t>(rows.dim));
  for (std::int64_t b = 0; b < rows.batch; ++b) {
    for (std::int64_t h = 0; h < rows.heads; ++h) {
      for (std::int64_t i = 0; i < rows.seqlen; ++i) {
        store_row(rows, row_of(rows, b, h, i), zeros.data(), 1.0, -kInfinity);
      }
    }
  }
}

void merge(Partial into, std::span<const ConstPartial> parts, const Execution& execution) {
  const partial::PartialRows target = partial::check_partial("merge", into);
  std::vector<partial::PartialRows> sources;
  sources.reserve(parts.size());
  const auto where = [](std::size_t n) { return "merge: part " + std::to_string(n); };
  for (std::size_t n = 0; n < parts.size(); ++n) {
    sources.push_back(partial::check_part(where(n), parts[n], into));
  }
  const base::Extent results[] = {base::extent_of(into.output), base::extent_of(into.lse)};
  for (std::size_t n = 0; n < parts.size(); ++n) {
    const base::Extent part[] = {base::extent_of(parts[n].output), base::extent_of(parts[n].lse)};
    for (const base::Extent& result : results) {
      base::require(!part[0].meets(result) && !part[1].meets(result),
                    [&] { return where(n) + " must not overlap the result"; });
    }
  }
  const std::int64_t rows = target.batch * target.heads * target.seqlen;
  const std::int64_t tasks = (rows + kRowsPerTask - 1) / kRowsPerTask;
  base::require(execution.threads >= 0, [&] {
    return "merge: threads must not be negative; found " + std::to_string(execution.threads);
  });
  base::parallel_for(
      tasks, base::resolve_threads(execution.threads, tasks), [&](std::int64_t task, int) {
        base::check_stop(execution.stop, "merge");
        std::vector<double> lses(sources.size() + 1);
        std::vector<double> sums(static_cast<std::size_t>(target.dim));
        const std::int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
        for (std::int64_t row = task * kRowsPerTask; row < end; ++row) {
          merge_row(target, sources, row / (target.heads * target.seqlen),
                    row / target.seqlen % target.heads, row % target.seqlen, lses, sums);
        }
      });
}

}  // namespace longspan
