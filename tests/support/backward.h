// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// One backward call on owning tensors, and when its gradients pass.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "support/call.h"

namespace longspan::test {

// Gradients with respect to the results of a call; lse may be absent.
struct Derivatives {
  Tensor output, lse;
};
Derivatives normal_derivatives(const Inputs& inputs, DType output, std::uint64_t seed,
                               bool with_lse = true);

struct GradientTensors {
  Tensor query, key, value, bias, sinks;
  Gradients views() { return {query, key, value, bias, sinks}; }
};
// One gradient for each tensor that the inputs have, all NaN: every element must be written.
// `dtype` is that of the first three.
GradientTensors make_gradients(const Inputs& inputs, DType dtype, Layout layout = Layout::kRowMajor,
                               std::size_t misalignment = 0);

// The gradients of all inputs from what the forward pass gave; the output's dtype.
GradientTensors run_backward(const Inputs& inputs, const Output& result,
                             const Derivatives& derivatives, const Execution& execution = {});

testing::AssertionResult same_bits(const GradientTensors& a, const GradientTensors& b);

reference::AttentionGradients gradient_truth_of(const Inputs& inputs,
                                                const Derivatives& derivatives);

// Rule B of gradients, and the floor of rule A.
struct GradientTolerance {
  double rel_l2;
  double step;      // allowed for each element besides: what its type, or a weight's, cannot say
  double floor;     // of the sum of the absolute terms
  double roundoff;  // the other floor (see Tolerance): that of the narrowest type
  // Of the sum of the absolute terms: what the rounding of a score and of the lse that was stored
  // changes in weights, which are exp(score - lse). In float32 scores of tens make it count.
  double weight_step = 0;
};
// The narrowest type that a gradient went through decides: its own or that of the stored output.
GradientTolerance gradient_tolerance_of(DType gradient, DType output);

// True where the truth is nothing but the rounding of the reference: no entry of the gradient
// survives the cancelling of its terms. `truth` and `magnitude` are one tensor of
// reference::AttentionGradients.
bool zero_in_truth(const std::vector<double>& truth, const std::vector<double>& magnitude);

// True for a gradient whose terms cancel so far that its type can hardly say more than how small it
// is.
bool cancels(const std::vector<double>& truth, const std::vector<double>& magnitude,
             const GradientTolerance& tolerance);

// One gradient. Rule B, or else rule A (`naive` is only run then), which never allows so much that
// zeros would pass, unless the truth cancels. `truth`, `magnitude` and `deviation` are one tensor
// of reference::AttentionGradients.
testing::AssertionResult gradient_matches(const ConstTensorView& actual,
                                          const std::vector<double>& truth,
                                          const std::vector<double>& magnitude,
                                          const std::vector<double>& deviation,
                                          const GradientTolerance& tolerance,
                                          const std::function<std::vector<double>()>& naive);

// All gradients that are given. `naive` is the float32 (for float64: float64) program that starts
// from an output stored as `output`.
using NaiveGradients = std::function<reference::AttentionGradients()>;
testing::AssertionResult matches(const Gradients& actual,
                                 const reference::AttentionGradients& truth, DType output,
                                 const NaiveGradients& naive);

// The same against the reference's own truth, for derivatives of the dtype of the stored output.
testing::AssertionResult matches_reference(GradientTensors gradients, const Inputs& inputs,
                                           const Derivatives& derivatives);
reference::AttentionGradients naive_gradients(const reference::Attention& attention,
                                              const ConstTensorView& doutput,
                                              const ConstTensorView& dlse);

}  // namespace longspan::test
