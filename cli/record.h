// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What commands print: JSON records with a schema number, and text that is safe for a terminal.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

namespace longspan::cli {

using Json = nlohmann::ordered_json;

// {"schema": 1}
Json new_record();

// JSON has no NaN and no infinity: they become "nan", "inf", "-inf".
Json json_number(double value);

// Writes to stdout; a failure is found here (Failure, exit 1), not lost in a buffer at the end.
void print_out(const std::string& text);
void print_record(const Json& record);
std::string text_of(const Json& record);
// Writes to stderr. A failure is ignored: what cannot be said must not stop what is done.
void print_err(const std::string& text) noexcept;

// File names and tensor names come from outside: control characters are replaced by '?', so they
// can neither break a line nor drive a terminal.
std::string printable(std::string_view text);

// "12.5 MiB"
std::string format_bytes(std::uint64_t bytes);

// "[2, 4096, 8, 64]"
std::string format_shape(std::span<const std::int64_t> shape);

}  // namespace longspan::cli
