// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Medians, and how a row is written.
#include "report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

namespace longspan::bench {
namespace {

double largest(const std::vector<double>& numbers) {
  return *std::max_element(numbers.begin(), numbers.end());
}
double smallest(const std::vector<double>& numbers) {
  return *std::min_element(numbers.begin(), numbers.end());
}

// Round by round, so that a machine whose speed drifts does not matter.
std::vector<double> shares(const Rounds& rounds) {
  std::vector<double> shares;
  shares.reserve(rounds.peak.size());
  for (std::size_t n = 0; n < rounds.peak.size(); ++n) {
    shares.push_back(rounds.rate[n] / rounds.peak[n]);
  }
  return shares;
}

// The fastest call over the highest peak: what no disturbance of the peak can flatter.
double best_share(const Rounds& rounds) { return largest(rounds.rate) / largest(rounds.peak); }

std::string table_row(const Row& row, std::size_t further) {
  std::string line = fmt::format("| {} | {} | {} |", row.work, name_of(row.dtype),
                                 row.kernel.empty() ? "-" : row.kernel);
  if (!row.problem.empty()) {
    line += " " + row.problem;
    for (std::size_t n = 0; n < further + 6; ++n) line += " |";
    return line;
  }
  const Rounds& r = row.rounds;
  line += fmt::format(" {:.3g} | {:.1f} |", 1e3 * median(r.seconds), median(r.rate) * 1e-9);
  line += r.peak.empty() ? " not measured | - | - |"
                         : fmt::format(" {:.1f} | {:.1f} % | {:.1f} % |", median(r.peak) * 1e-9,
                                       100 * median(shares(r)), 100 * best_share(r));
  for (std::size_t n = 0; n < further; ++n) {
    const bool given = n < r.further.size() && !r.further[n].empty();
    line += given ? fmt::format(" {:.3g} |", median(r.further[n])) : " - |";
  }
  return line + fmt::format(" {:.1e} |", row.error);
}

}  // namespace

double median(std::vector<double> numbers) {
  std::sort(numbers.begin(), numbers.end());
  const std::size_t n = numbers.size();
  return n % 2 == 1 ? numbers[n / 2] : (numbers[n / 2 - 1] + numbers[n / 2]) / 2;
}

Report::Report(bool json, nlohmann::ordered_json machine)
    : json_(json), record_(std::move(machine)) {
  if (!json_) {
    for (const auto& [name, value] : record_.items()) {
      if (name != "schema") {
        fmt::print("{}: {}\n", name, value.is_string() ? value.get<std::string>() : value.dump());
      }
    }
  }
  record_["rows"] = nlohmann::ordered_json::array();
}

void Report::begin_table(const std::string& title, const std::string& unit,
                         const std::vector<std::string>& further) {
  title_ = title;
  unit_ = unit;
  further_ = further;
  if (json_) return;
  std::string names, rule;
  for (const std::string& name : further) {
    names += " " + name + " |";
    rule += "---|";
  }
  fmt::print(
      "\n### {}\n\n"
      "| work | type | kernel | ms | {} | peak | of the peak, median | best |{} error |\n"
      "|---|---|---|---|---|---|---|---|{}---|\n",
      title, unit, names, rule);
  std::fflush(stdout);
}

void Report::add(const Row& row) {
  if (!json_) {
    fmt::print("{}\n", table_row(row, further_.size()));
    std::fflush(stdout);
    return;
  }
  nlohmann::ordered_json entry = {
      {"table", title_}, {"work", row.work}, {"dtype", name_of(row.dtype)}, {"kernel", row.kernel}};
  if (!row.problem.empty()) {
    entry["problem"] = row.problem;
  } else {
    const Rounds& r = row.rounds;
    entry["seconds_median"] = median(r.seconds);
    entry["seconds_min"] = smallest(r.seconds);
    entry["unit"] = unit_;
    entry["rate_median"] = median(r.rate) * 1e-9;
    if (!r.peak.empty()) {
      entry["peak_median"] = median(r.peak) * 1e-9;
      entry["share_median"] = median(shares(r));
      entry["share_best"] = best_share(r);
    }
    for (std::size_t n = 0; n < r.further.size(); ++n) {
      if (!r.further[n].empty()) entry["medians"][further_[n]] = median(r.further[n]);
    }
    entry["rel_l2"] = row.error;
  }
  record_["rows"].push_back(std::move(entry));
}

void Report::end() {
  if (json_) fmt::print("{}\n", record_.dump(2));
}

}  // namespace longspan::bench
