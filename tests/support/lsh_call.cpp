// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Calls of LSH attention.
#include "support/lsh_call.h"

#include <cmath>

#include "support/compare.h"

namespace longspan::test {
namespace {

std::vector<std::int64_t> with_last(const ConstTensorView& view, std::int64_t last) {
  std::vector<std::int64_t> shape(view.shape.begin(), view.shape.begin() + view.rank);
  shape.back() = last;
  return shape;
}

// [batch, heads, seqlen] of [batch, seqlen, heads, dim], with more axes before the last.
std::vector<std::int64_t> heads_first(const ConstTensorView& view,
                                      const std::vector<std::int64_t>& further) {
  std::vector<std::int64_t> shape;
  const int s = view.rank == 4 ? 1 : 0;
  if (view.rank == 4) shape.push_back(view.shape[0]);
  if (view.rank >= 3) shape.push_back(view.shape[s + 1]);
  shape.insert(shape.end(), further.begin(), further.end());
  shape.push_back(view.shape[s]);
  return shape;
}

double norm_of(const std::vector<double>& values) {
  double squares = 0;
  for (const double x : values) squares += x * x;
  return std::sqrt(squares);
}

}  // namespace

Output run_lsh_as(DType output, const LshInputs& inputs, const Execution& execution,
                  Layout layout) {
  const ConstTensorView query = inputs.query, value = inputs.value;
  Output result{Tensor(output, with_last(query, value.shape[value.rank - 1]), layout),
                Tensor(accumulator_of(query.dtype), heads_first(query, {}))};
  result.output.fill(std::nan(""));
  result.lse.fill(std::nan(""));
  lsh_attention(query, inputs.key_view(), value, {result.output, result.lse}, inputs.lsh,
                inputs.options, execution);
  return result;
}

Output run_lsh(const LshInputs& inputs, const Execution& execution) {
  return run_lsh_as(inputs.query.view().dtype, inputs, execution);
}

reference::LshAttention definition_of(const LshInputs& inputs) {
  const ConstTensorView query = inputs.query;
  Tensor buckets(DType::kInt32, heads_first(query, {inputs.lsh.num_hashes}));
  if (inputs.shared) {
    hash_vectors(query, buckets, inputs.lsh, inputs.options.mask);
    return {query, inputs.value, buckets, inputs.lsh, inputs.options};
  }
  Tensor key_buckets(DType::kInt32, heads_first(inputs.key, {inputs.lsh.num_hashes}));
  hash_vectors(query, inputs.key, buckets, key_buckets, inputs.lsh, inputs.options.mask);
  return {query, inputs.key, inputs.value, buckets, key_buckets, inputs.lsh, inputs.options};
}

reference::LshResult truth_of(const LshInputs& inputs) { return definition_of(inputs).all(); }

// Outputs that cancel are held to the norm of the absolute terms. Kernels over bfloat16 round
// normalised keys to it, as every program of that type does: scores, here at most 8, are then off
// by 2^-9 of themselves, which is more than the table gives lse for exact inputs.
testing::AssertionResult matches(const Output& result, const reference::LshResult& truth,
                                 DType row) {
  const Tolerance tolerance = tolerance_of(row);
  const double norm = norm_of(truth.output), magnitude = norm_of(truth.magnitude);
  const double cancels = norm > 0 && std::isfinite(norm) ? std::max(1.0, magnitude / norm) : 1.0;
  const auto output =
      within_rel_l2(result.output.values(), truth.output, tolerance.output_rel_l2 * cancels);
  if (!output) return testing::AssertionResult(output) << "; output";
  const double rounded_keys = row == DType::kBFloat16 ? 0x1p-6 : 0.0;
  const auto lse =
      within_elementwise(result.lse.values(), truth.lse, tolerance.lse_absolute + rounded_keys,
                         tolerance.lse_relative);
  return lse ? lse : testing::AssertionResult(lse) << "; lse";
}

}  // namespace longspan::test
