// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// An einsum in words.
#include "explain/einsum.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "explain/plain_text.h"

namespace longspan::rendering {
namespace {

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

std::string with_axis(const Letter& letter) {
  const std::string name(1, letter.letter);
  return letter.axis == name ? name : name + ' ' + letter.axis;
}

bool contains(std::string_view letters, char letter) {
  return letters.find(letter) != std::string_view::npos;
}

// Equation, operands, result and the letters with their roles; axes have the letters' names.
std::optional<Einsum> read_equation(std::string text) {
  std::erase(text, ' ');
  const std::size_t arrow = text.find("->");
  if (arrow == std::string::npos) return {};
  Einsum einsum{.equation = text,
                .operands = split(text.substr(0, arrow), ','),
                .operand_names = {},
                .result = text.substr(arrow + 2),
                .result_name = {},
                .letters = {}};
  std::string all = einsum.result;
  for (const std::string& operand : einsum.operands) all += operand;
  if (!std::all_of(all.begin(), all.end(), is_letter)) return {};

  std::string seen;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const char letter = all[i];
    if (contains(seen, letter)) continue;
    seen += letter;
    const auto owners =
        std::count_if(einsum.operands.begin(), einsum.operands.end(),
                      [&](const auto& operand) { return contains(operand, letter); });
    if (owners == 0) return {};
    const bool is_summed = i >= einsum.result.size();
    const LetterRole role = is_summed     ? LetterRole::kSummed
                            : owners == 1 ? LetterRole::kKept
                                          : LetterRole::kBatched;
    einsum.letters.push_back({letter, role, std::string(1, letter)});
  }
  return einsum;
}

bool is_name(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || c == '_' || c == '.';
  });
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

// Names of the operands in "jnp.einsum('qhd,khd->qhk', query, key, precision=p)"; where one is not
// a plain name, all are "A", "B", ...
std::vector<std::string> operand_names(std::string_view code, std::size_t count) {
  std::vector<std::string> names;
  if (const std::size_t call = code.find("einsum("); call != std::string_view::npos) {
    code.remove_prefix(call);
    code = code.substr(0, code.find(')'));
    const std::vector<std::string> pieces = split(code, ',');
    // The equation itself has count - 1 commas.
    for (std::size_t i = count; i < pieces.size() && names.size() < count; ++i) {
      const std::string_view name = trimmed(pieces[i]);
      if (!is_name(name)) break;
      names.emplace_back(name);
    }
  }
  if (names.size() == count) return names;
  names.clear();
  for (std::size_t i = 0; i < count; ++i) names.emplace_back(1, static_cast<char>('A' + i % 26));
  return names;
}

std::string last_part(const std::string& name) { return name.substr(name.rfind('/') + 1); }

// The last step before `step` with this name behind its last '/'.
const ExplainStep* step_before(const Explanation& explanation, const ExplainStep& step,
                               const std::string& name) {
  const ExplainStep* found = nullptr;
  for (const ExplainSection& section : explanation.sections) {
    for (const ExplainStep& other : section.steps) {
      if (&other == &step) return found;
      if (last_part(other.name) == name) found = &other;
    }
  }
  return found;
}

// What a letter stands for where nothing says otherwise; null: nothing.
const char* usual_name(char letter) {
  constexpr std::pair<char, const char*> kNames[] = {{'b', "batch"},
                                                     {'c', "chunk"},
                                                     {'d', "feature"},
                                                     {'f', "feature of value"},
                                                     {'h', "head"},
                                                     {'i', "query"},
                                                     {'j', "key"},
                                                     {'k', "key"},
                                                     {'q', "query"},
                                                     {'r', "round"},
                                                     {'s', "key"},
                                                     {'t', "query"},
                                                     {'v', "feature of value"}};
  for (const auto& [known, name] : kNames) {
    if (known == letter) return name;
  }
  return nullptr;
}

void name_axes(Einsum& einsum, const std::string& letters, const std::vector<std::string>& axes) {
  if (letters.size() != axes.size()) return;
  for (Letter& letter : einsum.letters) {
    const std::size_t at = letters.find(letter.letter);
    if (at != std::string::npos && !axes[at].empty()) letter.axis = axes[at];
  }
}

std::string element(const std::string& name, const std::string& letters) {
  std::string text = name + '[';
  for (std::size_t i = 0; i < letters.size(); ++i) {
    if (i > 0) text += ',';
    text += letters[i];
  }
  return text + ']';
}

}  // namespace

std::optional<Einsum> explained_einsum(const Explanation& explanation, const ExplainStep& step) {
  std::optional<Einsum> einsum = read_equation(step.einsum);
  if (!einsum) return {};
  einsum->result_name = last_part(step.name);
  einsum->operand_names = operand_names(step.code, einsum->operands.size());
  for (Letter& letter : einsum->letters) {
    if (const char* name = usual_name(letter.letter)) letter.axis = name;
  }
  // The step's own names go last: they count most.
  for (std::size_t i = 0; i < einsum->operands.size(); ++i) {
    const ExplainStep* operand = step_before(explanation, step, einsum->operand_names[i]);
    if (operand != nullptr) name_axes(*einsum, einsum->operands[i], operand->axes);
  }
  name_axes(*einsum, einsum->result, step.axes);
  return einsum;
}

std::string Einsum::list(LetterRole role) const {
  std::string text;
  for (const Letter& letter : letters) {
    if (letter.role != role) continue;
    if (!text.empty()) text += ", ";
    text += with_axis(letter);
  }
  return text;
}

std::string Einsum::letters_of(LetterRole role) const {
  std::string text;
  for (const Letter& letter : letters) {
    if (letter.role == role) text += letter.letter;
  }
  return text;
}

std::vector<std::string> Einsum::loops() const {
  std::vector<std::string> lines;
  std::string indent;
  for (const Letter& letter : letters) {
    if (letter.role == LetterRole::kSummed) continue;
    std::string line = indent + "for each ";
    if (letter.axis != std::string(1, letter.letter)) (line += letter.axis) += ' ';
    line += letter.letter;
    lines.push_back(std::move(line += ':'));
    indent += "  ";
  }
  std::string product;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    if (i > 0) product += " * ";
    product += element(operand_names[i], operands[i]);
  }
  const std::string summed = list(LetterRole::kSummed);
  lines.push_back(indent + element(result_name, result) + " =");
  lines.back() += summed.empty() ? ' ' + product : " sum over " + summed + " of";
  if (!summed.empty()) lines.push_back(indent + "    " + product);
  return lines;
}

const char* name_of(LetterRole role) {
  switch (role) {
    case LetterRole::kKept:
      return "kept";
    case LetterRole::kBatched:
      return "batched";
    case LetterRole::kSummed:
      return "summed";
  }
  return "";
}

}  // namespace longspan::rendering
