// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Gradients by central differences, and the small float64 calls, one for each option, that they
// are taken of.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "support/backward.h"

namespace longspan::test {

inline constexpr double kDerivativeStep = 1e-6;
inline constexpr double kDerivativeAbsolute = 1e-5;
inline constexpr double kDerivativeRelative = 1e-3;

// d loss / d element for every element of `variable`; 0 for one that is infinite. The variable is
// moved in place and restored.
std::vector<double> central_differences(Tensor variable, const std::function<double()>& loss);

// sum(output * doutput) + sum(lse * dlse) over the rows that see something: what
// attention_backward() differentiates.
double loss_of(const std::vector<double>& output, const std::vector<double>& lse,
               const Derivatives& derivatives);

struct DerivativeCase {
  std::string name;
  Inputs inputs;            // float64
  Derivatives derivatives;  // of both results
};
std::vector<std::string> derivative_case_names();
DerivativeCase derivative_case(const std::string& name);

// The tensors of the case that have a gradient, with the member that holds it.
struct Variable {
  const char* name;
  Tensor tensor;
  std::vector<double> reference::GradientSet::*reference;
  Tensor GradientTensors::*gradient;
};
std::vector<Variable> variables_of(const DerivativeCase& one);

}  // namespace longspan::test
