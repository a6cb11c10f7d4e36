// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Rows of results: a Markdown table as they come, or JSON at the end.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "longspan/tensor.h"

namespace longspan::bench {

// Everything that was timed, one number a round; units are seconds, FLOP/s or bytes/s.
struct Rounds {
  std::vector<double> seconds;
  std::vector<double> rate;
  std::vector<double> peak;                  // empty: not measured
  std::vector<std::vector<double>> further;  // the table's further columns; empty: nothing to say
};

struct Row {
  std::string work;
  DType dtype = DType::kFloat32;
  std::string kernel;
  Rounds rounds;
  double error = 0;     // relative L2 against float64
  std::string problem;  // why there are no rounds, else empty
};

double median(std::vector<double> numbers);

class Report {
 public:
  Report(bool json, nlohmann::ordered_json machine);
  // `unit` of the rates; `further`: columns whose medians are quoted as they are.
  void begin_table(const std::string& title, const std::string& unit,
                   const std::vector<std::string>& further);
  void add(const Row& row);
  void end();  // prints the JSON

 private:
  bool json_;
  std::string title_, unit_;
  std::vector<std::string> further_;
  nlohmann::ordered_json record_;
};

}  // namespace longspan::bench
