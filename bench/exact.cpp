// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Exact attention against the peaks of this machine. A row is checked against float64 first; then
// each round times the peak, the plain call where the row is compared to one, and the call itself,
// one after the other.
#include <cstdio>
#include <memory>

#include "cases.h"
#include "peaks.h"
#include "settings.h"
#include "together.h"
#include "truth.h"

namespace longspan::bench {
namespace {

// The cost of the gradients: five products instead of two, the scores once more among them.
constexpr double kBackwardProducts = 2.5;

class Bench {
 public:
  Bench(const Settings& settings, bool full, Report& report)
      : settings_(settings), full_(full), report_(report) {}

  bool run() {
    for (const Section& section : training_sections(full_)) {
      if (!settings_.wants(section.name)) continue;
      const Against against = section.cases.front().against;
      std::vector<std::string> further;
      if (against == Against::kTime) further = {"time / unmasked"};
      if (against == Against::kRate) further = {"rate / plain"};
      report_.begin_table(section.title, "GFLOP/s", further);
      run_all(section.cases, [&](const Case& each, Row& row, const Execution& execution) {
        measure_training(each, section.backward, execution, row);
      });
    }
    if (settings_.wants("decode")) {
      const ReadBandwidth bandwidth(settings_.threads);
      report_.begin_table("Decode: keys and values read, peak = " + bandwidth.best_loop() + ", " +
                              std::to_string(ReadBandwidth::kBytes >> 20) + " MiB",
                          "GB/s", {});
      run_all(decode_cases(), [&](const Case& each, Row& row, const Execution& execution) {
        measure_decode(each, bandwidth, execution, row);
      });
    }
    return all_good_;
  }

 private:
  template <class Measure>
  void run_all(const std::vector<Case>& cases, const Measure& measure) {
    for (const Case& each : cases) {
      for (const std::string& kernel : settings_.kernels) {
        Row row{each.name, each.shape.dtype, kernel, {}, 0, {}};
        try {
          measure(each, row, settings_.execution(kernel));
        } catch (const Error& error) {
          row.problem = std::string("not measured: ") + error.what();
        }
        report_.add(row);
      }
    }
  }

  bool good(const AnswerError& error, Row& row) {
    const bool accepted = accept(error, row);
    all_good_ = all_good_ && accepted;
    return accepted;
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
    if (!good(backward ? check_backward(problem, settings_.threads) : check_forward(problem),
              row)) {
      return;
    }

    std::unique_ptr<Problem> reference;
    if (each.against != Against::kNothing) {
      reference = std::make_unique<Problem>(each.reference, plain, backward);
      reference->forward(execution);
      call(*reference);
    }
    const double flop = flop_of(problem);
    const double reference_flop = reference ? flop_of(*reference) : 0;
    std::vector<double>& ratio = row.rounds.further.emplace_back();
    for (int n = 0; n < settings_.rounds; ++n) {
      settings_.measure_peak(row);
      const double plain_seconds = reference ? settings_.seconds_for([&] { call(*reference); }) : 0;
      const double seconds = settings_.seconds_for([&] { call(problem); });
      row.rounds.seconds.push_back(seconds);
      row.rounds.rate.push_back(flop / seconds);
      if (each.against == Against::kTime) ratio.push_back(seconds / plain_seconds);
      if (each.against == Against::kRate) {
        ratio.push_back((flop / seconds) / (reference_flop / plain_seconds));
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
    if (!good(check_forward(problem), row)) return;
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
  bool full_;
  Report& report_;
  bool all_good_ = true;
};

int run(int argc, char** argv) {
  Settings settings;
  bool full = false;
  CLI::App app(
      "Exact attention against the peaks of this machine. All tables take about 20 minutes "
      "on 2 cores.");
  settings.add_options(app, {"forward", "causal", "masks", "dims", "decode", "backward"});
  app.add_flag("--full", full, "8 x 16384 as well (an hour)");
  CLI11_PARSE(app, argc, argv);
  settings.finish();

  Report report = settings.report();
  const bool good = Bench(settings, full, report).run();
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
