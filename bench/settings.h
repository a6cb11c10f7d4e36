// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What the programs that print tables have in common: options, the machine, how rows are run.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "answer_error.h"
#include "longspan/error.h"
#include "longspan/execution.h"
#include "report.h"

namespace longspan::bench {

struct Settings {
  int rounds = 15;
  int threads = available_threads();
  std::vector<std::string> kernels = {""};  // empty: the best for the type
  std::vector<std::string> only;
  bool processor_time = false;
  bool json = false;

  // --rounds, --threads, --kernel, --only one of the tables, --processor-time, --json.
  void add_options(CLI::App& app, const std::vector<std::string>& tables);
  void finish();  // after the options are parsed

  bool wants(const std::string& table) const;
  Report report() const;
  Execution execution(const std::string& kernel) const;

  // On a busy machine the time that others take is left out, and with it the time that a thread of
  // ours waits for another.
  double seconds_for(const std::function<void()>& work) const;
  // The peak of the products, where it is known.
  void measure_peak(Row& row) const;
};

// Notes the error; false, and the row says so, where it is too large.
bool accept(const AnswerError& error, Row& row);

}  // namespace longspan::bench
