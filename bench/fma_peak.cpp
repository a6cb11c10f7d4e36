// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Peak loops: 16 independent chains hide the latency (4 cycles, 2 a cycle) of every width.
#include "fma_peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace longspan::bench {
namespace {

constexpr int kChains = 16;
constexpr long kRounds = 1 << 20;

using Loop = void (*)(float* sink);

#if defined(__x86_64__)
#if defined(__clang__)
#define LONGSPAN_UNROLL_CHAINS _Pragma("clang loop unroll(full)")
#else
#define LONGSPAN_UNROLL_CHAINS _Pragma("GCC unroll 16")
#endif

__attribute__((target("avx512f"), noinline)) void loop_512(float* sink) {
  __m512 chain[kChains];
  LONGSPAN_UNROLL_CHAINS
  for (int i = 0; i < kChains; ++i) chain[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 factor = _mm512_set1_ps(0.999F);
  const __m512 term = _mm512_set1_ps(0.001F);
  for (long n = 0; n < kRounds; ++n) {
    LONGSPAN_UNROLL_CHAINS
    for (int i = 0; i < kChains; ++i) chain[i] = _mm512_fmadd_ps(chain[i], factor, term);
  }
  LONGSPAN_UNROLL_CHAINS
  for (int i = 0; i < kChains; ++i) *sink += _mm512_cvtss_f32(chain[i]);
}

__attribute__((target("avx2,fma"), noinline)) void loop_256(float* sink) {
  __m256 chain[kChains - 4];  // 16 registers: 12 chains, factor, term
  LONGSPAN_UNROLL_CHAINS
  for (int i = 0; i < kChains - 4; ++i) chain[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 factor = _mm256_set1_ps(0.999F);
  const __m256 term = _mm256_set1_ps(0.001F);
  for (long n = 0; n < kRounds; ++n) {
    LONGSPAN_UNROLL_CHAINS
    for (int i = 0; i < kChains - 4; ++i) chain[i] = _mm256_fmadd_ps(chain[i], factor, term);
  }
  LONGSPAN_UNROLL_CHAINS
  for (int i = 0; i < kChains - 4; ++i) *sink += _mm256_cvtss_f32(chain[i]);
}

__attribute__((noinline)) void loop_128(float* sink) {
  __m128 chain[kChains - 4];
  LONGSPAN_UNROLL_CHAINS
  for (int i = 0; i < kChains - 4; ++i) chain[i] = _mm_set1_ps(static_cast<float>(i));
  const __m128 factor = _mm_set1_ps(0.999F);
  const __m128 term = _mm_set1_ps(0.001F);
  for (long n = 0; n < kRounds; ++n) {
    LONGSPAN_UNROLL_CHAINS
    for (int i = 0; i < kChains - 4; ++i) chain[i] = _mm_add_ps(_mm_mul_ps(chain[i], factor), term);
  }
  LONGSPAN_UNROLL_CHAINS
  for (int i = 0; i < kChains - 4; ++i) *sink += _mm_cvtss_f32(chain[i]);
}
#endif

double rate(Loop loop, double flop, int threads) {
  double best = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    std::atomic<int> ready{0};
    std::vector<double> seconds(static_cast<std::size_t>(threads));
    const auto work = [&](int t) {
      volatile float kept = 0;
      float sink = 0;
      ++ready;
      while (ready < threads) std::this_thread::yield();
      const auto start = std::chrono::steady_clock::now();
      loop(&sink);
      seconds[static_cast<std::size_t>(t)] =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      kept = sink;
      static_cast<void>(kept);
    };
    std::vector<std::jthread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(work, t);
    work(0);
    others.clear();
    best = std::max(best, flop * threads / *std::max_element(seconds.begin(), seconds.end()));
  }
  return best;
}

}  // namespace

double fma_peak(const std::string& kernel, int threads) {
#if defined(__x86_64__)
  constexpr auto kRoundsFlop = 2.0 * static_cast<double>(kRounds);
  if (kernel == "avx3") return rate(loop_512, kRoundsFlop * kChains * 16, threads);
  if (kernel == "avx2") return rate(loop_256, kRoundsFlop * (kChains - 4) * 8, threads);
  if (kernel == "sse4" || kernel == "sse2") {
    return rate(loop_128, kRoundsFlop * (kChains - 4) * 4, threads);
  }
#endif
  static_cast<void>(kernel);
  static_cast<void>(threads);
  return 0;
}

}  // namespace longspan::bench
