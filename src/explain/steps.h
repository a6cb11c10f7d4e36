// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Builds a record step by step, and refuses one that nobody would read.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/rows4.h"
#include "engine/checked_call.h"
#include "longspan/explain.h"
#include "mask/tile.h"

namespace longspan::explain {

struct Axis {
  std::string name;
  std::vector<std::int64_t> index;  // as ExplainStep::index, but never left out
};
Axis axis(std::string name, mask::Range range);
Axis axis(std::string name, std::int64_t extent);

// What a step has beside its name and numbers.
struct Words {
  std::string also = {};
  std::string code = {};
  std::string einsum = {};
  std::string why = {};
  Picture picture = Picture::kNone;
  bool whole_numbers = false;
};

class Steps {
 public:
  // The number at an entry; `at` holds the indices of the axes.
  using Fill = std::function<double(const std::array<std::int64_t, 4>& at)>;

  Steps(Explanation& into, const ExplainChoice& choice) : into_(into), choice_(choice) {}
  void section(std::string title, std::string text = {});
  void add(std::string name, const std::vector<Axis>& axes, Words words, const Fill& fill);

 private:
  Explanation& into_;
  const ExplainChoice& choice_;
  std::int64_t numbers_ = 0;
};

// What the choice leaves of `extent`; an Error names `option` where that is nothing.
mask::Range chosen(const char* option, const std::optional<ExplainChoice::Range>& range,
                   std::int64_t extent);
// That there is something to show: positions, heads, and the chosen batch entry.
void check_not_empty(const engine::CheckedCall& call, const ExplainChoice& choice);

double number_at(const base::Rows4& rows, std::int64_t batch, std::int64_t head, std::int64_t row,
                 std::int64_t component);

std::string text_of(double number);                            // "0.25", "-inf"
std::string span_text(mask::Range range);                      // "4 to 7", "4"
std::string count_text(std::int64_t count, const char* noun);  // "1 key", "2 keys"

}  // namespace longspan::explain
