// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// JSON records and printable text.
#include "record.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cmath>
#include <cstdio>

#include "failure.h"

namespace longspan::cli {

Json new_record() { return {{"schema", 1}}; }

Json json_number(double value) {
  if (std::isfinite(value)) return value;
  if (std::isnan(value)) return "nan";
  return value > 0 ? "inf" : "-inf";
}

void print_out(const std::string& text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (!written || std::fflush(stdout) != 0) {
    throw Failure(kRunTimeFailure, "standard output: writing failed");
  }
}

void print_record(const Json& record) { print_out(text_of(record)); }

std::string text_of(const Json& record) {
  // Names in files need not be UTF-8; replacing is better than failing after the work.
  return record.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

void print_err(const std::string& text) noexcept {
  std::fwrite(text.data(), 1, text.size(), stderr);
}

std::string printable(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    const auto code = static_cast<unsigned char>(c);
    if (code < 0x20 || code == 0x7F) c = '?';
  }
  return result;
}

std::string format_bytes(std::uint64_t bytes) {
  constexpr std::array<const char*, 4> kUnits = {"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  auto value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string format_shape(std::span<const std::int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace longspan::cli
