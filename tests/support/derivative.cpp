// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Each case exercises one option of a call, the last ones all of them together.
#include "support/derivative.h"

#include <cmath>
#include <limits>
#include <stdexcept>

namespace longspan::test {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr Shape kSmall{.batch = 2,
                       .seqlen_q = 5,
                       .seqlen_k = 7,
                       .heads = 4,
                       .heads_kv = 2,
                       .head_dim = 3,
                       .head_dim_v = 4};

Tensor normal(Inputs& in, const std::vector<std::int64_t>& shape, std::uint64_t seed) {
  Random random(seed);
  return in.keep(Tensor(DType::kFloat64, shape).fill_normal(random));
}

void add_bias(Inputs& in, const std::vector<std::int64_t>& shape) {
  in.options.bias = normal(in, shape, 71).view();
}

void add_sinks(Inputs& in) { in.options.sinks = normal(in, {in.query.view().shape[2]}, 72).view(); }

void add_alibi(Inputs& in) {
  in.options.alibi_slopes =
      in.keep(Tensor(DType::kFloat64, {4}).fill_values({0.5, 0.25, 0.125, -0.3})).view();
  in.options.query_offset = 1;
}

void add_dense(Inputs& in) {
  Tensor visible = in.keep(Tensor(DType::kBool, {2, 1, 5, 7}));
  for (std::int64_t n = 0; n < visible.size(); ++n) visible.set(n, n % 3 != 1 ? 1 : 0);
  for (std::int64_t j = 0; j < 7; ++j) visible.set({1, 0, 2, j}, 0);  // a row that sees nothing
  in.options.mask = in.options.mask & dense(visible.view());
}

struct Option {
  const char* name;
  Shape shape;
  std::function<void(Inputs&)> add;
};

Shape packed() {
  Shape shape = kSmall;
  shape.batch = 1;
  shape.seqlen_q = 9;
  shape.seqlen_k = 11;
  return shape;
}

std::vector<Option> options() {
  return {
      {"plain", kSmall, [](Inputs&) {}},
      {"scale", kSmall, [](Inputs& in) { in.options.scale = -0.7; }},
      {"softcap", kSmall, [](Inputs& in) { in.options.softcap = 0.8; }},
      {"causal", kSmall,
       [](Inputs& in) {
         in.options.mask = causal();
         in.options.query_offset = -2;  // two rows see nothing
       }},
      {"window_and_range", kSmall,
       [](Inputs& in) { in.options.mask = window(2, 1, 1) & key_range(1, 6); }},
      {"prefix", kSmall, [](Inputs& in) { in.options.mask = prefix(2, 0); }},
      {"key_lengths", kSmall,
       [](Inputs& in) {
         in.options.mask = key_lengths(in.keep(integers({6, 2})).view());
       }},
      {"documents", packed(),
       [](Inputs& in) {
         in.options.mask = documents(in.keep(integers({0, 3, 3, 8})).view(),
                                     in.keep(integers({0, 4, 5, 11})).view());
       }},
      {"dense", kSmall, add_dense},
      {"predicate", kSmall,
       [](Inputs& in) {
         in.options.mask = predicate([](std::int64_t b, std::int64_t h, std::int64_t i,
                                        std::int64_t j) { return (b + h + i + 2 * j) % 3 != 0; });
       }},
      {"bias_full", kSmall,
       [](Inputs& in) {
         add_bias(in, {2, 4, 5, 7});
       }},
      {"bias_of_heads", kSmall,
       [](Inputs& in) {
         add_bias(in, {4, 1, 7});
       }},
      {"bias_of_queries", kSmall,
       [](Inputs& in) {
         add_bias(in, {2, 1, 5, 1});
       }},
      {"bias_number", kSmall, [](Inputs& in) { add_bias(in, {}); }},
      {"bias_with_holes", kSmall,
       [](Inputs& in) {
         add_bias(in, {5, 7});
         for (std::int64_t n = 0; n < 35; n += 3) in.kept.back().set(n, -kInf);
       }},
      {"alibi", kSmall, add_alibi},
      {"sinks", kSmall,
       [](Inputs& in) {
         add_sinks(in);
         in.options.mask = causal();
         in.options.query_offset = -1;  // a row that sees its sink alone
       }},
      {"dropout", kSmall,
       [](Inputs& in) {
         in.options.dropout = {0.4, 0x123456789ABCDEF0};
       }},
      {"dropout_of_all", kSmall,
       [](Inputs& in) {
         in.options.dropout = {1.0, 3};
       }},
      {"everything", kSmall,
       [](Inputs& in) {
         in.options.scale = 0.9;
         in.options.softcap = 1.5;
         add_bias(in, {1, 4, 5, 7});
         add_alibi(in);
         add_sinks(in);
         in.options.mask = causal() & window(4, -1);
         add_dense(in);
         in.options.dropout = {0.25, 77};
       }},
      {"documents_and_scores", packed(),
       [](Inputs& in) {
         in.options.softcap = 2.0;
         add_bias(in, {4, 9, 1});
         add_alibi(in);
         add_sinks(in);
         in.options.query_offset = QueryOffset::end();
         in.options.mask = causal() & documents(in.keep(integers({0, 4, 9})).view(),
                                                in.keep(integers({0, 3, 10})).view());
         in.options.dropout = {0.5, 78};
       }},
  };
}

}  // namespace

std::vector<double> central_differences(Tensor variable, const std::function<double()>& loss) {
  std::vector<double> gradient;
  for (std::int64_t n = 0; n < variable.size(); ++n) {
    const double here = variable.get(n);
    if (!std::isfinite(here)) {
      gradient.push_back(0);
      continue;
    }
    variable.set(n, here + kDerivativeStep);
    const double above = loss();
    variable.set(n, here - kDerivativeStep);
    const double below = loss();
    variable.set(n, here);
    gradient.push_back((above - below) / (2 * kDerivativeStep));
  }
  return gradient;
}

double loss_of(const std::vector<double>& output, const std::vector<double>& lse,
               const Derivatives& derivatives) {
  double loss = 0;
  const std::vector<double> doutput = derivatives.output.values();
  for (std::size_t n = 0; n < output.size(); ++n) loss += output[n] * doutput[n];
  if (!is_given(derivatives.lse.view())) return loss;
  const std::vector<double> dlse = derivatives.lse.values();
  for (std::size_t n = 0; n < lse.size(); ++n) loss += lse[n] == -kInf ? 0 : lse[n] * dlse[n];
  return loss;
}

std::vector<std::string> derivative_case_names() {
  std::vector<std::string> names;
  for (const Option& option : options()) names.emplace_back(option.name);
  return names;
}

DerivativeCase derivative_case(const std::string& name) {
  for (const Option& option : options()) {
    if (option.name != name) continue;
    DerivativeCase one{name, normal_inputs(option.shape, DType::kFloat64, 73), {}};
    option.add(one.inputs);
    one.derivatives = normal_derivatives(one.inputs, DType::kFloat64, 74);
    return one;
  }
  throw std::invalid_argument(name);
}

std::vector<Variable> variables_of(const DerivativeCase& one) {
  using Set = reference::GradientSet;
  const Inputs& in = one.inputs;
  std::vector<Variable> variables{{"query", in.query, &Set::query, &GradientTensors::query},
                                  {"key", in.key, &Set::key, &GradientTensors::key},
                                  {"value", in.value, &Set::value, &GradientTensors::value}};
  for (const Tensor& kept : in.kept) {  // options hold views: the tensors behind them are here
    const void* data = kept.view().data;
    if (is_given(in.options.bias) && data == in.options.bias.data)
      variables.push_back({"bias", kept, &Set::bias, &GradientTensors::bias});
    if (is_given(in.options.sinks) && data == in.options.sinks.data)
      variables.push_back({"sinks", kept, &Set::sinks, &GradientTensors::sinks});
  }
  return variables;
}

}  // namespace longspan::test
