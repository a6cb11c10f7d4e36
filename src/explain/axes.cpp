// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Where a number of a step stands.
#include "explain/axes.h"

#include <algorithm>
#include <limits>

namespace longspan::rendering {

Cut cut_to(std::int64_t count, std::int64_t most) {
  if (count <= most) return {count, 0, count};
  return {most - most / 2, most / 2, count};
}

std::int64_t entry_number(const ExplainStep& step, std::size_t axis, std::int64_t entry) {
  if (step.index.empty() || step.index[axis].empty()) return entry;
  return step.index[axis][static_cast<std::size_t>(entry)];
}

std::string entry_name(const ExplainStep& step, std::size_t axis, std::int64_t entry) {
  return step.axes[axis] + ' ' + std::to_string(entry_number(step, axis, entry));
}

std::string place_name(const ExplainStep& step, const std::vector<std::size_t>& axes,
                       std::int64_t place) {
  std::string name;
  for (std::size_t i = axes.size(); i-- > 0;) {
    if (!name.empty()) name.insert(0, ", ");
    name.insert(0, entry_name(step, axes[i], place % step.shape[axes[i]]));
    place /= step.shape[axes[i]];
  }
  return name;
}

std::vector<std::size_t> axes_after_first(const ExplainStep& step) {
  std::vector<std::size_t> axes;
  for (std::size_t axis = 1; axis < step.shape.size(); ++axis) axes.push_back(axis);
  return axes;
}

std::vector<std::size_t> axes_before_last(const ExplainStep& step, std::size_t last) {
  std::vector<std::size_t> axes;
  for (std::size_t axis = 0; axis + last < step.shape.size(); ++axis) axes.push_back(axis);
  return axes;
}

std::string axes_and_shape(const ExplainStep& step) {
  std::string text = "[";
  for (std::size_t axis = 0; axis < step.axes.size(); ++axis) {
    if (axis > 0) text += ", ";
    text += step.axes[axis] + ' ' + std::to_string(step.shape[axis]);
  }
  return text + ']';
}

std::int64_t row_count(const ExplainStep& step) {
  std::int64_t rows = 1;
  for (std::size_t axis = 0; axis + 1 < step.shape.size(); ++axis) rows *= step.shape[axis];
  return rows;
}

std::int64_t column_count(const ExplainStep& step) {
  return step.shape.empty() ? 1 : step.shape.back();
}

ExplainStep with_single_entries_first(ExplainStep step) {
  const std::size_t rank = step.shape.size();
  std::vector<std::size_t> order;  // moving such an axis moves no number
  for (const bool single : {true, false}) {
    for (std::size_t axis = 0; axis + 1 < rank; ++axis) {
      if ((step.shape[axis] == 1) == single) order.push_back(axis);
    }
  }
  if (rank > 0) order.push_back(rank - 1);
  const ExplainStep before = step;
  for (std::size_t axis = 0; axis < rank; ++axis) {
    step.axes[axis] = before.axes[order[axis]];
    step.shape[axis] = before.shape[order[axis]];
    if (!step.index.empty()) step.index[axis] = before.index[order[axis]];
  }
  return step;
}

bool is_over_pairs(const ExplainStep& step) {
  return std::any_of(step.axes.begin(), step.axes.end(),
                     [](const std::string& axis) { return axis.starts_with("key"); });
}

bool is_hidden(const ExplainStep& step, double value) {
  return value == -std::numeric_limits<double>::infinity() && is_over_pairs(step);
}

}  // namespace longspan::rendering
