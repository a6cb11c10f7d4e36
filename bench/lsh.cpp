// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// LSH attention: its stages, the peak of this machine, and exact causal attention of as many
// tokens. A row is checked against float64 first; then each round times everything that the row
// compares, one after the other.
#include <cstdio>
#include <memory>
#include <utility>

#include "cases.h"
#include "lsh_decode.h"
#include "lsh_truth.h"
#include "settings.h"
#include "together.h"

namespace longspan::bench {
namespace {

constexpr int kHeads = 8;
// Exact attention of more tokens than this is timed with one head, which counts eight times.
constexpr std::int64_t kLongest = 16384;
constexpr double kMilli = 1e3;
constexpr double kNano = 1e9;

Shape shape_of(std::int64_t heads, std::int64_t seqlen, DType dtype) {
  return {heads, heads, seqlen, seqlen, 64, dtype};
}
std::string name_of(std::int64_t heads, std::int64_t seqlen) {
  return std::to_string(heads) + " x " + std::to_string(seqlen);
}
LshOptions with(Dedup dedup) {
  LshOptions options;
  options.dedup = dedup;
  return options;
}

class Bench {
 public:
  Bench(const Settings& settings, Report& report) : settings_(settings), report_(report) {}

  bool run() {
    for (const bool backward : {false, true}) {
      if (!settings_.wants(backward ? "backward" : "forward")) continue;
      begin_stages(backward);
      for (const std::int64_t seqlen : {4096, 16384, 65536}) {
        for (const std::string& kernel : settings_.kernels) {
          compare_stages(seqlen, backward, settings_.execution(kernel));
        }
      }
    }
    if (settings_.wants("dedup")) {
      report_.begin_table("Pairs counted once (the default), against each time they are found",
                          "GFLOP/s of the call", {"time / counted each time"});
      for (const bool backward : {false, true})
        for_types_and_kernels([&](DType dtype, const Execution& execution) {
          compare_dedup(dtype, backward, execution);
        });
    }
    if (settings_.wants("growth")) {
      report_.begin_table("Growth, forward, 1 head", "GFLOP/s of the call",
                          {"ns a token", "a token / a token of 16384"});
      for (const std::int64_t seqlen : {16384, 65536, 262144, 1048576}) {
        for_types_and_kernels([&](DType dtype, const Execution& execution) {
          compare_growth(seqlen, dtype, execution);
        });
      }
    }
    if (settings_.wants("decode")) {
      report_.begin_table("Decode: one more token with hashed keys, against attention to all keys",
                          "GFLOP/s of attend",
                          {"append ms", "exact ms", "exact / (append + attend)"});
      for (const std::int64_t seqlen : {65536, 1048576}) {
        for (const std::string& kernel : settings_.kernels) {
          compare_decode(seqlen, settings_.execution(kernel));
        }
      }
    }
    return all_good_;
  }

 private:
  // One type's side of a row of stages.
  struct Side {
    LshProblem problem;
    Problem exact;
    double flop;
    Row row;
  };

  template <class Visit>
  void for_types_and_kernels(const Visit& visit) {
    for (const DType dtype : kTypes) {
      for (const std::string& kernel : settings_.kernels) visit(dtype, settings_.execution(kernel));
    }
  }

  // Runs and checks; false where the row says what is wrong.
  bool ready(const LshProblem& problem, bool backward, const Execution& execution, Row& row) {
    try {
      row.kernel = problem.plan(backward, execution).kernel;
      problem.hash(execution);
      problem.forward(execution);
      if (backward) problem.backward(execution);
    } catch (const Error& error) {
      row.problem = std::string("not measured: ") + error.what();
      return false;
    }
    const bool accepted =
        accept(check_forward(problem), row) && (!backward || accept(check_backward(problem), row));
    all_good_ = all_good_ && accepted;
    return accepted;
  }

  void begin_stages(bool backward) {
    std::vector<std::string> further = {"hash ms", "sort ms", "rest ms", "exact / lsh",
                                        "time / float32"};
    if (backward) further.emplace_back("with forward: exact / lsh");
    report_.begin_table(std::string(backward ? "Backward" : "Forward") +
                            "; rate and shares are those of the rest: gather, attend, merge",
                        "GFLOP/s of the rest", further);
  }

  // Types take turns within a round.
  void compare_stages(std::int64_t seqlen, bool backward, const Execution& execution) {
    const std::int64_t exact_heads = seqlen > kLongest ? 1 : kHeads;
    std::deque<Side> sides;
    for (const DType dtype : kTypes) {
      LshProblem problem(shape_of(kHeads, seqlen, dtype), {}, backward);
      Row row{name_of(kHeads, seqlen), dtype, execution.kernel, {}, 0, {}};
      if (!ready(problem, backward, execution, row)) {
        report_.add(row);
        continue;
      }
      const double flop = problem.plan(backward, execution).flop;
      row.rounds.further.resize(6);
      sides.push_back({std::move(problem),
                       Problem(shape_of(exact_heads, seqlen, dtype), set_causal, backward), flop,
                       std::move(row)});
    }
    for (int n = 0; n < settings_.rounds; ++n) {
      for (Side& side : sides) {
        measure_stages(side, seqlen > kLongest ? kHeads : 1, backward, execution);
        if (&side != &sides.front()) {
          side.row.rounds.further[4].push_back(side.row.rounds.seconds.back() /
                                               sides.front().row.rounds.seconds.back());
        }
      }
    }
    for (const Side& side : sides) report_.add(side.row);
  }

  void measure_stages(Side& side, int exact_times, bool backward, const Execution& execution) {
    const auto seconds_for = [&](const auto& work) { return settings_.seconds_for(work); };
    settings_.measure_peak(side.row);
    const double exact_forward = exact_times * seconds_for([&] { side.exact.forward(execution); });
    const double forward = seconds_for([&] { side.problem.forward(execution); });
    const double hash = seconds_for([&] { side.problem.hash(execution); });
    const double sort = seconds_for([&] { side.problem.sort(execution); });
    double exact = exact_forward, seconds = forward;
    Rounds& rounds = side.row.rounds;
    if (backward) {
      exact = exact_times * seconds_for([&] { side.exact.backward(execution); });
      seconds = seconds_for([&] { side.problem.backward(execution); });
      rounds.further[5].push_back((exact_forward + exact) / (forward + seconds));
    }
    const double rest = seconds - hash - sort;
    rounds.seconds.push_back(seconds);
    rounds.rate.push_back(side.flop / rest);
    rounds.further[0].push_back(kMilli * hash);
    rounds.further[1].push_back(kMilli * sort);
    rounds.further[2].push_back(kMilli * rest);
    rounds.further[3].push_back(exact / seconds);
  }

  void compare_dedup(DType dtype, bool backward, const Execution& execution) {
    const Shape shape = shape_of(kHeads, 16384, dtype);
    const LshProblem once(shape, with(Dedup::kExact), backward);
    const LshProblem each_time(shape, with(Dedup::kNone), backward);
    Row row{(backward ? "backward, " : "forward, ") + name_of(kHeads, shape.seqlen_q),
            dtype,
            execution.kernel,
            {},
            0,
            {}};
    if (ready(each_time, backward, execution, row) && ready(once, backward, execution, row)) {
      const auto seconds_for = [&](const LshProblem& problem) {
        return settings_.seconds_for(
            [&] { backward ? problem.backward(execution) : problem.forward(execution); });
      };
      const double flop = once.plan(backward, execution).flop;
      std::vector<double>& ratio = row.rounds.further.emplace_back();
      for (int n = 0; n < settings_.rounds; ++n) {
        settings_.measure_peak(row);
        const double other = seconds_for(each_time);
        const double seconds = seconds_for(once);
        row.rounds.seconds.push_back(seconds);
        row.rounds.rate.push_back(flop / seconds);
        ratio.push_back(seconds / other);
      }
    }
    report_.add(row);
  }

  void compare_growth(std::int64_t seqlen, DType dtype, const Execution& execution) {
    const LshProblem base(shape_of(1, 16384, dtype), {}, false);
    const LshProblem problem(shape_of(1, seqlen, dtype), {}, false);
    Row row{name_of(1, seqlen), dtype, execution.kernel, {}, 0, {}};
    if (ready(problem, false, execution, row)) {
      const auto seconds_of_token = [&](const LshProblem& p) {
        return settings_.seconds_for([&] { p.forward(execution); }) /
               static_cast<double>(p.shape().seqlen_q);
      };
      const double flop = problem.plan(false, execution).flop;
      row.rounds.further.resize(2);
      seconds_of_token(base);
      for (int n = 0; n < settings_.rounds; ++n) {
        settings_.measure_peak(row);
        const double of_base = seconds_of_token(base);
        const double of_token = seconds_of_token(problem);
        const double seconds = of_token * static_cast<double>(seqlen);
        row.rounds.seconds.push_back(seconds);
        row.rounds.rate.push_back(flop / seconds);
        row.rounds.further[0].push_back(kNano * of_token);
        row.rounds.further[1].push_back(of_token / of_base);
      }
    }
    report_.add(row);
  }

  // By the clock: a step is too short for processor time.
  void compare_decode(std::int64_t seqlen, const Execution& execution) {
    constexpr int kStepsOfRound = 16;
    const Shape shape = shape_of(kHeads, seqlen, DType::kFloat32);
    LshDecodeProblem problem(shape, execution);
    Row row{name_of(kHeads, seqlen), shape.dtype, problem.kernel(execution), {}, 0, {}};
    problem.append(0, execution);
    problem.attend(0, execution);
    if (accept(problem.check(execution), row)) {
      row.rounds.further.resize(3);
      problem.attend_to_all(0, execution);
      for (int n = 0; n < settings_.rounds; ++n) {
        problem.forget_steps();
        double append = 0, attend = 0;
        for (int step = n; step < n + kStepsOfRound; ++step) {
          append += seconds_of([&] { problem.append(step, execution); }) / kStepsOfRound;
          attend += seconds_of([&] { problem.attend(step, execution); }) / kStepsOfRound;
        }
        const double exact = seconds_of([&] { problem.attend_to_all(n, execution); });
        row.rounds.seconds.push_back(attend);
        row.rounds.rate.push_back(problem.flop() / attend);
        row.rounds.further[0].push_back(kMilli * append);
        row.rounds.further[1].push_back(kMilli * exact);
        row.rounds.further[2].push_back(exact / (append + attend));
      }
    } else {
      all_good_ = false;
    }
    report_.add(row);
  }

  const Settings& settings_;
  Report& report_;
  bool all_good_ = true;
};

int run(int argc, char** argv) {
  Settings settings;
  settings.rounds = 9;
  CLI::App app(
      "LSH attention against the peaks of this machine and exact attention: shared query and key, "
      "causal, d 64, chunks of 64, 4 hash rounds. All tables take about 20 minutes on 2 cores.");
  settings.add_options(app, {"forward", "backward", "dedup", "growth", "decode"});
  CLI11_PARSE(app, argc, argv);
  settings.finish();

  Report report = settings.report();
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
    std::fprintf(stderr, "lsh: %s\n", error.what());
    return 1;
  }
}
