// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Shapes of outputs by rank, calls, and what an error must say.
#include "support/call.h"

#include <cstdlib>

#include "support/compare.h"
#include "twins/twin.h"

namespace longspan::test {
namespace {

std::vector<std::int64_t> with_last(const ConstTensorView& query, std::int64_t last) {
  std::vector<std::int64_t> shape(query.shape.begin(), query.shape.begin() + query.rank);
  shape.back() = last;
  return shape;
}

}  // namespace

DType accumulator_of(DType input) {
  return input == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

Inputs normal_inputs(const Shape& shape, DType dtype, std::uint64_t seed) {
  Random random(seed);
  Inputs inputs;
  inputs.query = Tensor(dtype, {shape.batch, shape.seqlen_q, shape.heads, shape.head_dim});
  inputs.key = Tensor(dtype, {shape.batch, shape.seqlen_k, shape.heads_kv, shape.head_dim});
  inputs.value = Tensor(dtype, {shape.batch, shape.seqlen_k, shape.heads_kv, shape.head_dim_v});
  inputs.query.fill_normal(random);
  inputs.key.fill_normal(random);
  inputs.value.fill_normal(random);
  return inputs;
}

Output make_output(const Inputs& inputs, DType dtype, Layout layout, std::size_t misalignment) {
  const ConstTensorView query = inputs.query, value = inputs.value;
  std::vector<std::int64_t> lse_shape;
  if (query.rank == 4) lse_shape = {query.shape[0], query.shape[2], query.shape[1]};
  if (query.rank == 3) lse_shape = {query.shape[1], query.shape[0]};
  if (query.rank == 2) lse_shape = {query.shape[0]};
  return {Tensor(dtype, with_last(query, value.shape[value.rank - 1]), layout, misalignment),
          Tensor(accumulator_of(query.dtype), lse_shape, layout, misalignment)};
}

Output run_as(DType output, const Inputs& inputs, const Execution& execution) {
  Output result = make_output(inputs, output);
  attention(inputs.query, inputs.key, inputs.value, {result.output, result.lse}, inputs.options,
            execution);
  return result;
}

Output run(const Inputs& inputs, const Execution& execution) {
  return run_as(inputs.query.view().dtype, inputs, execution);
}

Summary run_summary(const Inputs& inputs, const Execution& execution) {
  const ConstTensorView query = inputs.query, value = inputs.value;
  const DType dtype = accumulator_of(query.dtype);
  const std::vector<std::int64_t> row_shape(query.shape.begin(),
                                            query.shape.begin() + query.rank - 1);
  Summary summary{Tensor(dtype, with_last(query, value.shape[value.rank - 1])),
                  Tensor(dtype, row_shape), Tensor(dtype, row_shape)};
  summarize_chunk(inputs.query, inputs.key, inputs.value,
                  {summary.numerator, summary.sum, summary.max}, inputs.options, execution);
  return summary;
}

reference::AttentionResult truth_of(const Inputs& inputs, reference::Precision precision) {
  return reference::Attention(inputs.query, inputs.key, inputs.value, inputs.options)
      .all(precision);
}

testing::AssertionResult matches_reference(const Output& result, const Inputs& inputs) {
  const auto naive = inputs.query.view().dtype == DType::kFloat64 ? reference::Precision::kFloat64
                                                                  : reference::Precision::kFloat32;
  return matches(result.output, result.lse, truth_of(inputs),
                 [&] { return truth_of(inputs, naive); });
}

testing::AssertionResult same_bits(const Output& a, const Output& b) {
  if (!same_bits(a.output, b.output)) {
    return testing::AssertionFailure() << "output bits differ, rel L2 "
                                       << difference(a.output.values(), b.output.values()).rel_l2;
  }
  if (!same_bits(a.lse, b.lse)) return testing::AssertionFailure() << "lse bits differ";
  return testing::AssertionSuccess();
}

std::vector<std::string> usable_kernels() {
  std::vector<std::string> names;
  for (const KernelInfo& kernel : kernels()) {
    const bool twin = kernel.name.find("_twin_") != std::string::npos;
    if (kernel.usable && !twin) names.push_back(kernel.name);
  }
  return names;
}

std::vector<std::string> kernels_for(DType input) {
  std::vector<std::string> names = usable_kernels();
  if (input != DType::kBFloat16) return names;
  const std::vector<std::string>& twins = twin_kernels();
  names.insert(names.end(), twins.begin(), twins.begin() + 2);
  return names;
}

std::vector<std::tuple<std::string, DType>> kernels_and_types(const std::vector<DType>& types) {
  std::vector<std::tuple<std::string, DType>> all;
  for (const DType type : types) {
    for (const std::string& kernel : kernels_for(type)) all.emplace_back(kernel, type);
  }
  return all;
}

Execution on(const std::string& kernel, int threads) {
  Execution execution;
  execution.kernel = kernel;
  execution.threads = threads;
  return execution;
}

testing::AssertionResult throws_error(const std::function<void()>& call, ErrorCode code,
                                      std::initializer_list<std::string> words) {
  try {
    call();
  } catch (const Error& error) {
    const std::string message = error.what();
    if (error.code() != code) {
      return testing::AssertionFailure() << "code " << static_cast<int>(error.code()) << " for "
                                         << static_cast<int>(code) << ": " << message;
    }
    for (const std::string& word : words) {
      if (message.find(word) == std::string::npos && error.hint().find(word) == std::string::npos) {
        return testing::AssertionFailure() << "no `" << word << "` in: " << message;
      }
    }
    if (message.find('\n') != std::string::npos) {
      return testing::AssertionFailure() << "not one line: " << message;
    }
    return testing::AssertionSuccess();
  } catch (const std::exception& other) {
    return testing::AssertionFailure() << "another exception: " << other.what();
  }
  return testing::AssertionFailure() << "nothing was thrown";
}

std::uint64_t number_from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::stoull(text) : otherwise;
}

Tensor integers(const std::vector<std::int64_t>& values, DType dtype) {
  Tensor tensor(dtype, {static_cast<std::int64_t>(values.size())});
  for (std::size_t n = 0; n < values.size(); ++n) {
    tensor.set(static_cast<std::int64_t>(n), static_cast<double>(values[n]));
  }
  return tensor;
}

}  // namespace longspan::test
