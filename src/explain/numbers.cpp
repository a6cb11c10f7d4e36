// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Numbers for people.
#include "explain/numbers.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

namespace longspan::rendering {
namespace {

constexpr double kExponentFrom = 1e5;

// std::to_chars knows no locale: the point is always a point.
std::string to_string(double value, std::chars_format format, int precision) {
  std::array<char, 400> text;  // 309 digits of the largest double and 17 behind the point
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, format, precision);
  return {text.data(), end.ptr};
}

std::string not_finite(double value) {
  if (std::isnan(value)) return "nan";
  return value > 0 ? "inf" : "-inf";
}

}  // namespace

NumberForm::NumberForm(const std::vector<double>& values, bool whole_numbers) {
  double largest = 0;
  bool all_whole = true;
  for (const double value : values) {
    const double size = std::abs(value);
    if (!(size < kExponentFrom)) continue;
    largest = std::max(largest, size);
    all_whole = all_whole && value == std::trunc(value);
  }
  if (whole_numbers || all_whole || largest == 0) return;
  const int digits_before_point = static_cast<int>(std::floor(std::log10(largest))) + 1;
  is_tiny_ = largest < 1e-3;
  decimals_ = std::clamp(5 - digits_before_point, 2, 6);
}

std::string NumberForm::operator()(double value) const {
  if (!std::isfinite(value)) return not_finite(value);
  if (value == 0) return "0";
  const double size = std::abs(value);
  if (value == std::trunc(value) && decimals_ == 0 && size < 1e15) {
    return to_string(value, std::chars_format::fixed, 0);
  }
  if (is_tiny_ && size < kExponentFrom) return to_string(value, std::chars_format::scientific, 4);
  if (size >= kExponentFrom || decimals_ == 0) {
    return to_string(value, std::chars_format::general, 5);
  }
  if (size < std::pow(10.0, -decimals_)) {
    return to_string(value, std::chars_format::scientific, 1);
  }
  return to_string(value, std::chars_format::fixed, decimals_);
}

std::string short_number(double value) {
  if (!std::isfinite(value)) return not_finite(value);
  if (value == 0) return "0";
  const double size = std::abs(value);
  if (size >= 9999.5 || size < 0.005) {
    // 5e-07 -> 5e-7
    std::string text = to_string(value, std::chars_format::scientific, 0);
    const std::size_t sign = text.find('e') + 1;
    if (text.size() > sign + 2 && text[sign + 1] == '0') text.erase(sign + 1, 1);
    if (text[sign] == '+') text.erase(sign, 1);
    return text;
  }
  if (value == std::trunc(value)) return to_string(value, std::chars_format::fixed, 0);
  return to_string(value, std::chars_format::fixed, size < 9.995 ? 2 : size < 99.95 ? 1 : 0);
}

std::string trimmed_number(double value, int decimals) {
  std::string text = to_string(value, std::chars_format::fixed, decimals);
  if (text.find('.') != std::string::npos) {
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
  }
  return text == "-0" ? "0" : text;
}

}  // namespace longspan::rendering
