// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Keys from shared vectors.
#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "base/check.h"
#include "base/parallel_for.h"
#include "base/round.h"
#include "base/row_sums.h"
#include "base/rows4.h"
#include "base/visit_dtype.h"
#include "longspan/lsh_attention.h"
#include "lsh/checked_options.h"
#include "lsh/index_grid.h"
#include "lsh/key_factor.h"

namespace longspan {
namespace {

using lsh::key_factor;

// kUnit: components are neighbours on both sides, of which the compiler makes vectors.
template <bool kUnit, class E>
void normalize_row(const E* row, std::int64_t stride, std::int64_t dim, KeyNorm norm, E* key,
                   std::int64_t key_stride) {
  if constexpr (kUnit) stride = key_stride = 1;
  const auto number = [&](std::int64_t d) {
    return static_cast<double>(base::to_float(row[d * stride]));
  };
  const double factor = key_factor(base::sum_of_squares(number, dim), dim, norm);
  for (std::int64_t d = 0; d < dim; ++d) {
    key[d * key_stride] = base::from_float<E>(number(d) * factor);
  }
}

}  // namespace

double score_scale(KeyNorm key_norm, std::int64_t head_dim) {
  base::require(head_dim >= 1, [&] {
    return "score_scale: head_dim must be at least 1; found " + std::to_string(head_dim);
  });
  return key_norm == KeyNorm::kRms ? 1 : 1 / std::sqrt(static_cast<double>(head_dim));
}

void normalize_keys(ConstTensorView query_key, TensorView key, KeyNorm key_norm,
                    const Execution& execution) {
  constexpr const char* kFunction = "normalize_keys";
  lsh::check_threads(kFunction, execution);
  const std::string where = std::string(kFunction) + ": ";
  const base::Rows4 from = base::check_rows(where, "query_key", "head_dim", query_key);
  const base::Rows4 to = base::check_rows(where, "key", "head_dim", key);
  lsh::require_shape(kFunction, "key", key, "that of query_key", query_key);
  base::require(key.dtype == query_key.dtype, [&] {
    return std::string("normalize_keys: key must have the dtype of query_key, ") +
           name_of(query_key.dtype) + "; found " + name_of(key.dtype);
  });
  lsh::require_apart(kFunction, "key", key, "query_key", query_key);
  base::require(!base::overlaps_itself(key), [&] {
    return "normalize_keys: key must not overlap itself; found shape " + shape_string(key) +
           " with strides under which elements coincide";
  });
  constexpr std::int64_t kTaskRows = 256;
  const std::int64_t batch = from.shape[0], seqlen = from.shape[1], heads = from.shape[2];
  const std::int64_t head_dim = from.shape[3];
  const std::int64_t parts = base::ceil_div(seqlen, kTaskRows);
  const int threads = base::resolve_threads(execution.threads, batch * parts);
  base::parallel_for(batch * parts, threads, [&](std::int64_t t, int) {
    base::check_stop(execution.stop, kFunction);
    const std::int64_t b = t / parts, begin = t % parts * kTaskRows;
    const std::int64_t end = std::min(begin + kTaskRows, seqlen);
    base::visit_floating(from.dtype, [&](auto tag) {
      using E = decltype(tag);
      const auto* rows = static_cast<const E*>(from.data) + b * from.strides[0];
      auto* results = static_cast<E*>(key.data) + b * to.strides[0];
      const bool unit = from.strides[3] == 1 && to.strides[3] == 1;
      for (std::int64_t n = begin; n < end; ++n) {
        for (std::int64_t h = 0; h < heads; ++h) {
          const E* row = rows + n * from.strides[1] + h * from.strides[2];
          E* result = results + n * to.strides[1] + h * to.strides[2];
          if (unit) {
            normalize_row<true>(row, 1, head_dim, key_norm, result, 1);
          } else {
            normalize_row<false>(row, from.strides[3], head_dim, key_norm, result, to.strides[3]);
          }
        }
      }
    });
  });
}

}  // namespace longspan
