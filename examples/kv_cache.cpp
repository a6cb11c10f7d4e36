// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Decoding with a cache: a prompt, then one token after the other; the last step must equal causal
// attention over everything.
#include <longspan/kv_cache.h>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  constexpr std::int64_t kPrompt = 300, kTokens = 340, kHeads = 8, kHeadsKv = 2, kDim = 64;
  std::vector<float> q(kTokens * kHeads * kDim), k(kTokens * kHeadsKv * kDim), v(k.size());
  for (std::size_t n = 0; n < q.size(); ++n) q[n] = std::sin(0.31f * static_cast<float>(n % 9973));
  for (std::size_t n = 0; n < k.size(); ++n) k[n] = std::sin(0.37f * static_cast<float>(n % 7919));
  for (std::size_t n = 0; n < v.size(); ++n) v[n] = std::cos(0.41f * static_cast<float>(n % 8191));
  std::vector<float> output(q.size()), step(q.size());
  const auto tokens = [](auto& x, std::int64_t first, std::int64_t count, std::int64_t heads) {
    return longspan::tensor(x.data() + first * heads * kDim, {1, count, heads, kDim});
  };

  longspan::AttentionOptions options;
  options.mask = longspan::causal();
  longspan::KVCache cache({.batch = 1, .num_heads_kv = kHeadsKv, .head_dim = kDim},
                          longspan::DType::kFloat32);
  cache.append(tokens(k, 0, kPrompt, kHeadsKv), tokens(v, 0, kPrompt, kHeadsKv));
  cache.attend(tokens(q, 0, kPrompt, kHeads), {tokens(step, 0, kPrompt, kHeads), {}}, options);
  for (std::int64_t n = kPrompt; n < kTokens; ++n) {
    cache.append(tokens(k, n, 1, kHeadsKv), tokens(v, n, 1, kHeadsKv));
    cache.attend(tokens(q, n, 1, kHeads), {tokens(step, n, 1, kHeads), {}}, options);
  }

  longspan::attention(tokens(q, 0, kTokens, kHeads), tokens(k, 0, kTokens, kHeadsKv),
                      tokens(v, 0, kTokens, kHeadsKv), {tokens(output, 0, kTokens, kHeads), {}},
                      options);
  float difference = 0;  // NaN once it is NaN
  for (std::size_t n = 0; n < q.size(); ++n) {
    const float off = std::fabs(step[n] - output[n]);
    if (!(off <= difference)) difference = off;
  }
  std::printf("largest difference between %lld tokens step by step and at once: %.1e\n",
              static_cast<long long>(cache.length()), static_cast<double>(difference));
  return difference < 1e-5f ? 0 : 1;
}
