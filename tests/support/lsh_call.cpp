// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Calls of LSH attention.
#include "support/lsh_call.h"

#include <algorithm>
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

LshInputs normal_lsh(const std::vector<std::int64_t>& shape, DType dtype, std::uint64_t seed) {
  Random random(seed);
  LshInputs in;
  in.query = Tensor(dtype, shape).fill_normal(random);
  in.value = Tensor(dtype, shape).fill_normal(random);
  in.lsh.chunk_len = 16;
  in.lsh.seed = seed;
  return in;
}

LshInputs separate_lsh(DType dtype, std::int64_t seqlen_q, std::int64_t seqlen_k,
                       std::uint64_t seed) {
  Random random(seed);
  LshInputs in;
  in.shared = false;
  in.query = Tensor(dtype, {2, seqlen_q, 4, 24}).fill_normal(random);
  in.key = Tensor(dtype, {2, seqlen_k, 2, 24}).fill_normal(random);
  in.value = Tensor(dtype, {2, seqlen_k, 2, 17}).fill_normal(random);
  in.options.query_offset = QueryOffset::end();
  in.options.mask = causal();
  in.lsh.chunk_len = 16;
  return in;
}

Tensor entry_of(const Tensor& tensor, std::int64_t batch) {
  if (!is_given(tensor.view())) return Tensor();
  std::vector<std::int64_t> shape = tensor.shape();
  shape[0] = 1;
  Tensor entry(tensor.view().dtype, shape);
  for (std::int64_t n = 0; n < entry.size(); ++n) {
    entry.set(n, tensor.get(batch * entry.size() + n));
  }
  return entry;
}

LshInputs entry_of(const LshInputs& inputs, std::int64_t batch) {
  LshInputs entry = inputs;
  entry.query = entry_of(inputs.query, batch);
  if (!inputs.shared) entry.key = entry_of(inputs.key, batch);
  entry.value = entry_of(inputs.value, batch);
  return entry;
}

LshInputs poisoned(const LshInputs& inputs, std::int64_t first, double poison) {
  LshInputs bad = inputs;
  for (Tensor* tensor : {&bad.query, &bad.value}) {
    const Tensor clean = *tensor;
    *tensor = Tensor(clean.view().dtype, clean.shape()).fill_values(clean.values());
    for (std::int64_t n = first; n < clean.shape()[1]; ++n) {
      for (std::int64_t h = 0; h < clean.shape()[2]; ++h) {
        tensor->set({0, n, h, tensor == &bad.query ? 3 : 5}, poison);
      }
    }
  }
  return bad;
}

void put_into_one_bucket(LshInputs& separate) {
  const auto zeros = [&](const Tensor& vectors) {
    Tensor buckets(DType::kInt32, heads_first(vectors, {separate.lsh.num_hashes}));
    return separate.keep(buckets.fill(0));
  };
  separate.lsh.whole_buckets = true;
  separate.lsh.num_buckets = {2};
  separate.lsh.query_buckets = zeros(separate.query);
  separate.lsh.key_buckets = zeros(separate.key);
}

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

reference::AttentionGradients gradient_truth_of(const LshInputs& inputs,
                                                const Derivatives& derivatives) {
  const reference::LshAttention definition = definition_of(inputs);
  const reference::LshGradientResult found =
      definition.gradients(derivatives.output, derivatives.lse);
  const auto set = [](const reference::LshGradients& of) {
    reference::GradientSet result;
    result.query = of.query;
    result.key = of.key;
    result.value = of.value;
    result.sinks = of.sinks;
    return result;
  };
  reference::AttentionGradients truth;
  truth.sum = set(found.sum);
  truth.magnitude = set(found.magnitude);
  for (const double lse : definition.all().lse) {
    if (std::isfinite(lse)) {
      truth.largest_exponent = std::max(truth.largest_exponent, std::fabs(lse));
    }
  }
  return truth;
}

Derivatives normal_derivatives(const LshInputs& inputs, DType output, std::uint64_t seed) {
  Random random(seed);
  const ConstTensorView query = inputs.query, value = inputs.value;
  return {Tensor(output, with_last(query, value.shape[value.rank - 1])).fill_normal(random),
          Tensor(accumulator_of(query.dtype), heads_first(query, {})).fill_normal(random)};
}

GradientTensors run_lsh_backward(const LshInputs& inputs, const Output& result,
                                 const Derivatives& derivatives, const Execution& execution) {
  Inputs shapes;
  shapes.query = inputs.query;
  if (!inputs.shared) shapes.key = inputs.key;
  shapes.value = inputs.value;
  shapes.options = inputs.options;
  GradientTensors gradients = make_gradients(shapes, result.output.view().dtype);
  lsh_attention_backward(inputs.query, inputs.key_view(), inputs.value, {result.output, result.lse},
                         {derivatives.output, derivatives.lse}, gradients.views(), inputs.lsh,
                         inputs.options, execution);
  return gradients;
}

testing::AssertionResult matches(const Gradients& gradients,
                                 const reference::AttentionGradients& truth, DType row) {
  using Values = std::vector<double> reference::GradientSet::*;
  const struct {
    const char* name;
    TensorView view;
    Values values;
  } tensors[] = {{"dquery", gradients.query, &reference::GradientSet::query},
                 {"dkey", gradients.key, &reference::GradientSet::key},
                 {"dvalue", gradients.value, &reference::GradientSet::value},
                 {"dsinks", gradients.sinks, &reference::GradientSet::sinks}};
  for (const auto& tensor : tensors) {
    if (!is_given(tensor.view)) continue;
    GradientTolerance tolerance = gradient_tolerance_of(tensor.view.dtype, row);
    tolerance.floor = tolerance.rel_l2;
    // The reference takes its weights from an lse of float64, too.
    tolerance.weight_step = truth.largest_exponent * score_error(DType::kFloat64);
    const std::vector<double>& sum = truth.sum.*tensor.values;
    const auto passes = gradient_matches(tensor.view, sum, truth.magnitude.*tensor.values, {},
                                         tolerance, [&] { return sum; });
    if (!passes) return testing::AssertionFailure() << tensor.name << ": " << passes.message();
  }
  return testing::AssertionSuccess();
}

// Outputs that cancel are held to the norm of the absolute terms. Kernels over bfloat16 round
// normalised keys to it, as every program of that type does: scores, here at most 8, are then off
// by 2^-9 of themselves, which is more than the table gives lse for exact inputs. A weight is off
// by the same: three standard deviations are one roundoff, as much as rounding the weight itself.
testing::AssertionResult matches(const Output& result, const reference::LshResult& truth,
                                 DType row) {
  const Tolerance tolerance = tolerance_of(row);
  const bool rounded_keys = row == DType::kBFloat16;
  const double of_weights = rounded_keys ? unit_roundoff(row) : 0.0;
  const double of_lse = rounded_keys ? 0x1p-6 : 0.0;
  const double norm = norm_of(truth.output), magnitude = norm_of(truth.magnitude);
  const double cancels = norm > 0 && std::isfinite(norm) ? std::max(1.0, magnitude / norm) : 1.0;
  const auto output = within_rel_l2(result.output.values(), truth.output,
                                    (tolerance.output_rel_l2 + of_weights) * cancels);
  if (!output) return testing::AssertionResult(output) << "; output";
  const auto lse = within_elementwise(result.lse.values(), truth.lse,
                                      tolerance.lse_absolute + of_lse, tolerance.lse_relative);
  return lse ? lse : testing::AssertionResult(lse) << "; lse";
}

}  // namespace longspan::test
