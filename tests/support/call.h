// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// One call of attention on owning tensors, and the kernels and error checks that the tests loop
// over.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <initializer_list>
#include <string>
#include <tuple>
#include <vector>

#include "longspan/attention.h"
#include "reference/attention_reference.h"
#include "support/tensor.h"

namespace longspan::test {

// Query, key and value with everything a call needs beside them. Tensors named by the options live
// here too.
struct Inputs {
  Tensor query, key, value;
  AttentionOptions options;
  std::vector<Tensor> kept;  // what options refer to

  Tensor keep(Tensor tensor) { return kept.emplace_back(std::move(tensor)); }  // a handle to it
};

// The type in which a call on such inputs computes, and that of its lse.
DType accumulator_of(DType input);

// N(0,1) row-major inputs of rank 4.
struct Shape {
  std::int64_t batch = 1, seqlen_q = 0, seqlen_k = 0, heads = 1, heads_kv = 1, head_dim = 0,
               head_dim_v = 0;
};
Inputs normal_inputs(const Shape& shape, DType dtype, std::uint64_t seed);

struct Output {
  Tensor output, lse;
};
// Outputs of the shapes that the inputs ask for; the output has the query's dtype unless another is
// named.
Output make_output(const Inputs& inputs, DType dtype, Layout layout = Layout::kRowMajor,
                   std::size_t misalignment = 0);
Output run(const Inputs& inputs, const Execution& execution = {});
Output run_as(DType output, const Inputs& inputs, const Execution& execution = {});

struct Summary {
  Tensor numerator, sum, max;
};
Summary run_summary(const Inputs& inputs, const Execution& execution = {});

reference::AttentionResult truth_of(
    const Inputs& inputs, reference::Precision precision = reference::Precision::kFloat64);
testing::AssertionResult matches_reference(const Output& result, const Inputs& inputs);

testing::AssertionResult same_bits(const Output& a, const Output& b);

// Names of the kernels that this machine can run.
std::vector<std::string> usable_kernels();
// The same, and for bfloat16 the twins of those that it may not (twins/twin.h), in the best
// instruction set.
std::vector<std::string> kernels_for(DType input);
// All of them, each with the types in which it is a kernel of its own.
std::vector<std::tuple<std::string, DType>> kernels_and_types(const std::vector<DType>& types);
Execution on(const std::string& kernel, int threads = 0);

// `call` throws Error with `code` and a message that holds every one of `words`.
testing::AssertionResult throws_error(const std::function<void()>& call, ErrorCode code,
                                      std::initializer_list<std::string> words);

// Value of an environment variable that must be a whole number, or `otherwise`.
std::uint64_t number_from_environment(const char* name, std::uint64_t otherwise);

// A 64-bit tensor of whole numbers: lengths, boundaries, offsets.
Tensor integers(const std::vector<std::int64_t>& values, DType dtype = DType::kInt32);

}  // namespace longspan::test
