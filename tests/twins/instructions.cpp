// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// VDPBF16PS and TDPBF16PS by their pseudo-code, number by number, and the instructions themselves.
// Subnormal inputs and results are 0 of their sign; every step is rounded to nearest.
#include <bit>
#include <cmath>

#include "twins/twin.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace longspan::test {
namespace {

float flush(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0F, x) : x; }
float multiply_add(float x, float y, float c) {
  return flush(std::fma(flush(x), flush(y), flush(c)));
}
float add(float x, float y) { return flush(flush(x) + flush(y)); }
float odd(std::uint32_t pair) { return std::bit_cast<float>(pair & 0xFFFF0000u); }
float even(std::uint32_t pair) { return std::bit_cast<float>(pair << 16); }

}  // namespace

float twin_dot(float acc, std::uint32_t a, std::uint32_t b) {
  return multiply_add(even(a), even(b), multiply_add(odd(a), odd(b), acc));
}

void twin_tile(Tile& c, const Tile& a, const Tile& b) {
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      float evens = 0, odds = 0;
      for (int k = 0; k < 16; ++k) {
        evens = multiply_add(even(a.words[m][k]), even(b.words[k][n]), evens);
        odds = multiply_add(odd(a.words[m][k]), odd(b.words[k][n]), odds);
      }
      std::uint32_t& word = c.words[m][n];
      word = std::bit_cast<std::uint32_t>(add(std::bit_cast<float>(word), add(evens, odds)));
    }
  }
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bf16"))) void hardware_dot(float* acc, const std::uint32_t* a,
                                                                const std::uint32_t* b) {
  const __m512 sum =
      _mm512_dpbf16_ps(_mm512_loadu_ps(acc), reinterpret_cast<__m512bh>(_mm512_loadu_si512(a)),
                       reinterpret_cast<__m512bh>(_mm512_loadu_si512(b)));
  _mm512_storeu_ps(acc, sum);
}

__attribute__((target("amx-tile,amx-bf16"))) void hardware_tile(Tile& c, const Tile& a,
                                                                const Tile& b) {
  struct alignas(64) Shapes {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16};
  };
  const Shapes shapes;
  asm volatile(
      "ldtilecfg %0\n\t"
      "tileloadd (%1,%4,1), %%tmm0\n\t"
      "tileloadd (%2,%4,1), %%tmm1\n\t"
      "tileloadd (%3,%4,1), %%tmm2\n\t"
      "tdpbf16ps %%tmm2, %%tmm1, %%tmm0\n\t"
      "tilestored %%tmm0, (%1,%4,1)\n\t"
      "tilerelease"
      :
      : "m"(shapes), "r"(&c), "r"(&a), "r"(&b), "r"(std::int64_t{64})
      : "memory");
}
#else
void hardware_dot(float*, const std::uint32_t*, const std::uint32_t*) {}
void hardware_tile(Tile&, const Tile&, const Tile&) {}
#endif

}  // namespace longspan::test
