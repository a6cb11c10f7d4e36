// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The record as JSON, schema 1: every number with the digits that give it back bit for bit.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "explain/axes.h"
#include "explain/einsum.h"
#include "explain/presentable.h"

namespace longspan {
namespace rendering {
namespace {

using Json = nlohmann::ordered_json;

Json number(double value, bool whole_numbers) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  constexpr double kLargestInteger = 9007199254740992;  // 2^53
  const bool is_whole = value == std::trunc(value) && std::abs(value) <= kLargestInteger;
  const bool is_negative_zero = value == 0 && std::signbit(value);
  if (whole_numbers && is_whole && !is_negative_zero) return static_cast<std::int64_t>(value);
  return value;
}

// Nested lists as NumPy's tolist() makes them: a number for rank 0; [2, 0] is [[], []].
Json nested_values(const ExplainStep& step, std::size_t axis, std::size_t& next) {
  if (axis == step.shape.size()) return number(step.values[next++], step.whole_numbers);
  Json list = Json::array();
  // An empty axis further in leaves nothing to tell apart outside but lists.
  for (std::int64_t i = 0; i < step.shape[axis]; ++i) {
    list.push_back(nested_values(step, axis + 1, next));
  }
  return list;
}

Json index_lists(const ExplainStep& step) {
  Json lists = Json::array();
  for (std::size_t axis = 0; axis < step.shape.size(); ++axis) {
    Json list = Json::array();
    for (std::int64_t i = 0; i < step.shape[axis]; ++i) list.push_back(entry_number(step, axis, i));
    lists.push_back(std::move(list));
  }
  return lists;
}

Json letter_lists(const Explanation& explanation, const ExplainStep& step) {
  Json lists = Json::object();
  const std::optional<Einsum> einsum = explained_einsum(explanation, step);
  for (const LetterRole role : {LetterRole::kKept, LetterRole::kBatched, LetterRole::kSummed}) {
    lists[name_of(role)] = einsum ? einsum->letters_of(role) : "";
  }
  return lists;
}

Json record_of(const Explanation& explanation) {
  Json sections = Json::array(), steps = Json::array();
  for (const ExplainSection& section : explanation.sections) {
    Json names = Json::array();
    for (const ExplainStep& step : section.steps) {
      names.push_back(step.name);
      std::size_t next = 0;
      steps.push_back({{"name", step.name},
                       {"also", step.also},
                       {"code", step.code},
                       {"einsum", step.einsum},
                       {"letters", letter_lists(explanation, step)},
                       {"axes", step.axes},
                       {"shape", step.shape},
                       {"index", index_lists(step)},
                       {"values", nested_values(step, 0, next)},
                       {"why", step.why}});
    }
    sections.push_back(
        {{"title", section.title}, {"text", section.text}, {"steps", std::move(names)}});
  }
  return {{"schema", 1},
          {"method", explanation.method},
          {"title", explanation.title},
          {"text", explanation.text},
          {"sections", std::move(sections)},
          {"steps", std::move(steps)}};
}

// Plain ASCII, so that nothing in it steers a terminal; bytes that are no UTF-8 are replaced.
std::string dumped(const Json& json) {
  return json.dump(-1, ' ', true, Json::error_handler_t::replace);
}

// Like dump(2), but lists of numbers stand on one line.
void append(std::string& out, const Json& json, std::size_t depth) {
  const bool is_flat =
      std::none_of(json.begin(), json.end(), [](const Json& item) { return item.is_structured(); });
  if (!json.is_structured() || json.empty() || (json.is_array() && is_flat)) {
    out += dumped(json);
    return;
  }
  const std::string indent(2 * (depth + 1), ' ');
  out += json.is_array() ? '[' : '{';
  const char* separator = "\n";
  for (const auto& item : json.items()) {
    out += separator + indent;
    if (json.is_object()) out += dumped(item.key()) + ": ";
    append(out, item.value(), depth + 1);
    separator = ",\n";
  }
  out += '\n' + std::string(2 * depth, ' ') + (json.is_array() ? ']' : '}');
}

}  // namespace
}  // namespace rendering

std::string to_json(const Explanation& explanation) {
  rendering::check_record(explanation);
  std::string text;
  rendering::append(text, rendering::record_of(explanation), 0);
  return text + '\n';
}

}  // namespace longspan
