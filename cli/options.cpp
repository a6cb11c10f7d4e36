// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Parsing of option values with std::from_chars, which knows no locale.
#include "options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "failure.h"

namespace longspan::cli {
namespace {

template <class Number>
std::optional<Number> parse_whole(std::string_view text) {
  Number value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

bool append_range(std::string_view text, std::vector<std::int64_t>& into) {
  const std::vector<std::string> parts = split(text, ':');
  if (parts.size() > 3) return false;
  const auto first = parse_integer(parts[0]);
  const auto last = parts.size() > 1 ? parse_integer(parts[1]) : first;
  if (!first || !last || *first > *last) return false;
  std::string_view step_text = parts.size() > 2 ? std::string_view(parts[2]) : "1";
  const bool geometric = !step_text.empty() && step_text.front() == 'x';
  if (geometric || (!step_text.empty() && step_text.front() == '+')) step_text.remove_prefix(1);
  const auto step = parse_integer(step_text);
  if (!step || *step < (geometric ? 2 : 1) || (geometric && *first < 1)) return false;
  for (std::int64_t value = *first;;) {
    if (into.size() == kMostValues) return false;
    into.push_back(value);
    if (geometric ? value > *last / *step : value > *last - *step) return true;
    value = geometric ? value * *step : value + *step;
  }
}

}  // namespace

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (;;) {
    const std::size_t at = text.find(separator);
    parts.emplace_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

std::optional<std::int64_t> parse_integer(std::string_view text) {
  return parse_whole<std::int64_t>(text);
}

std::optional<double> parse_real(std::string_view text) {
  const auto value = parse_whole<double>(text);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

std::optional<std::uint64_t> parse_size(std::string_view text) {
  struct Unit {
    const char* name;
    double bytes;
  };
  constexpr std::array<Unit, 12> kUnits = {{{"", 1},
                                            {"B", 1},
                                            {"k", 1e3},
                                            {"kB", 1e3},
                                            {"KB", 1e3},
                                            {"MB", 1e6},
                                            {"GB", 1e9},
                                            {"TB", 1e12},
                                            {"KiB", 0x1p10},
                                            {"MiB", 0x1p20},
                                            {"GiB", 0x1p30},
                                            {"TiB", 0x1p40}}};
  const std::size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
  const auto value = parse_real(text.substr(0, digits));
  const auto unit = std::find_if(kUnits.begin(), kUnits.end(),
                                 [&](const Unit& u) { return text.substr(digits) == u.name; });
  if (!value || unit == kUnits.end()) return std::nullopt;
  const double bytes = *value * unit->bytes;
  if (!(bytes >= 1 && bytes < 0x1p62)) return std::nullopt;
  return static_cast<std::uint64_t>(bytes);
}

std::optional<std::pair<std::int64_t, std::int64_t>> parse_pair(std::string_view text,
                                                                char separator) {
  const std::vector<std::string> parts = split(text, separator);
  if (parts.size() != 2) return std::nullopt;
  const auto first = parse_integer(parts[0]);
  const auto second = parse_integer(parts[1]);
  if (!first || !second) return std::nullopt;
  return std::pair{*first, *second};
}

std::optional<std::vector<std::int64_t>> parse_list(std::string_view text) {
  std::vector<std::int64_t> values;
  for (const std::string& part : split(text, ',')) {
    if (!append_range(part, values)) return std::nullopt;
  }
  return values;
}

std::string integer_in(std::int64_t least, std::int64_t most) {
  return most == kNoLimit ? fmt::format("an integer of at least {}", least)
                          : fmt::format("an integer in {}..{}", least, most);
}

std::string OptionAdder::where() const { return app_.get_name(); }

CLI::Option* OptionAdder::text(const std::string& name, const std::string& type,
                               const std::string& help, const std::string& expected,
                               std::function<bool(const std::string&)> parse) {
  const auto check = [name, expected, parse = std::move(parse),
                      at = where()](const std::string& value) {
    if (!parse(value)) {
      throw Failure(kUsage,
                    fmt::format("{}: {}: expected {}, found '{}'", at, name, expected, value));
    }
  };
  return app_.add_option_function<std::string>(name, check, help)->type_name(type);
}

CLI::Option* OptionAdder::integer(const std::string& name, std::int64_t& into, std::int64_t least,
                                  std::int64_t most, const std::string& help) {
  return text(name, "N", help, integer_in(least, most),
              [&into, least, most](const std::string& value) {
                const auto number = parse_integer(value);
                if (!number || *number < least || *number > most) return false;
                into = *number;
                return true;
              });
}

CLI::Option* OptionAdder::real(const std::string& name, std::optional<double>& into, double least,
                               const std::string& help) {
  const bool bounded = std::isfinite(least);
  const std::string expected =
      bounded ? fmt::format("a finite number of at least {}", least) : "a finite number";
  return text(name, "X", help, expected, [&into, least](const std::string& value) {
    const auto number = parse_real(value);
    if (!number || !(*number >= least)) return false;
    into = number;
    return true;
  });
}

CLI::Option* OptionAdder::flag(const std::string& name, bool& into, const std::string& help) {
  return app_.add_flag(name, into, help);
}

std::string in_our_words(const CLI::ParseError& error) {
  constexpr std::string_view kMany = ": At Most 1 required but received ", kFlag = " = ",
                             kNoFlag = "Could not convert: ";
  std::string text = error.what();
  const auto after = [&](std::size_t at, std::string_view words) {
    return text.substr(at + words.size());
  };
  if (const std::size_t at = text.find(kMany); at != std::string::npos) {
    return fmt::format("{}: expected once, found {} times", text.substr(0, at), after(at, kMany));
  }
  if (text.ends_with(" missing")) {
    return text.substr(0, text.find(':')) + ": expected a value, found none";
  }
  const std::size_t at = text.find(kFlag);
  if (text.starts_with(kNoFlag) && at != std::string::npos) {
    return fmt::format("{}: expected no value, found '{}'",
                       text.substr(kNoFlag.size(), at - kNoFlag.size()), after(at, kFlag));
  }
  return text;
}

std::string nearest(const std::string& word, const std::vector<std::string>& candidates) {
  std::string best;
  std::size_t best_distance = 3;
  for (const std::string& candidate : candidates) {
    // Levenshtein's distance, one row of the table at a time.
    std::vector<std::size_t> row(candidate.size() + 1);
    for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
    for (std::size_t i = 0; i < word.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i + 1;
      for (std::size_t j = 0; j < candidate.size(); ++j) {
        const std::size_t replaced = diagonal + (word[i] == candidate[j] ? 0 : 1);
        diagonal = row[j + 1];
        row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

}  // namespace longspan::cli
