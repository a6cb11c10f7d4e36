// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A record that may be shown: its sizes fit together, its strings are printable.
#include "explain/presentable.h"

#include <algorithm>

#include "base/check.h"
#include "explain/plain_text.h"

namespace longspan {
namespace rendering {
namespace {

// The number of values of a shape, or -1 where a size is negative or there are more than anybody
// can look at. (An empty axis does not excuse the others: lists of empty lists are lists.)
std::int64_t count_of(const std::vector<std::int64_t>& shape) {
  constexpr std::int64_t kMost = std::int64_t{1} << 24;
  std::int64_t count = 1, lists = 1;
  for (const std::int64_t size : shape) {
    if (size < 0 || size > kMost) return -1;
    count *= size;
    lists *= std::max<std::int64_t>(size, 1);
    if (lists > kMost) return -1;
  }
  return count;
}

void check_step(const ExplainStep& step) {
  const auto require = [&](bool ok, const char* what, std::size_t expected, std::size_t found) {
    base::require(ok, [&] {
      return "explain: step " + printable(step.name, false) + ": " + what + ", expected " +
             std::to_string(expected) + ", found " + std::to_string(found);
    });
  };
  const std::int64_t count = count_of(step.shape);
  const std::size_t rank = step.shape.size();
  base::require(count >= 0, [&] {
    return "explain: step " + printable(step.name, false) +
           ": a shape that is negative or too large to show; expected at most 2^24 numbers";
  });
  require(step.axes.size() == rank, "names of axes", rank, step.axes.size());
  const auto values = static_cast<std::size_t>(count);
  require(step.values.size() == values, "values", values, step.values.size());
  require(step.index.empty() || step.index.size() == rank, "axes with an index", rank,
          step.index.size());
  for (std::size_t axis = 0; axis < step.index.size(); ++axis) {
    const std::size_t found = step.index[axis].size();
    const auto expected = static_cast<std::size_t>(step.shape[axis]);
    require(found == 0 || found == expected, "entries of an index", expected, found);
  }
}

}  // namespace

void check_record(const Explanation& explanation) {
  for (const ExplainSection& section : explanation.sections) {
    for (const ExplainStep& step : section.steps) check_step(step);
  }
}

Explanation presentable(Explanation explanation) {
  check_record(explanation);
  const auto one_line = [](std::string& text) { text = printable(text, false); };
  const auto lines = [](std::string& text) { text = printable(text, true); };
  one_line(explanation.method);
  one_line(explanation.title);
  lines(explanation.text);
  for (ExplainSection& section : explanation.sections) {
    one_line(section.title);
    lines(section.text);
    for (ExplainStep& step : section.steps) {
      one_line(step.name);
      one_line(step.also);
      lines(step.code);
      one_line(step.einsum);
      for (std::string& axis : step.axes) one_line(axis);
      lines(step.why);
    }
  }
  return explanation;
}

}  // namespace rendering

const ExplainStep* Explanation::find(const std::string& name) const noexcept {
  for (const ExplainSection& section : sections) {
    for (const ExplainStep& step : section.steps) {
      if (step.name == name) return &step;
    }
  }
  return nullptr;
}

}  // namespace longspan
