// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What the tests of the cache of hashed keys compare: its rows, and the last rows of LSH attention
// over everything, which has its own tests against the definition.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "longspan/lsh_cache.h"
#include "support/compare.h"
#include "support/lsh_call.h"

namespace longspan::test {

// Tokens first .. last of [batch, seqlen, heads, dim].
inline ConstTensorView tokens(const ConstTensorView& whole, std::int64_t first, std::int64_t last) {
  ConstTensorView view = whole;
  if (view.data != nullptr) {
    view.data = static_cast<const std::byte*>(view.data) +
                first * view.strides[1] * static_cast<std::int64_t>(size_of(view.dtype));
  }
  view.shape[1] = last - first;
  return view;
}

inline const Tensor& keys_of(const LshInputs& in) { return in.shared ? in.query : in.key; }

// Shared vectors of two heads, or two heads of keys for four of queries.
inline LshInputs inputs_of(bool shared, DType dtype, std::int64_t seqlen, std::uint64_t seed) {
  LshInputs in = shared ? normal_lsh({2, seqlen, 2, 20}, dtype, seed)
                        : separate_lsh(dtype, seqlen, seqlen, seed);
  in.options = {};
  in.options.mask = causal();
  in.lsh.num_buckets = {4, 2};
  in.lsh.seed = seed;
  return in;
}

inline LshCache cache_for(const LshInputs& in, std::int64_t capacity = 0) {
  const ConstTensorView key = keys_of(in), value = in.value;
  return {{key.shape[0], key.shape[2], key.shape[3], value.shape[3]},
          key.dtype,
          in.shared ? QueryKey::kShared : QueryKey::kSeparate,
          in.lsh,
          capacity};
}

inline void append(LshCache& cache, const LshInputs& in, std::int64_t first, std::int64_t last) {
  cache.append(tokens(keys_of(in), first, last), tokens(in.value, first, last));
}

inline Output results_for(const ConstTensorView& query, std::int64_t head_dim_v, DType output) {
  Output result{
      Tensor(output, {query.shape[0], query.shape[1], query.shape[2], head_dim_v}),
      Tensor(accumulator_of(query.dtype), {query.shape[0], query.shape[2], query.shape[1]})};
  result.output.fill(std::nan(""));
  result.lse.fill(std::nan(""));
  return result;
}

// The last queries of the first `length` tokens, with the cache.
inline Output decode(const LshCache& cache, const LshInputs& in, std::int64_t queries,
                     const Execution& execution = on("", 1), DType output = DType::kFloat32) {
  const std::int64_t length = cache.length();
  const ConstTensorView query = tokens(in.query, length - queries, length);
  if (in.query.view().dtype == DType::kFloat64) output = DType::kFloat64;
  Output result = results_for(query, in.value.shape()[3], output);
  cache.attend(query, {result.output, result.lse}, in.options, execution);
  return result;
}

// The same rows by lsh_attention().
inline Output prefill(const LshInputs& in, std::int64_t length, std::int64_t queries,
                      const Execution& execution = on("", 1), DType output = DType::kFloat32) {
  const ConstTensorView value = tokens(in.value, 0, length);
  if (value.dtype == DType::kFloat64) output = DType::kFloat64;
  const ConstTensorView newest = tokens(in.query, length - queries, length);
  Output rows = results_for(newest, value.shape[3], output);
  AttentionOptions options = in.options;
  if (!in.shared) {
    options.query_offset = QueryOffset::end();
    lsh_attention(newest, tokens(in.key, 0, length), value, {rows.output, rows.lse}, in.lsh,
                  options, execution);
    return rows;
  }
  const ConstTensorView all = tokens(in.query, 0, length);
  Output whole = results_for(all, value.shape[3], output);
  lsh_attention(all, {}, value, {whole.output, whole.lse}, in.lsh, options, execution);
  for (std::int64_t b = 0; b < all.shape[0]; ++b) {
    for (std::int64_t h = 0; h < all.shape[2]; ++h) {
      for (std::int64_t i = 0; i < queries; ++i) {
        const std::int64_t n = length - queries + i;
        rows.lse.set({b, h, i}, whole.lse.get({b, h, n}));
        for (std::int64_t d = 0; d < value.shape[3]; ++d) {
          rows.output.set({b, i, h, d}, whole.output.get({b, n, h, d}));
        }
      }
    }
  }
  return rows;
}

// Both may be off, each by the tolerance of what it is.
inline testing::AssertionResult agrees(const Output& found, const Output& expected, DType input,
                                       const std::string& kernel = {}) {
  const Tolerance tolerance = tolerance_of(row_of(kernel, input, expected.output.view().dtype));
  const auto output =
      within_rel_l2(found.output.values(), expected.output.values(), 2 * tolerance.output_rel_l2);
  if (!output) return testing::AssertionResult(output) << "; output";
  const auto lse = within_elementwise(found.lse.values(), expected.lse.values(),
                                      2 * tolerance.lse_absolute, 2 * tolerance.lse_relative);
  return lse ? lse : testing::AssertionResult(lse) << "; lse";
}

inline testing::AssertionResult is_prefill(const LshCache& cache, const LshInputs& in,
                                           std::int64_t queries,
                                           const Execution& execution = on("", 1)) {
  const std::int64_t length = cache.length();
  return agrees(decode(cache, in, queries, execution), prefill(in, length, queries, execution),
                cache.dtype(), execution.kernel);
}

}  // namespace longspan::test
