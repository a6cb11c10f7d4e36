// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Drawn rotations: the transform against libm, its moments and tails, known answers, and what each
// number depends on.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "longspan/lsh_attention.h"
#include "lsh/normal_pair.h"
#include "reference/philox_reference.h"
#include "support/call.h"
#include "support/tensor.h"

namespace longspan::test {
namespace {

// Words at the ends and the seams of the series, and many between.
std::vector<std::uint32_t> words() {
  std::vector<std::uint32_t> result = {0, 1, 2, 0xFFFFFFFF, 0xFFFFFFFE, 0x80000000, 0x7FFFFFFF};
  for (std::uint32_t quarter = 0; quarter < 8; ++quarter) {
    for (const std::uint32_t near : {0u, 1u, 0x1FFFFFFFu}) {
      result.push_back((quarter << 29) + near);
    }
  }
  for (std::uint32_t bit = 1; bit != 0; bit <<= 1) {  // 3/4 and 3/2 of each power of two
    result.push_back(bit + bit / 2);
    result.push_back(bit + bit / 2 - 1);
  }
  for (std::uint32_t n = 0; n < 20000; ++n) result.push_back(n * 0x9E3779B9u);
  return result;
}

TEST(NormalPair, IsBoxAndMullers) {
  for (const std::uint32_t word : words()) {
    const double u = (word + 0.5) * 0x1p-32;
    const double logarithm = lsh::log_of_fraction(2 * std::uint64_t{word} + 1);
    ASSERT_NEAR(logarithm, std::log(u), 2e-15 * std::max(1e-9, std::fabs(std::log(u)))) << word;
    const lsh::Direction d = lsh::direction(word);
    const long double angle = 2 * std::numbers::pi_v<long double> * (word + 0.5L) * 0x1p-32L;
    ASSERT_NEAR(d.cosine, static_cast<double>(std::cos(angle)), 5e-16) << word;
    ASSERT_NEAR(d.sine, static_cast<double>(std::sin(angle)), 5e-16) << word;
    ASSERT_NEAR(d.cosine * d.cosine + d.sine * d.sine, 1, 1e-15) << word;
  }
  EXPECT_NEAR(std::hypot(lsh::normal_pair(0, 0)[0], lsh::normal_pair(0, 0)[1]),
              std::sqrt(66 * std::numbers::ln2), 1e-14)
      << "the longest";
  EXPECT_LT(std::hypot(lsh::normal_pair(0xFFFFFFFF, 7)[0], lsh::normal_pair(0xFFFFFFFF, 7)[1]),
            2e-5);
}

Tensor drawn(DType dtype, const std::vector<std::int64_t>& shape, std::uint64_t seed,
             Layout layout = Layout::kRowMajor) {
  Tensor rotations(dtype, shape, layout);
  draw_rotations(rotations, seed);
  EXPECT_TRUE(rotations.surroundings_untouched());
  return rotations;
}

// Bits, since they must not change: with the machine, the compiler, or the next version.
TEST(Rotations, KnownAnswers) {
  const Tensor r = drawn(DType::kFloat64, {3, 5, 4, 7}, 0x0123456789ABCDEF);
  const auto bits = [&](std::initializer_list<std::int64_t> index) {
    return std::bit_cast<std::uint64_t>(r.get(index));
  };
  EXPECT_EQ(bits({0, 0, 0, 0}), 0xBFE58D6A1560A64Fu);
  EXPECT_EQ(bits({0, 0, 0, 3}), 0xBFEB24A45B7D37F3u);
  EXPECT_EQ(bits({2, 4, 3, 6}), 0x3FB82AD6C0C54954u);
  std::uint64_t all = 0;
  for (const double x : r.values()) all = std::rotl(all, 7) ^ std::bit_cast<std::uint64_t>(x);
  EXPECT_EQ(all, 0x45A156D4061B90D9u);
}

// The counter that the header names, through libm.
TEST(Rotations, AreAFunctionOfSeedHeadComponentRoundAndColumn) {
  constexpr std::uint64_t kSeed = 0x0badf00ddeadbeef;
  const Tensor r = drawn(DType::kFloat64, {3, 5, 4, 7}, kSeed);
  for (std::int64_t h = 0; h < 3; ++h) {
    for (std::int64_t d = 0; d < 5; ++d) {
      for (std::int64_t round = 0; round < 4; ++round) {
        for (std::int64_t c = 0; c < 7; ++c) {
          const auto block = reference::philox4x32(
              {static_cast<std::uint32_t>(c / 4), static_cast<std::uint32_t>(d),
               static_cast<std::uint32_t>(h), 0x80000000u + static_cast<std::uint32_t>(round)},
              {0xdeadbeef, 0x0badf00d});
          const std::size_t pair = c % 4 < 2 ? 0 : 2;
          const double u = (block[pair] + 0.5) * 0x1p-32, v = (block[pair + 1] + 0.5) * 0x1p-32;
          const double angle = 2 * std::numbers::pi * v;
          const double expected =
              std::sqrt(-2 * std::log(u)) * (c % 2 == 0 ? std::cos(angle) : std::sin(angle));
          ASSERT_NEAR(r.get({h, d, round, c}), expected, 1e-14);
        }
      }
    }
  }
  // More heads, components, rounds or columns change none of these; float32 rounds them.
  const Tensor more = drawn(DType::kFloat64, {4, 8, 6, 20}, kSeed, Layout::kReversed);
  const Tensor narrow = drawn(DType::kFloat32, {3, 5, 4, 7}, kSeed, Layout::kGaps);
  const Tensor other = drawn(DType::kFloat64, {3, 5, 4, 7}, kSeed + 1);
  for (std::int64_t n = 0; n < r.size(); ++n) {
    const std::initializer_list<std::int64_t> index = {n / 140, n / 28 % 5, n / 7 % 4, n % 7};
    ASSERT_EQ(more.get(index), r.get(n));
    ASSERT_EQ(narrow.get(n), static_cast<double>(static_cast<float>(r.get(n))));
    ASSERT_NE(other.get(n), r.get(n));
  }
}

// 2^18 numbers: each mean within five standard errors, tails as often as they should be.
TEST(Rotations, AreNormal) {
  const std::vector<double> x = drawn(DType::kFloat64, {4, 64, 16, 64}, 7).values();
  const auto n = static_cast<double>(x.size());
  ASSERT_EQ(n, 0x1p18);
  double moments[5] = {};
  double neighbours = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    for (int k = 1; k <= 4; ++k) moments[k] += std::pow(x[i], k) / n;
    if (i > 0) neighbours += x[i] * x[i - 1] / n;
  }
  const double error = 1 / std::sqrt(n);
  EXPECT_NEAR(moments[1], 0, 5 * error);
  EXPECT_NEAR(moments[2], 1, 5 * std::sqrt(2.0) * error);
  EXPECT_NEAR(moments[3], 0, 5 * std::sqrt(15.0) * error);
  EXPECT_NEAR(moments[4], 3, 5 * std::sqrt(96.0) * error);
  EXPECT_NEAR(neighbours, 0, 5 * error);
  for (const double t : {0.5, 1.0, 2.0, 3.0, 4.0}) {
    const double p = std::erfc(t / std::numbers::sqrt2) / 2;
    for (const double side : {-1.0, 1.0}) {
      const auto past = std::count_if(x.begin(), x.end(), [&](double y) { return side * y > t; });
      EXPECT_NEAR(static_cast<double>(past) / n, p, 5 * std::sqrt(p * (1 - p) / n)) << side * t;
    }
  }
}

TEST(Rotations, WhatIsRefused) {
  const auto refused = [](const TensorView& view, std::initializer_list<std::string> words) {
    return throws_error([&] { draw_rotations(view, 0); }, ErrorCode::kInvalidArgument, words);
  };
  EXPECT_TRUE(
      refused(Tensor(DType::kBFloat16, {1, 2, 3, 4}), {"rotations", "float32", "bfloat16"}));
  EXPECT_TRUE(refused(Tensor(DType::kFloat32, {2, 3, 4}), {"num_heads", "[2, 3, 4]"}));
  TensorView folded = Tensor(DType::kFloat32, {2, 3, 4, 5}).view();
  folded.strides[0] = 1;
  EXPECT_TRUE(refused(folded, {"overlap"}));
  folded.data = nullptr;
  EXPECT_TRUE(refused(folded, {"no data"}));
  EXPECT_NO_THROW(draw_rotations(Tensor(DType::kFloat32, {0, 3, 4, 5}), 0));
}

}  // namespace
}  // namespace longspan::test
