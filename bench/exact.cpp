// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Exact attention against the peaks of this machine. A row is checked against float64 first; then
// each round times the peak, the plain call where the row is compared to one, and the call itself,
// one after the other.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <memory>

#include "cases.h"
#include "peaks.h"
#include "report.h"
#include "together.h"
#include "truth.h"

namespace longspan::bench {
namespace {

struct Settings {
  int rounds = 15;
  std::vector<std::string> kernels = {""};  // empty: the best for the type
  std::vector<std::string> only;
  bool full = false;
  bool processor_time = false;
  bool json = false;

  bool wants(const std::string& section) const {
    return only.empty() || std::find(only.begin(), only.end(), section) != only.end();
  }
};

// The cost of the gradients: five products instead of two, the scores once more among them.
constexpr double kBackwardProducts = 2.5;

class Bench {
 public:
  Bench(const Settings& settings, Report& report) : settings_(settings), report_(report) {}

  bool run() {
    for (const Section& section : training_sections(settings_.full)) {
      if (!settings_.wants(section.name)) continue;
      const Against against = section.cases.front().against;
      report_.begin_table(section.title, "GFLOP/s",
                          against == Against::kTime   ? "time / unmasked"
                          : against == Against::kRate ? "rate / plain"
                                                      : "-");
      run_all(section.cases, [&](const Case& each, Row& row, const Execution& execution) {
        measure_training(each, section.backward, execution, row);
      });
    }
    if (settings_.wants("decode")) {
      const ReadBandwidth bandwidth(threads_);
      report_.begin_table("Decode: keys and values read, peak = " + bandwidth.best_loop() + ", " +
                              std::to_string(ReadBandwidth::kBytes >> 20) + " MiB",
                          "GB/s", "-");
      run_all(decode_cases(), [&](const Case& each, Row& row, const Execution& execution) {
        measure_decode(each, bandwidth, execution, row);
      });
    }
    return all_good_;
  }

 private:
  // On a busy machine the time that others take is left out, and with it the time that a thread of
  // ours waits for another.
  template <class Work>
  double seconds_for(const Work& work) const {
    if (!settings_.processor_time) return seconds_of(work);
    const std::clock_t start = std::clock();
    work();
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC / threads_;
  }

  template <class Measure>
  void run_all(const std::vector<Case>& cases, const Measure& measure) {
    for (const Case& each : cases) {
      for (const std::string& kernel : settings_.kernels) {
        Row row{each.name, each.shape.dtype, kernel, {}, 0, {}};
        Execution execution;
        execution.kernel = kernel;
        try {
          measure(each, row, execution);
        } catch (const Error& error) {
          row.problem = std::string("not measured: ") + error.what();
        }
        report_.add(row);
      }
    }
  }

  bool accept(const AnswerError& error, Row& row) {
    row.error = error.rel_l2;
    if (error.within) return true;
    row.problem = "WRONG ANSWER: relative L2 " + std::to_string(error.rel_l2) + ", lse off by " +
                  std::to_string(error.lse);
    all_good_ = false;
    return false;
  }

  void measure_training(const Case& each, bool backward, const Execution& execution, Row& row) {
    const Problem problem(each.shape, each.feature, backward);
    const auto call = [&](const Problem& p) {
      backward ? p.backward(execution) : p.forward(execution);
    };
    const auto flop_of = [&](const Problem& p) {
      return p.plan(execution).flop * (backward ? kBackwardProducts : 1);
    };
    row.kernel = problem.plan(execution).kernel;
    problem.forward(execution);
    if (backward) problem.backward(execution);
    if (!accept(backward ? check_backward(problem, threads_) : check_forward(problem), row)) return;

    std::unique_ptr<Problem> reference;
    if (each.against != Against::kNothing) {
      reference = std::make_unique<Problem>(each.reference, plain, backward);
      reference->forward(execution);
      call(*reference);
    }
    const double flop = flop_of(problem);
    const double reference_flop = reference ? flop_of(*reference) : 0;
    for (int n = 0; n < settings_.rounds; ++n) {
      if (const auto peak = product_peak(row.kernel, each.shape.dtype, threads_)) {
        row.rounds.peak.push_back(*peak);
      }
      const double plain_seconds = reference ? seconds_for([&] { call(*reference); }) : 0;
      const double seconds = seconds_for([&] { call(problem); });
      row.rounds.seconds.push_back(seconds);
      row.rounds.rate.push_back(flop / seconds);
      if (each.against == Against::kTime) row.rounds.ratio.push_back(seconds / plain_seconds);
      if (each.against == Against::kRate) {
        row.rounds.ratio.push_back((flop / seconds) / (reference_flop / plain_seconds));
      }
    }
  }

  // Each round reads copies of key and value in turn, together as many bytes as the bandwidth's
  // loop, so that no cache holds what is read.
  void measure_decode(const Case& each, const ReadBandwidth& bandwidth, const Execution& execution,
                      Row& row) {
    const Shape& s = each.shape;
    const auto bytes =
        static_cast<std::size_t>(2 * s.seqlen_k * s.heads_kv * s.head_dim) * size_of(s.dtype);
    const auto copies = static_cast<int>((ReadBandwidth::kBytes + bytes - 1) / bytes);
    const Problem problem(s, each.feature, false, copies);
    row.kernel = problem.plan(execution).kernel;
    problem.forward(execution);
    if (!accept(check_forward(problem), row)) return;
    for (int n = 0; n < settings_.rounds; ++n) {
      row.rounds.peak.push_back(bandwidth.measure());
      const double seconds = seconds_of([&] {
                               for (int copy = 0; copy < copies; ++copy) {
                                 problem.forward(execution, copy);
                               }
                             }) /
                             copies;
      row.rounds.seconds.push_back(seconds);
      row.rounds.rate.push_back(static_cast<double>(bytes) / seconds);
    }
  }

  const Settings& settings_;
  Report& report_;
  int threads_ = available_threads();
  bool all_good_ = true;
};

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

int run(int argc, char** argv) {
  Settings settings;
  CLI::App app(
      "Exact attention against the peaks of this machine. All tables take about 20 minutes "
      "on 2 cores.");
  app.add_option("--rounds", settings.rounds, "rounds a row")->check(CLI::PositiveNumber);
  app.add_option("--kernel", settings.kernels, "names from `longspan doctor`, or all")
      ->delimiter(',');
  app.add_option("--only", settings.only, "tables to run")
      ->delimiter(',')
      ->check(CLI::IsMember({"forward", "causal", "masks", "dims", "decode", "backward"}));
  app.add_flag("--full", settings.full, "8 x 16384 as well (an hour)");
  app.add_flag("--processor-time", settings.processor_time,
               "for busy machines: processor time over threads, not time; decode is timed anyway");
  app.add_flag("--json", settings.json, "one JSON record instead of tables");
  CLI11_PARSE(app, argc, argv);
  if (settings.kernels.front() == "all") settings.kernels = usable_kernels();

  Report report(settings.json, {{"schema", 1},
                                {"version", version()},
                                {"processor", processor()},
                                {"threads", available_threads()},
                                {"rounds", settings.rounds}});
  const bool good = Bench(settings, report).run();
  report.end();
  return good ? 0 : 1;
}

}  // namespace
}  // namespace longspan::bench

int main(int argc, char** argv) {
  try {
    return longspan::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "exact: %s\n", error.what());
    return 1;
  }
}
