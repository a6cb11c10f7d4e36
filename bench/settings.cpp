// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Options, and the name of the processor.
#include "settings.h"

#include <algorithm>
#include <ctime>
#include <fstream>

#include "longspan/attention.h"
#include "peaks.h"
#include "together.h"

namespace longspan::bench {
namespace {

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

std::vector<std::string> usable_kernels() {
  std::vector<std::string> names;
  for (const KernelInfo& kernel : kernels()) {
    if (kernel.usable) names.push_back(kernel.name);
  }
  return names;
}

}  // namespace

void Settings::add_options(CLI::App& app, const std::vector<std::string>& tables) {
  app.add_option("--rounds", rounds, "rounds a row")->check(CLI::PositiveNumber);
  app.add_option("--threads", threads, "of the calls and of the peak")->check(CLI::PositiveNumber);
  app.add_option("--kernel", kernels, "names from `longspan doctor`, or all")->delimiter(',');
  app.add_option("--only", only, "tables to run")->delimiter(',')->check(CLI::IsMember(tables));
  app.add_flag("--processor-time", processor_time,
               "for busy machines: processor time over threads, not time; decode is timed anyway");
  app.add_flag("--json", json, "one JSON record instead of tables");
}

void Settings::finish() {
  if (kernels.front() == "all") kernels = usable_kernels();
}

bool Settings::wants(const std::string& table) const {
  return only.empty() || std::find(only.begin(), only.end(), table) != only.end();
}

Report Settings::report() const {
  return {json,
          {{"schema", 1},
           {"version", version()},
           {"processor", processor()},
           {"threads", threads},
           {"rounds", rounds}}};
}

Execution Settings::execution(const std::string& kernel) const {
  Execution execution;
  execution.threads = threads;
  execution.kernel = kernel;
  return execution;
}

double Settings::seconds_for(const std::function<void()>& work) const {
  if (!processor_time) return seconds_of(work);
  const std::clock_t start = std::clock();
  work();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC / threads;
}

void Settings::measure_peak(Row& row) const {
  if (const auto peak = product_peak(row.kernel, row.dtype, threads)) {
    row.rounds.peak.push_back(*peak);
  }
}

bool accept(const AnswerError& error, Row& row) {
  row.error = error.rel_l2;
  if (error.within) return true;
  row.problem = "WRONG ANSWER: relative L2 " + std::to_string(error.rel_l2) + ", lse off by " +
                std::to_string(error.lse);
  return false;
}

}  // namespace longspan::bench
