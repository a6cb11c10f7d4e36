// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// float16 and bfloat16 as bits: conversions to float32 are exact, from float32 and float64 they
// round to nearest, ties to even, once. NaN stays NaN (quiet).
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace longspan::base {

struct Float16 {
  std::uint16_t bits = 0;
};
struct BFloat16 {
  std::uint16_t bits = 0;
};

inline float to_float(float x) noexcept { return x; }
inline double to_float(double x) noexcept { return x; }

inline float to_float(BFloat16 x) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}

// Exponent and mantissa move as integers, a multiplication by 2^112 re-biases them and makes
// subnormals normal.
inline float to_float(Float16 x) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000u) << 16;
  const std::uint32_t rest = static_cast<std::uint32_t>(x.bits & 0x7FFFu) << 13;
  const bool special = rest >= 0x0F800000u;  // inf or NaN
  const float scaled = std::bit_cast<float>(rest) * 0x1p112f;
  const std::uint32_t magnitude =
      special ? (rest | 0x7F800000u) : std::bit_cast<std::uint32_t>(scaled);
  return std::bit_cast<float>(sign | magnitude);
}

template <class To, class From>
To from_float(From x) noexcept;

template <>
inline float from_float<float, float>(float x) noexcept {
  return x;
}
template <>
inline double from_float<double, float>(float x) noexcept {
  return x;
}
template <>
inline float from_float<float, double>(double x) noexcept {
  return static_cast<float>(x);
}
template <>
inline double from_float<double, double>(double x) noexcept {
  return x;
}

template <>
inline BFloat16 from_float<BFloat16, float>(float x) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);
  const bool nan = x != x;
  return {static_cast<std::uint16_t>((nan ? (bits | 0x00400000u) : rounded) >> 16)};
}

template <>
inline Float16 from_float<Float16, float>(float x) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  std::uint32_t half;
  if (magnitude > 0x7F800000u) {  // NaN
    half = 0x7E00u;
  } else if (magnitude >= 0x477FF000u) {  // rounds to 65520 or more: inf
    half = 0x7C00u;
  } else if (magnitude <
             0x38800000u) {  // below 2^-14: subnormal; adding 0.5 aligns and rounds the mantissa
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    half = std::bit_cast<std::uint32_t>(aligned) - 0x3F000000u;
  } else {
    const std::uint32_t odd = (magnitude >> 13) & 1u;
    half = (magnitude - 0x38000000u + 0x0FFFu + odd) >> 13;
  }
  return {static_cast<std::uint16_t>(sign | half)};
}

// float64 is first rounded to float32 with a sticky last bit (round to odd), so that the second
// rounding is the only one.
inline float round_to_odd(double x) noexcept {
  const float nearest = static_cast<float>(x);
  const double back = nearest;
  if (back == x || nearest != nearest) return nearest;
  std::uint32_t bits = std::bit_cast<std::uint32_t>(nearest);
  if ((bits & 1u) != 0) return nearest;
  const bool away = (back > x) == (back > 0);  // |nearest| > |x|
  bits = (bits & 0x7FFFFFFFu) == 0 ? (bits | 1u) : (away ? bits - 1 : bits + 1);
  return std::bit_cast<float>(bits);
}
template <>
inline BFloat16 from_float<BFloat16, double>(double x) noexcept {
  return from_float<BFloat16, float>(round_to_odd(x));
}
template <>
inline Float16 from_float<Float16, double>(double x) noexcept {
  return from_float<Float16, float>(round_to_odd(x));
}

}  // namespace longspan::base
