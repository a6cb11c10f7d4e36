// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Option values: numbers that do not depend on the locale, sizes, pairs, lists and ranges; and
// options that parse them. Everything here throws Failure (exit 2) naming the option, what is
// expected and what was found.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace longspan::cli {

inline constexpr std::size_t kMostValues = 10000;  // a list longer than this is a slip
inline constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

// Nothing but the number may stand in the text.
std::optional<std::int64_t> parse_integer(std::string_view text);
std::optional<double> parse_real(std::string_view text);  // finite
// "64MiB", "1GiB", "500MB", "4k", "1000000"; KiB is 1024 bytes, kB and k are 1000.
std::optional<std::uint64_t> parse_size(std::string_view text);
// "3,-1" with separator ',': two integers.
std::optional<std::pair<std::int64_t, std::int64_t>> parse_pair(std::string_view text,
                                                                char separator);
// "1,2,5", "1024:8192:x2" (times 2), "64:256:64" (steps of 64), "1:4" (steps of 1), and lists of
// these.
std::optional<std::vector<std::int64_t>> parse_list(std::string_view text);
std::vector<std::string> split(std::string_view text, char separator);

// "an integer in 1..8", "an integer of at least 1"
std::string integer_in(std::int64_t least, std::int64_t most);

// Adds options to a command; the words of errors are the same for all.
class OptionAdder {
 public:
  explicit OptionAdder(CLI::App& app) : app_(app) {}

  // The heading of the help under which the options that follow stand. Help that ends with
  // parentheses says the default there: docs/reference-command-line.md has a column for it.
  void group(const std::string& name) { app_.option_defaults()->group(name); }

  // `parse` returns false when the text is not what `expected` says.
  CLI::Option* text(const std::string& name, const std::string& type, const std::string& help,
                    const std::string& expected, std::function<bool(const std::string&)> parse);
  CLI::Option* integer(const std::string& name, std::int64_t& into, std::int64_t least,
                       std::int64_t most, const std::string& help);
  CLI::Option* real(const std::string& name, std::optional<double>& into, double least,
                    const std::string& help);
  CLI::Option* flag(const std::string& name, bool& into, const std::string& help);

 private:
  std::string where() const;
  CLI::App& app_;
};

// What CLI11 found wrong: a value that is missing or that belongs to no flag, an option said twice.
std::string in_our_words(const CLI::ParseError& error);

// The candidate that is at most two edits away from `word` and the nearest; empty when there is
// none.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace longspan::cli
