// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What the benchmark runs, as data: the rows of docs/performance.md.
#pragma once

#include <string>
#include <vector>

#include "problem.h"

namespace longspan::bench {

// No feature: every key is visible.
void plain(const Shape& shape, Extras& extras);

void set_causal(const Shape& shape, Extras& extras);

inline constexpr DType kTypes[] = {DType::kFloat32, DType::kBFloat16};

// What a row is compared to in the same round, beside the peak.
enum class Against {
  kNothing,
  kTime,  // time / time of the plain call
  kRate,  // rate / rate of the plain call, both on the pairs of the tiles that must be visited
};

struct Case {
  std::string name;
  Shape shape;
  Feature feature = plain;
  Against against = Against::kNothing;
  Shape reference{};  // shape of the plain call that it is compared to
};

struct Section {
  std::string name;   // for --only
  std::string title;  // above the table
  bool backward = false;
  std::vector<Case> cases;
};

// forward, causal, masks, dims, and backward with a table of each. `full` adds 8 x 16384.
std::vector<Section> training_sections(bool full);

// Few queries against many keys.
std::vector<Case> decode_cases();

}  // namespace longspan::bench
