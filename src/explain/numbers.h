// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Numbers for people. (JSON writes all digits.)
#pragma once

#include <string>
#include <vector>

namespace longspan::rendering {

// One form for the numbers of a table, so that their points stand below each other: about 5
// significant digits of the largest below 1e5. A number that would show no digit, and one from 1e5
// on, is written with an exponent, and so are all where the largest is tiny. A true zero is "0".
class NumberForm {
 public:
  explicit NumberForm(const std::vector<double>& values, bool whole_numbers);
  std::string operator()(double value) const;

 private:
  int decimals_ = 0;  // behind the point; 0: no point
  bool is_tiny_ = false;
};

// At most 6 characters, about 3 digits, for a square of a picture.
std::string short_number(double value);

// For coordinates and ticks: at most `decimals` behind the point, without zeros at the end.
std::string trimmed_number(double value, int decimals);

}  // namespace longspan::rendering
