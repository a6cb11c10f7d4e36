// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The README's example: causal attention over 8192 tokens, and the same from two halves of the
// keys.
#include <longspan/attention.h>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  constexpr std::int64_t kTokens = 8192, kHeads = 2, kDim = 64;
  std::vector<float> x(kTokens * kHeads * kDim), output(x.size()), lse(kHeads * kTokens);
  for (std::size_t n = 0; n < x.size(); ++n) x[n] = std::sin(0.37f * static_cast<float>(n % 9973));

  // Views: data, then [batch, seqlen, num_heads, head_dim]. Nothing is copied.
  const longspan::ConstTensorView qkv = longspan::tensor(x.data(), {1, kTokens, kHeads, kDim});
  const longspan::Partial result = {longspan::tensor(output.data(), {1, kTokens, kHeads, kDim}),
                                    longspan::tensor(lse.data(), {1, kHeads, kTokens})};
  longspan::AttentionOptions options;
  options.mask = longspan::causal();
  longspan::attention(qkv, qkv, qkv, result, options);

  // Attention over a part of the keys is a partial (output, lse); partials over disjoint keys merge
  // to the whole.
  std::vector<float> first(x.size()), second(x.size()), lse_first(lse.size()),
      lse_second(lse.size());
  const longspan::Partial parts[] = {{longspan::tensor(first.data(), {1, kTokens, kHeads, kDim}),
                                      longspan::tensor(lse_first.data(), {1, kHeads, kTokens})},
                                     {longspan::tensor(second.data(), {1, kTokens, kHeads, kDim}),
                                      longspan::tensor(lse_second.data(), {1, kHeads, kTokens})}};
  options.mask = longspan::causal() & longspan::key_range(0, kTokens / 2);
  longspan::attention(qkv, qkv, qkv, parts[0], options);
  options.mask = longspan::causal() & longspan::key_range(kTokens / 2, kTokens);
  longspan::attention(qkv, qkv, qkv, parts[1], options);
  const longspan::ConstPartial other[] = {parts[1]};
  longspan::merge(parts[0], other);

  float difference = 0;  // NaN once it is NaN
  for (std::size_t n = 0; n < x.size(); ++n) {
    const float off = std::fabs(first[n] - output[n]);
    if (!(off <= difference)) difference = off;
  }
  std::printf("largest difference between the whole and the merged halves: %.1e\n",
              static_cast<double>(difference));
  return difference < 1e-5f ? 0 : 1;
}
