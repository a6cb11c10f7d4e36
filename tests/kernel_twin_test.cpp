// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Instructions against their software twins, bit for bit, where this processor has them; and the
// kernels over both, which must leave the same bits.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernel_testing.h"
#include "kernels/avx512_bf16.h"
#include "support/tensor.h"
#include "twins/twin.h"

namespace longspan::kernel {
namespace {

using test::Random;

// A pair whose members have the exponents of `base` and a few above; random signs and mantissas.
std::uint32_t pair_near(Random& random, std::uint32_t base, std::uint32_t spread) {
  const auto member = [&] {
    return static_cast<std::uint32_t>(random.between(0, 1) << 15 | random.between(0, 127)) |
           (base + static_cast<std::uint32_t>(random.between(0, spread))) << 7;
  };
  return member() | member() << 16;
}

TEST(KernelTwin, VDPBF16PSBitForBit) {
  if (!avx512_bf16_refusal().empty()) GTEST_SKIP() << "no hardware: " << avx512_bf16_refusal();
  Random random(30);
  for (int n = 0; n < 200000; ++n) {
    std::uint32_t a[16], b[16];
    float acc[16], sum[16];
    for (int i = 0; i < 16; ++i) {
      a[i] = static_cast<std::uint32_t>(random_bits(random));
      b[i] = static_cast<std::uint32_t>(random_bits(random));
      auto bits = static_cast<std::uint32_t>(random_bits(random));
      const std::uint32_t mantissa = bits & 0x807FFFFFu;
      switch (n % 5) {
        case 0:  // products and sums around the subnormals
          a[i] = pair_near(random, 55, 20);
          b[i] = pair_near(random, 55, 20);
          bits = mantissa | static_cast<std::uint32_t>(random.between(0, 20)) << 23;
          break;
        case 1:  // cancellation and rounding
          a[i] = pair_near(random, 120, 10);
          b[i] = pair_near(random, 120, 10);
          bits = mantissa | static_cast<std::uint32_t>(random.between(115, 135)) << 23;
          break;
        case 2:  // ties
          a[i] = pair_near(random, 120, 10) & 0xFFF0FFF0u;
          b[i] = pair_near(random, 120, 10) & 0xFFF0FFF0u;
          bits = (mantissa & 0xFFF00000u) | static_cast<std::uint32_t>(random.between(115, 150))
                                                << 23;
          break;
        case 3:  // inf, NaN, subnormal members
          a[i] = pair_near(random, random.chance(0.5) ? 254 : 0, 1);
          b[i] = pair_near(random, random.chance(0.5) ? 120 : 0, 9);
          break;
        default:  // any bits
          break;
      }
      acc[i] = sum[i] = std::bit_cast<float>(bits);
    }
    test::hardware_dot(sum, a, b);
    for (int i = 0; i < 16; ++i) {
      const float twin = test::twin_dot(acc[i], a[i], b[i]);
      ASSERT_TRUE(std::isnan(twin)
                      ? std::isnan(sum[i])
                      : std::bit_cast<std::uint32_t>(twin) == std::bit_cast<std::uint32_t>(sum[i]))
          << std::hex << a[i] << " " << b[i] << " " << acc[i] << ": " << sum[i] << ", twin "
          << twin;
    }
  }
}

TEST(KernelTwin, WholeKernelLeavesTheSameBits) {
  const Kernel* tier = nullptr;
  for (const Kernel& kernel : all_kernels()) {
    if (kernel.name == "avx512_bf16") tier = &kernel;
  }
  if (tier == nullptr || !tier->usable()) GTEST_SKIP() << "no hardware: " << avx512_bf16_refusal();
  int compared = 0;
  for (const test::TwinKernel& twin : test::twin_kernels()) {
    // Elsewhere a vector of lanes is shorter, or 2^x is computed another way.
    if (twin.table.lanes != tier->bfloat16.lanes) continue;
    ++compared;
    for (int vectors = 1; vectors <= tier->bfloat16.vectors; ++vectors) {
      Random random(31);
      Panel<float> hardware(tier->bfloat16, vectors, 37, 19, random);
      Panel<float> software = hardware;
      software.table = &twin.table;
      for (const std::int64_t keys : {1, 8, 9, 127, 128}) {
        for (const double gain : {1.0, 300.0}) {
          KeyBlock<float> block(hardware, keys, random, {.gain = gain});
          block.words.resize(at(keys));
          for (std::uint64_t& word : block.words) word = random_bits(random);
          ASSERT_EQ(hardware.meet(block), software.meet(block));
          ASSERT_TRUE(hardware.same_state(software)) << keys << " keys";
        }
      }
    }
  }
  EXPECT_GT(compared, 0);
}

}  // namespace
}  // namespace longspan::kernel
