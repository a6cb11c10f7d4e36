// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// float16 and bfloat16 against their literal definition: all 65536 patterns one way, and the other
// way every midpoint between neighbours, what lies just beside it, and random patterns.
#include "base/float16.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace longspan::base {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class E>
struct Format;
template <>
struct Format<Float16> {
  static constexpr int kExponentBits = 5;
};
template <>
struct Format<BFloat16> {
  static constexpr int kExponentBits = 8;
};

template <class E>
struct Definition {
  static constexpr int kMantissaBits = 15 - Format<E>::kExponentBits;
  static constexpr int kBias = (1 << (Format<E>::kExponentBits - 1)) - 1;
  static constexpr std::uint16_t kInf =
      static_cast<std::uint16_t>(((1 << Format<E>::kExponentBits) - 1) << kMantissaBits);

  static double magnitude(std::uint16_t bits) {
    const int exponent = bits >> kMantissaBits;
    const int mantissa = bits & ((1 << kMantissaBits) - 1);
    if (exponent == 0) return std::ldexp(mantissa, 1 - kBias - kMantissaBits);
    return std::ldexp((1 << kMantissaBits) + mantissa, exponent - kBias - kMantissaBits);
  }

  // magnitude() of all finite patterns, and of the first that is not: where inf begins, the
  // definition rounds as if the range went on.
  static const std::vector<double>& magnitudes() {
    static const std::vector<double> all = [] {
      std::vector<double> values;
      for (std::uint16_t bits = 0; bits <= kInf; ++bits) values.push_back(magnitude(bits));
      return values;
    }();
    return all;
  }

  static std::uint16_t nearest(double x) {
    const std::vector<double>& all = magnitudes();
    const double size = std::abs(x);
    std::uint16_t bits = kInf;
    if (size < all.back()) {
      bits = static_cast<std::uint16_t>(std::upper_bound(all.begin(), all.end(), size) -
                                        all.begin() - 1);
      const double middle = (all[bits] + all[bits + 1u]) / 2;  // exact: few bits
      if (size > middle || (size == middle && bits % 2 != 0)) ++bits;
    }
    return static_cast<std::uint16_t>(bits | (std::signbit(x) ? 0x8000u : 0u));
  }
};

template <class E>
class Float16Test : public testing::Test {};
using Formats = testing::Types<Float16, BFloat16>;
TYPED_TEST_SUITE(Float16Test, Formats);

TYPED_TEST(Float16Test, EveryPatternWidensToItsDefinition) {
  using D = Definition<TypeParam>;
  for (unsigned pattern = 0; pattern < 65536; ++pattern) {
    const auto bits = static_cast<std::uint16_t>(pattern);
    const std::uint16_t rest = bits & 0x7FFF;
    const float wide = to_float(TypeParam{bits});
    ASSERT_EQ(std::signbit(wide), pattern >= 0x8000) << pattern;
    if (rest > D::kInf) {
      ASSERT_TRUE(std::isnan(wide)) << pattern;
    } else {
      ASSERT_EQ(std::abs(wide), rest == D::kInf ? kInfinity : D::magnitude(rest)) << pattern;
    }
  }
}

TYPED_TEST(Float16Test, EveryPatternComesBack) {
  using D = Definition<TypeParam>;
  for (unsigned pattern = 0; pattern < 65536; ++pattern) {
    const auto bits = static_cast<std::uint16_t>(pattern);
    const float wide = to_float(TypeParam{bits});
    const std::uint16_t from32 = from_float<TypeParam>(wide).bits;
    const std::uint16_t from64 = from_float<TypeParam>(static_cast<double>(wide)).bits;
    if (std::isnan(wide)) {
      constexpr unsigned kQuiet = 1u << (D::kMantissaBits - 1);
      for (const std::uint16_t back : {from32, from64}) {
        ASSERT_GT(back & 0x7FFF, D::kInf) << pattern;
        ASSERT_NE(back & kQuiet, 0u) << pattern;
        ASSERT_EQ(back & 0x8000, bits & 0x8000) << pattern;
      }
    } else {
      ASSERT_EQ(from32, bits);
      ASSERT_EQ(from64, bits);
    }
  }
}

// Midpoints are float32 numbers. From float64 the numbers just beside them are nearer than float32
// can tell: rounding to float32 first would make them ties.
TYPED_TEST(Float16Test, MidpointsAndTheirNeighboursRoundOnce) {
  using D = Definition<TypeParam>;
  const std::vector<double>& all = D::magnitudes();
  for (std::size_t n = 0; n + 1 < all.size(); ++n) {
    const double middle = (all[n] + all[n + 1]) / 2;
    const auto narrow = static_cast<float>(middle);
    ASSERT_EQ(static_cast<double>(narrow), middle);
    for (const double sign : {1.0, -1.0}) {
      for (const float towards : {0.0f, narrow, std::numeric_limits<float>::infinity()}) {
        const float x = static_cast<float>(sign) * std::nextafter(narrow, towards);
        ASSERT_EQ(from_float<TypeParam>(x).bits, D::nearest(x)) << std::hexfloat << x;
      }
      for (const double towards : {0.0, middle, kInfinity}) {
        const double x = sign * std::nextafter(middle, towards);
        ASSERT_EQ(from_float<TypeParam>(x).bits, D::nearest(x)) << std::hexfloat << x;
      }
    }
    const auto below = static_cast<std::uint16_t>(n);
    ASSERT_EQ(from_float<TypeParam>(std::nextafter(middle, 0.0)).bits, below);
    ASSERT_EQ(from_float<TypeParam>(std::nextafter(middle, kInfinity)).bits, below + 1);
    ASSERT_EQ(from_float<TypeParam>(middle).bits, below + below % 2);
  }
}

TYPED_TEST(Float16Test, RandomPatternsRoundToTheNearest) {
  using D = Definition<TypeParam>;
  std::mt19937_64 random(1);
  for (int n = 0; n < 1'000'000; ++n) {
    const std::uint64_t bits = random();
    const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (!std::isnan(x)) {
      ASSERT_EQ(from_float<TypeParam>(x).bits, D::nearest(x)) << std::hexfloat << x;
    }
    // float64 patterns rarely fall into the range of 16 bits: take the exponent from the float32.
    const double wide = std::ldexp(1.0 + static_cast<double>(random() >> 12) * 0x1p-52,
                                   static_cast<int>(bits % 300) - 160);
    for (const double y : {wide, -wide, std::bit_cast<double>(bits)}) {
      if (std::isnan(y)) continue;
      ASSERT_EQ(from_float<TypeParam>(y).bits, D::nearest(y)) << std::hexfloat << y;
    }
  }
}

TYPED_TEST(Float16Test, Extremes) {
  using D = Definition<TypeParam>;
  const std::uint16_t inf = D::kInf;
  for (const double x : {kInfinity, std::numeric_limits<double>::max(), D::magnitudes().back()}) {
    EXPECT_EQ(from_float<TypeParam>(x).bits, inf);
    EXPECT_EQ(from_float<TypeParam>(-x).bits, inf | 0x8000);
  }
  EXPECT_EQ(from_float<TypeParam>(std::numeric_limits<float>::max()).bits, inf);
  EXPECT_EQ(from_float<TypeParam>(-std::numeric_limits<float>::infinity()).bits, inf | 0x8000);
  for (const double x : {0.0, std::numeric_limits<double>::denorm_min(), 1e-300, 1e-60}) {
    EXPECT_EQ(from_float<TypeParam>(x).bits, 0);
    EXPECT_EQ(from_float<TypeParam>(-x).bits, 0x8000);
  }
  EXPECT_EQ(from_float<TypeParam>(-0.0f).bits, 0x8000);
}

// All NaN patterns of float32 that a truncation of the mantissa would turn into inf, and others.
TYPED_TEST(Float16Test, NanStaysNan) {
  using D = Definition<TypeParam>;
  for (int bit = 0; bit < 23; ++bit) {
    for (const std::uint32_t sign : {0u, 0x80000000u}) {
      const auto x = std::bit_cast<float>(sign | 0x7F800000u | (1u << bit));
      EXPECT_GT(from_float<TypeParam>(x).bits & 0x7FFF, D::kInf) << bit;
    }
  }
  for (int bit = 0; bit < 52; ++bit) {
    const auto x = std::bit_cast<double>(0x7FF0000000000000u | (std::uint64_t{1} << bit));
    EXPECT_GT(from_float<TypeParam>(x).bits & 0x7FFF, D::kInf) << bit;
  }
}

}  // namespace
}  // namespace longspan::base
