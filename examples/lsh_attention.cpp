// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The examples of docs/lsh.md: attention by hashing with its gradients, how much of exact attention
// it finds, its stages one by one, and decoding.
#include <longspan/lsh_attention.h>
#include <longspan/lsh_cache.h>
#include <longspan/lsh_diagnostics.h>

#include <cmath>
#include <cstdio>
#include <vector>

namespace {

constexpr std::int64_t kTokens = 2048, kHeads = 4, kHeadsKv = 2, kDim = 32;

std::vector<float> numbers(std::int64_t heads, float step) {
  std::vector<float> x(kTokens * heads * kDim);
  for (std::size_t n = 0; n < x.size(); ++n) x[n] = std::sin(step * static_cast<float>(n % 9973));
  return x;
}

longspan::TensorView view(std::vector<float>& x, std::int64_t heads) {
  return longspan::tensor(x.data(), {1, kTokens, heads, kDim});
}

// Attention, its gradients, and what it found: a share of the exact attention weights.
double attend() {
  std::vector<float> a = numbers(kHeads, 0.31f), b = numbers(kHeadsKv, 0.37f),
                     c = numbers(kHeads, 0.41f), d = numbers(kHeadsKv, 0.43f), result(a.size()),
                     lse_numbers(kHeads * kTokens), da(a.size()), dc(c.size());
  const longspan::ConstTensorView query_key = view(a, kHeads), value = view(c, kHeads),
                                  doutput = view(c, kHeads);
  const longspan::ConstTensorView query = query_key, key = view(b, kHeadsKv),
                                  value_kv = view(d, kHeadsKv);
  const longspan::TensorView output = view(result, kHeads), dquery_key = view(da, kHeads),
                             dvalue = view(dc, kHeads);
  const longspan::TensorView lse = longspan::tensor(lse_numbers.data(), {1, kHeads, kTokens});

  longspan::LshOptions lsh;  // 4 rounds, chunks of 64, automatic buckets, each pair counted once
  longspan::AttentionOptions options;
  options.mask = longspan::causal();
  longspan::lsh_attention(query_key, /*key=*/{}, value, {output, lse}, lsh, options);
  longspan::lsh_attention_backward(query_key, {}, value, {output, lse}, {doutput, {}},
                                   {dquery_key, /*key=*/{}, dvalue, /*bias=*/{}, /*sinks=*/{}}, lsh,
                                   options);

  const longspan::LshDiagnostics found =
      longspan::diagnose_lsh(query_key, {}, value, output, lsh, options);
  std::printf("%.2f of the exact weights is on pairs that were found\n", found.recalled_mass.value);
  std::printf("relative L2 against exact attention: at most %.2f\n", found.output_error.high);

  longspan::lsh_attention(query, key, value_kv, {output, lse}, lsh, options);
  return found.recalled_mass.value;
}

// How many chunks the sixth chunk of the first round attends to.
std::int64_t meet_chunks() {
  std::vector<float> a = numbers(kHeads, 0.31f);
  const longspan::ConstTensorView query_key = view(a, kHeads);
  const std::int64_t heads = kHeads, seqlen = kTokens;
  std::vector<std::int64_t> lengths_of_batch = {kTokens - 48};
  const longspan::ConstTensorView lengths = longspan::tensor(
      static_cast<const void*>(lengths_of_batch.data()), longspan::DType::kInt64, {1});

  longspan::LshOptions options;  // 4 rounds, chunks of 64, automatic buckets
  std::vector<std::int32_t> buckets(heads * options.num_hashes * seqlen), order(buckets.size());
  const auto grid = [&](auto& of) {
    return longspan::tensor(of.data(), longspan::DType::kInt32,
                            {1, heads, options.num_hashes, seqlen});
  };
  longspan::hash_vectors(query_key, grid(buckets), options, longspan::key_lengths(lengths));
  longspan::sort_by_bucket(grid(buckets), grid(order));
  const longspan::ChunkWindow window(options, longspan::count_chunks(seqlen, options.chunk_len),
                                     {.round = 0, .chunk = 5});
  return window.size();
}

// The largest difference between the last token of attention at once and of a step of decoding.
float decode() {
  std::vector<float> a = numbers(kHeads, 0.31f), b = numbers(kHeadsKv, 0.37f),
                     c = numbers(kHeadsKv, 0.41f), whole(a.size()), step(kHeads * kDim);
  const auto tokens = [](auto& x, std::int64_t first, std::int64_t count, std::int64_t heads) {
    return longspan::tensor(x.data() + first * heads * kDim, {1, count, heads, kDim});
  };
  const std::int64_t prompt = kTokens - 1;
  longspan::LshOptions lsh;
  lsh.num_buckets = longspan::choose_num_buckets(kTokens, lsh.chunk_len);  // for good
  longspan::LshCache cache({.batch = 1, .num_heads_kv = kHeadsKv, .head_dim = kDim},
                           longspan::DType::kFloat32, longspan::QueryKey::kSeparate, lsh);
  cache.append(tokens(b, 0, prompt, kHeadsKv), tokens(c, 0, prompt, kHeadsKv));
  cache.append(tokens(b, prompt, 1, kHeadsKv), tokens(c, prompt, 1, kHeadsKv));
  cache.attend(tokens(a, prompt, 1, kHeads), {tokens(step, 0, 1, kHeads), {}});

  longspan::AttentionOptions options;
  options.mask = longspan::causal();
  longspan::lsh_attention(view(a, kHeads), view(b, kHeadsKv), view(c, kHeadsKv),
                          {view(whole, kHeads), {}}, lsh, options);
  float difference = 0;  // NaN once it is NaN
  for (std::size_t n = 0; n < step.size(); ++n) {
    const float off = std::fabs(step[n] - whole[whole.size() - step.size() + n]);
    if (!(off <= difference)) difference = off;
  }
  return difference;
}

}  // namespace

int main() {
  const double found = attend();
  const std::int64_t chunks = meet_chunks();
  std::printf("a chunk attends to %lld chunks\n", static_cast<long long>(chunks));
  const float difference = decode();
  std::printf("a step of decoding is the last row but for %.1e\n", static_cast<double>(difference));
  return found > 0 && found <= 1 && chunks == 2 && difference < 1e-5f ? 0 : 1;
}
