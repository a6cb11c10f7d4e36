// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Product peaks: as many independent chains as the registers hold (12 of 16, 16 of 32), which hides
// a latency of 4 to 6 cycles at 2 a cycle.
#include "peaks.h"

#include <algorithm>

#include "together.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace longspan::bench {
namespace {

#if defined(__x86_64__)
#if defined(__clang__)
#define LONGSPAN_UNROLL_CHAINS _Pragma("clang loop unroll(full)")
#else
#define LONGSPAN_UNROLL_CHAINS _Pragma("GCC unroll 16")
#endif

constexpr long kRounds = 1 << 20;
constexpr int kChains32 = 16;  // of 32 registers
constexpr int kChains16 = 12;  // of 16 registers, two of which hold the factor and the term

using Loop = void (*)(float* sink);

__attribute__((target("avx512f"), noinline)) void loop_512(float* sink) {
  __m512 chain[kChains32];
  LONGSPAN_UNROLL_CHAINS
  for (int i = 0; i < kChains32; ++i) chain[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 factor = _mm512_set1_ps(0.999F);
  const __m512 term = _mm512_set1_ps(0.001F);
  for (long n = 0; n < kRounds; ++n) {
    LONGSPAN_UNROLL_CHAINS
    for (int i = 0; i < kChains32; ++i) chain[i] = _mm512_fmadd_ps(chain[i], factor, term);
  }
  LONGSPAN_UNROLL_CHAINS
  for (int i = 0; i < kChains32; ++i) *sink += _mm512_cvtss_f32(chain[i]);
}

__attribute__((target("avx512f,avx512bf16"), noinline)) void loop_bf16(float* sink) {
  __m512 chain[kChains32];
  LONGSPAN_UNROLL_CHAINS
  for (int i = 0; i < kChains32; ++i) chain[i] = _mm512_set1_ps(static_cast<float>(i));
  // Pairs of 1 and of 2^-23: every term is a normal number, and no sum grows past 2^20.
  const auto ones = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3F803F80));
  const auto small = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x34003400));
  for (long n = 0; n < kRounds; ++n) {
    LONGSPAN_UNROLL_CHAINS
    for (int i = 0; i < kChains32; ++i) chain[i] = _mm512_dpbf16_ps(chain[i], ones, small);
  }
  LONGSPAN_UNROLL_CHAINS
  for (int i = 0; i < kChains32; ++i) *sink += _mm512_cvtss_f32(chain[i]);
}

__attribute__((target("avx2,fma"), noinline)) void loop_256(float* sink) {
  __m256 chain[kChains16];
  LONGSPAN_UNROLL_CHAINS
  for (int i = 0; i < kChains16; ++i) chain[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 factor = _mm256_set1_ps(0.999F);
  const __m256 term = _mm256_set1_ps(0.001F);
  for (long n = 0; n < kRounds; ++n) {
    LONGSPAN_UNROLL_CHAINS
    for (int i = 0; i < kChains16; ++i) chain[i] = _mm256_fmadd_ps(chain[i], factor, term);
  }
  LONGSPAN_UNROLL_CHAINS
  for (int i = 0; i < kChains16; ++i) *sink += _mm256_cvtss_f32(chain[i]);
}

__attribute__((noinline)) void loop_128(float* sink) {
  __m128 chain[kChains16];
  LONGSPAN_UNROLL_CHAINS
  for (int i = 0; i < kChains16; ++i) chain[i] = _mm_set1_ps(static_cast<float>(i));
  const __m128 factor = _mm_set1_ps(0.999F);
  const __m128 term = _mm_set1_ps(0.001F);
  for (long n = 0; n < kRounds; ++n) {
    LONGSPAN_UNROLL_CHAINS
    for (int i = 0; i < kChains16; ++i) chain[i] = _mm_add_ps(_mm_mul_ps(chain[i], factor), term);
  }
  LONGSPAN_UNROLL_CHAINS
  for (int i = 0; i < kChains16; ++i) *sink += _mm_cvtss_f32(chain[i]);
}

// The best of three: a thread that was moved or interrupted says nothing about the peak.
double best_rate(Loop loop, int flop_a_round, int threads) {
  double best = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const double seconds = slowest_of(threads, [loop](int) {
      float sum = 0;
      const double taken = thread_seconds_of([&] { loop(&sum); });
      volatile float kept = sum;  // the loop must not be dropped
      static_cast<void>(kept);
      return taken;
    });
    best = std::max(best, static_cast<double>(kRounds) * flop_a_round * threads / seconds);
  }
  return best;
}

std::optional<double> float32_peak(const std::string& kernel, int threads) {
  const bool widest = kernel.starts_with("avx3") || kernel == "avx512_bf16" || kernel == "amx";
  if (widest && __builtin_cpu_supports("avx512f")) {
    return best_rate(loop_512, 2 * kChains32 * 16, threads);
  }
  if (kernel == "avx2" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return best_rate(loop_256, 2 * kChains16 * 8, threads);
  }
  if (kernel == "sse4" || kernel == "sse2") {
    return best_rate(loop_128, 2 * kChains16 * 4, threads);
  }
  return std::nullopt;
}

std::optional<double> bfloat16_pair_peak(int threads) {
  if (!__builtin_cpu_supports("avx512bf16")) return std::nullopt;
  return best_rate(loop_bf16, 4 * kChains32 * 16, threads);  // two products a lane
}
#endif

}  // namespace

std::optional<double> product_peak(const std::string& kernel, DType dtype, int threads) {
#if defined(__x86_64__)
  if (dtype == DType::kFloat64) return std::nullopt;
  if (kernel == "amx" && dtype == DType::kBFloat16) return amx_peak(threads);
  if (kernel == "avx512_bf16" && dtype == DType::kBFloat16) return bfloat16_pair_peak(threads);
  return float32_peak(kernel, threads);
#else
  static_cast<void>(kernel);
  static_cast<void>(dtype);
  static_cast<void>(threads);
  return std::nullopt;
#endif
}

}  // namespace longspan::bench
