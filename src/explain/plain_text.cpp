// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// UTF-8 that may be shown, and lines of it.
#include "explain/plain_text.h"

#include <algorithm>
#include <cstdint>

namespace longspan::rendering {
namespace {

constexpr std::uint32_t kNoCodePoint = 0xFFFFFFFF;

struct CodePoint {
  std::uint32_t value;
  std::size_t bytes;
};

// The code point that text begins with; one byte of kNoCodePoint where that is no UTF-8: a byte is
// missing, the form is longer than need be, or the number is a surrogate or too large.
CodePoint first_code_point(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < bytes) return {kNoCodePoint, 1};
  std::uint32_t value = lead & (0x7Fu >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {kNoCodePoint, 1};
    value = value << 6 | (byte(i) & 0x3Fu);
  }
  constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool is_surrogate = value >= 0xD800 && value <= 0xDFFF;
  if (value < kLeast[bytes] || is_surrogate || value > 0x10FFFF) return {kNoCodePoint, 1};
  return {value, bytes};
}

bool may_be_shown(std::uint32_t c) {
  const auto within = [c](std::uint32_t first, std::uint32_t last) {
    return c >= first && c <= last;
  };
  const bool is_control = c < 0x20 || within(0x7F, 0x9F);
  // Marks, embeddings, overrides and isolates of direction; line and paragraph separator.
  const bool turns_lines =
      c == 0x61C || within(0x200E, 0x200F) || within(0x2028, 0x202E) || within(0x2066, 0x2069);
  const bool is_no_character = within(0xFDD0, 0xFDEF) || (c & 0xFFFE) == 0xFFFE;
  return !(is_control || turns_lines || is_no_character || c == 0xFEFF);
}

bool continues_code_point(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// Bytes of the first `columns` code points.
std::size_t bytes_of_columns(std::string_view text, std::size_t columns) {
  std::size_t byte = 0;
  while (byte < text.size() && (columns > 0 || continues_code_point(text[byte]))) {
    columns -= !continues_code_point(text[byte]);
    ++byte;
  }
  return byte;
}

void append_wrapped(std::vector<std::string>& lines, const std::string& paragraph,
                    std::size_t width) {
  std::string line;
  for (const std::string& piece : split(paragraph, ' ')) {
    std::string_view word = piece;
    if (word.empty()) continue;
    if (!line.empty() && width_of(line) + 1 + width_of(word) > width) {
      lines.push_back(std::move(line));
      line.clear();
    }
    while (width_of(word) > width) {
      const std::size_t bytes = bytes_of_columns(word, width);
      lines.emplace_back(word.substr(0, bytes));
      word.remove_prefix(bytes);
    }
    if (!line.empty()) line += ' ';
    line += word;
  }
  if (!line.empty()) lines.push_back(std::move(line));
}

}  // namespace

std::string printable(std::string_view text, bool keep_line_breaks) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const CodePoint c = first_code_point(text);
    if (may_be_shown(c.value) || (keep_line_breaks && c.value == '\n')) {
      result += text.substr(0, c.bytes);
    } else {
      result += '?';
    }
    text.remove_prefix(c.bytes);
  }
  return result;
}

std::size_t width_of(std::string_view text) {
  return text.size() -
         static_cast<std::size_t>(std::count_if(text.begin(), text.end(), continues_code_point));
}

std::string clipped(const std::string& text, std::size_t width) {
  if (width_of(text) <= width) return text;
  const std::string dots(std::min<std::size_t>(3, width), '.');
  return text.substr(0, bytes_of_columns(text, width - dots.size())) + dots;
}

std::string right_aligned(const std::string& text, std::size_t width) {
  const std::size_t columns = width_of(text);
  return columns >= width ? text : std::string(width - columns, ' ') + text;
}

std::vector<std::string> wrapped(std::string_view text, std::size_t width) {
  std::vector<std::string> lines;
  for (const std::string& paragraph : paragraphs(text)) {
    if (!lines.empty()) lines.emplace_back();
    append_wrapped(lines, paragraph, std::max<std::size_t>(width, 1));
  }
  return lines;
}

std::vector<std::string> paragraphs(std::string_view text) {
  std::vector<std::string> result;
  bool begins = true;
  for (const std::string& line : split(text, '\n')) {
    if (line.find_first_not_of(' ') == std::string::npos) {
      begins = true;
    } else if (begins) {
      result.push_back(line);
      begins = false;
    } else {
      result.back() += ' ' + line;
    }
  }
  return result;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> pieces;
  for (std::size_t end; (end = text.find(separator)) != std::string_view::npos;) {
    pieces.emplace_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  pieces.emplace_back(text);
  return pieces;
}

}  // namespace longspan::rendering
