// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Two independent numbers of N(0, 1) from two random words: Box and Muller, "A note on the
// generation of random normal deviates" (1958),
//   sqrt(-2 ln u) cos(2 pi v), sqrt(-2 ln u) sin(2 pi v).
// Logarithm, sine and cosine are written out as series of additions, multiplications and divisions
// in float64, which with the square root are rounded in one way only by IEEE 754: the bits are the
// same on every machine, in every build that does not fuse or reorder (-ffp-contract=off, no
// -ffast-math). They are wrong by less than 1e-15.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace longspan::lsh {

// ln(n / 2^33) for 0 < n < 2^33.
inline double log_of_fraction(std::uint64_t n) noexcept {
  // n = 2^e m with m in [3/4, 3/2): ln m = 2 atanh s, s = (m - 1) / (m + 1), |s| <= 1/5.
  int e = static_cast<int>(std::bit_width(n)) - 1;
  double m = static_cast<double>(n) / static_cast<double>(std::uint64_t{1} << e);  // exact
  if (m >= 1.5) {
    m /= 2;
    ++e;
  }
  const double s = (m - 1) / (m + 1);
  const double square = s * s;
  double sum = 0;  // atanh s = s + s^3 / 3 + s^5 / 5 + ...; s^24 < 2e-17
  for (int k = 23; k >= 1; k -= 2) sum = sum * square + 1.0 / k;
  return static_cast<double>(e - 33) * std::numbers::ln2 + 2 * s * sum;
}

struct Direction {
  double cosine, sine;
};

// Of the angle 2 pi (n + 1/2) / 2^32.
inline Direction direction(std::uint32_t n) noexcept {
  // Quarter turns, and x within an eighth of a turn of the middle of one.
  const std::uint32_t quarter = n >> 30;
  const double x =
      ((static_cast<double>(n & 0x3FFFFFFFu) + 0.5) * 0x1p-30 - 0.5) * (std::numbers::pi / 2);
  const double square = x * x;
  double sine = 1, cosine = 1;  // (pi/4)^19 / 19! < 1e-19
  for (int k = 16; k >= 2; k -= 2) {
    cosine = 1 - cosine * square / (k * (k - 1));
    sine = 1 - sine * square / ((k + 1) * k);
  }
  sine *= x;
  // The middle of the first quarter stands at an eighth of a turn: cos and sin of the sum.
  constexpr double kHalf = std::numbers::sqrt2 / 2;
  const double c = kHalf * (cosine - sine), s = kHalf * (cosine + sine);
  switch (quarter) {
    case 0:
      return {c, s};
    case 1:
      return {-s, c};
    case 2:
      return {-c, -s};
    default:
      return {s, -c};
  }
}

// u = (a + 1/2) / 2^32 and v = (b + 1/2) / 2^32 lie inside (0, 1); no number passes
// sqrt(66 ln 2) = 6.77.
inline std::array<double, 2> normal_pair(std::uint32_t a, std::uint32_t b) noexcept {
  const double radius = std::sqrt(-2 * log_of_fraction(2 * std::uint64_t{a} + 1));
  const Direction d = direction(b);
  return {radius * d.cosine, radius * d.sine};
}

}  // namespace longspan::lsh
