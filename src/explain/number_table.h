// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The numbers of a step as lines of text.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "longspan/explain.h"

namespace longspan::rendering {

// A piece of text in one colour.
enum class Ink { kPlain, kTitle, kName, kFaint };
struct Piece {
  std::string text;
  Ink ink = Ink::kPlain;
};
using Line = std::vector<Piece>;

// At most `width` columns (36 or more), whatever the step holds.
std::vector<Line> number_table(const ExplainStep& step, std::size_t width);

}  // namespace longspan::rendering
