// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// An einsum in words: what becomes of each letter, and the loops that it stands for.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "longspan/explain.h"

namespace longspan::rendering {

enum class LetterRole {
  kKept,     // in the result, from one operand
  kBatched,  // in the result, from several operands, which walk along it together
  kSummed,   // not in the result
};

struct Letter {
  char letter;
  LetterRole role;
  std::string axis;  // "query"; the letter itself where nothing better is known
};

struct Einsum {
  std::string equation;
  std::vector<std::string> operands;       // letters of each
  std::vector<std::string> operand_names;  // as many
  std::string result;
  std::string result_name;
  std::vector<Letter> letters;  // those of the result in its order, then those summed

  // "q query, k key": the letters of a role.
  std::string list(LetterRole role) const;
  // The letters of a role alone.
  std::string letters_of(LetterRole role) const;
  // Pseudo code: a loop for each letter of the result, a sum inside.
  std::vector<std::string> loops() const;
};

// Of a step that is a product; nothing where it has no equation or one that is not understood.
// Names of operands are read in the step's code, names of their axes in the steps before of those
// names.
std::optional<Einsum> explained_einsum(const Explanation& explanation, const ExplainStep& step);

const char* name_of(LetterRole role);

}  // namespace longspan::rendering
