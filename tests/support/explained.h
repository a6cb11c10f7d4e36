// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Steps of a record by name, and parts of golden tensors to compare them with.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "longspan/explain.h"
#include "support/golden.h"

namespace longspan::test {

inline ExplainChoice everything() {
  ExplainChoice choice;
  choice.most_numbers = std::int64_t{1} << 24;
  return choice;
}

inline const ExplainStep& step(const Explanation& record, const std::string& name) {
  const ExplainStep* found = record.find(name);
  if (found == nullptr) throw std::invalid_argument("the record has no step " + name);
  return *found;
}

// Entry n of the first axis.
inline std::vector<double> first_axis(const GoldenCase& golden, const std::string& name,
                                      std::int64_t n) {
  const std::vector<double> all = golden.numbers(name);
  const auto entries = static_cast<std::size_t>(golden.tensors.at(name).entry().shape.at(0));
  const std::size_t size = all.size() / entries;
  const auto first = all.begin() + static_cast<std::ptrdiff_t>(size) * n;
  return {first, first + static_cast<std::ptrdiff_t>(size)};
}

}  // namespace longspan::test
