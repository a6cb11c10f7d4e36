// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// UTF-8 that may be shown, and lines of it. A code point counts as one column.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace longspan::rendering {

// What could steer a terminal or turn a line around is replaced by '?': control characters (C0,
// DEL, C1), line separators, marks of writing direction, bytes that are no UTF-8. Line breaks stay
// where `keep_line_breaks`.
std::string printable(std::string_view text, bool keep_line_breaks);

// The following take printable text.

std::size_t width_of(std::string_view text);

// At most `width` columns; what was longer ends in "...".
std::string clipped(const std::string& text, std::size_t width);

// Spaces before the text.
std::string right_aligned(const std::string& text, std::size_t width);

// Lines of at most `width` columns. Words longer than a line are cut; an empty line parts
// paragraphs, and gives an empty line; other line breaks are spaces.
std::vector<std::string> wrapped(std::string_view text, std::size_t width);

// The paragraphs of a text, each one line.
std::vector<std::string> paragraphs(std::string_view text);

// Pieces between separators; one more than there are separators.
std::vector<std::string> split(std::string_view text, char separator);

}  // namespace longspan::rendering
