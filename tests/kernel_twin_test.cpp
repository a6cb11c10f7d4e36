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
#include "kernels/amx.h"
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

test::Tile random_tile(Random& random, std::uint32_t exponent, std::uint32_t spread) {
  test::Tile tile;
  for (auto& row : tile.words) {
    for (std::uint32_t& word : row) word = pair_near(random, exponent, spread);
  }
  return tile;
}

// test(c, a, b): tiles around the subnormals, tiles whose sums cancel, tiles of anything, and tiles
// with inf and NaN.
template <class Test>
void for_each_tile(int count, const Test& test) {
  Random random(32);
  for (int n = 0; n < count; ++n) {
    const std::uint32_t exponent = n % 4 == 0 ? 55 : n % 4 == 1 ? 120 : n % 4 == 2 ? 0 : 230;
    const std::uint32_t spread = n % 4 == 0 ? 20 : n % 4 == 1 ? 8 : n % 4 == 2 ? 255 : 25;
    const test::Tile a = random_tile(random, exponent, spread);
    const test::Tile b = random_tile(random, exponent, spread);
    const test::Tile c = random_tile(random, n % 4 == 0 ? 0 : exponent, spread);
    test(c, a, b);
  }
}

testing::AssertionResult same_tiles(const test::Tile& actual, const test::Tile& expected,
                                    int columns) {
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < columns; ++n) {
      const std::uint32_t word = actual.words[m][n], truth = expected.words[m][n];
      const bool both_nan =
          std::isnan(std::bit_cast<float>(word)) && std::isnan(std::bit_cast<float>(truth));
      if (word == truth || both_nan) continue;
      return testing::AssertionFailure()
             << "at " << m << ", " << n << ": " << std::hex << word << " for " << truth;
    }
  }
  return testing::AssertionSuccess();
}

TEST(KernelTwin, TDPBF16PSBitForBit) {
  if (!amx_refusal().empty()) GTEST_SKIP() << "no hardware: " << amx_refusal();
  for_each_tile(4000, [](test::Tile c, const test::Tile& a, const test::Tile& b) {
    test::Tile expected = c;
    test::twin_tile(expected, a, b);
    test::hardware_tile(c, a, b);
    ASSERT_TRUE(same_tiles(c, expected, 16));
  });
}

// The tiles that kernels over twins multiply are those of the pseudo-code. (Without a fused
// multiply-add, products that leave the range of float32 are another matter.)
TEST(KernelTwin, TilesInVectorsAreThoseOfThePseudoCode) {
  int columns = 0;
  for_each_tile(400, [&](test::Tile c, const test::Tile& a, const test::Tile& b) {
    test::Tile expected = c;
    test::twin_tile(expected, a, b);
    columns = test::twin_tile_columns(c, a, b);
    ASSERT_TRUE(same_tiles(c, expected, columns));
  });
  EXPECT_GT(columns, 0);
}

TEST(KernelTwin, WholeKernelsLeaveTheSameBits) {
  test::twin_kernels();
  std::string refusals;
  for (const Kernel& tier : all_kernels()) {
    if (tier.name != "amx" && tier.name != "avx512_bf16") continue;
    if (!tier.usable()) {
      refusals += tier.name + ": " + tier.refusal + "; ";
      continue;
    }
    for (int vectors = 1; vectors <= tier.bfloat16.vectors; ++vectors) {
      SCOPED_TRACE(testing::Message() << tier.name << ", " << vectors << " vectors");
      Random random(31);
      Panel<float> hardware(tier.bfloat16, vectors, 37, 19, random);
      Panel<float> software = hardware;
      software.table = &test::twin_of(tier).bfloat16;
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
  if (!refusals.empty()) GTEST_SKIP() << "no hardware: " << refusals;
}

TEST(KernelAmx, SaysWhyItCannotRun) {
  EXPECT_EQ(amx_refusal(true, true, 0), "");
  EXPECT_NE(amx_refusal(false, false, 0).find("lacks AMX"), std::string::npos);
  EXPECT_NE(amx_refusal(true, false, 0).find("does not enable the tile registers"),
            std::string::npos);
  EXPECT_NE(amx_refusal(true, true, 22).find("does not let this process"), std::string::npos);
  EXPECT_NE(amx_refusal(true, true, 22).find("errno 22"), std::string::npos);
}

}  // namespace
}  // namespace longspan::kernel
