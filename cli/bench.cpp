// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// `longspan bench`: checks the answer on sampled rows, then times it.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "bench_options.h"
#include "commands.h"
#include "failure.h"
#include "machine.h"
#include "record.h"
#include "signals.h"

namespace longspan::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  longspan bench
  longspan bench --seqlen 1024:8192:x2 --causal=0,1 --dtype f32,bf16 --repeat 9
  longspan bench --seqlen 65536 --seqlen-q 1 --heads 32 --heads-kv 8 -o json
  longspan bench --kernel all --threads 1 -o csv)";

constexpr std::int64_t kCheckedRows = 16;

struct Measurement {
  AttentionPlan plan;
  SampleError error;
  std::vector<double> seconds;  // sorted

  double median() const {
    const std::size_t n = seconds.size();
    return n % 2 == 1 ? seconds[n / 2] : (seconds[n / 2 - 1] + seconds[n / 2]) / 2;
  }
  double spread() const { return (seconds.back() - seconds.front()) / median(); }
};

std::string title(const BenchCase& each) {
  const SampleShape& s = each.shape;
  return fmt::format(
      "{} batch {} seqlen {}x{} heads {}/{} dim {}{}{}", short_name(s.dtype), s.batch, s.seqlen_q,
      s.seqlen_k, s.num_heads, s.num_heads_kv, s.head_dim, s.causal ? " causal" : "",
      s.window ? fmt::format(" window {},{}", s.window->first, s.window->second) : "");
}

double timed(const Sample& sample, const AttentionOptions& options, const Execution& execution) {
  const auto start = std::chrono::steady_clock::now();
  attention(sample.query(), sample.key(), sample.value(), sample.result(), options, execution);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Tensors first, since what cannot be held need not be planned.
AttentionPlan plan_within_memory(const BenchCase& each, const Execution& execution,
                                 MemoryNeed& need) {
  const auto check = [&] {
    check_memory("bench", need,
                 [](std::uint64_t) { return "use a smaller --seqlen, --batch or --heads"; });
  };
  need = {each.shape.input_bytes(), each.shape.output_bytes(), 0};
  check();
  AttentionPlan plan = each.shape.plan(execution);
  need.workspace = plan.workspace_bytes;
  check();
  return plan;
}

// `place`: "1/4", of the combinations.
Measurement measure(const BenchCase& each, const BenchOptions& bench, const std::string& place) {
  Execution execution;
  execution.kernel = each.kernel;
  execution.threads = each.threads;
  execution.stop = stop_token();

  Measurement result;
  MemoryNeed need;
  result.plan = plan_within_memory(each, execution, need);
  if (!bench.quiet) print_err(fmt::format("bench {}: {}; {}\n", place, title(each), need.text()));
  const Sample sample(each.shape);
  const AttentionOptions options = sample.options();
  timed(sample, options, execution);
  result.error = sample.check(kCheckedRows);
  if (!result.error.within) {
    throw Failure(kRunTimeFailure,
                  fmt::format("bench: {}: the answer of kernel {} is wrong: expected float64's "
                              "within tolerance, found a "
                              "relative L2 of {:.3g} and an lse off by {:.3g}",
                              title(each), result.plan.kernel, result.error.output_rel_l2,
                              result.error.lse_abs),
                  "please report this with the output of 'longspan doctor'");
  }
  for (std::int64_t n = 0; n < bench.warm_up; ++n) timed(sample, options, execution);
  for (std::int64_t n = 0; n < bench.repeat; ++n)
    result.seconds.push_back(timed(sample, options, execution));
  std::sort(result.seconds.begin(), result.seconds.end());
  return result;
}

// One flat record for every format; its keys are the columns of csv.
Json record_of(const BenchCase& each, const Measurement& measured, const std::string& cpu) {
  const SampleShape& s = each.shape;
  return {{"schema", 1},
          {"version", version()},
          {"cpu", cpu},
          {"kernel", measured.plan.kernel},
          {"threads", measured.plan.threads},
          {"dtype", short_name(s.dtype)},
          {"batch", s.batch},
          {"seqlen_q", s.seqlen_q},
          {"seqlen_k", s.seqlen_k},
          {"num_heads", s.num_heads},
          {"num_heads_kv", s.num_heads_kv},
          {"head_dim", s.head_dim},
          {"causal", s.causal},
          {"window", s.window ? fmt::format("{},{}", s.window->first, s.window->second) : "none"},
          {"repeat", measured.seconds.size()},
          {"seconds_median", measured.median()},
          {"seconds_min", measured.seconds.front()},
          {"spread", measured.spread()},
          {"gflops", measured.plan.flop / measured.median() / 1e9},
          {"workspace_bytes", measured.plan.workspace_bytes},
          {"checked_rows", kCheckedRows},
          {"output_rel_l2", measured.error.output_rel_l2},
          {"lse_abs", measured.error.lse_abs}};
}

std::string quoted(const Json& value) {
  if (!value.is_string()) return value.dump();
  std::string text = value.get<std::string>();
  for (std::size_t at = 0; (at = text.find('"', at)) != std::string::npos; at += 2)
    text.insert(at, "\"");
  return "\"" + text + "\"";
}

std::string csv_line(const Json& record, bool header) {
  std::string line;
  for (const auto& [key, value] : record.items())
    line += (line.empty() ? "" : ",") + (header ? key : quoted(value));
  return line + "\n";
}

std::string md_line(const Json& r) {
  return fmt::format(
      "| {} | {} | {} | {}x{} | {}/{} | {} | {} | {} | {} | {:.4g} | {:.4g} | {:.1f} % | {:.1f} "
      "|\n",
      r["kernel"].get<std::string>(), r["threads"].get<int>(), r["dtype"].get<std::string>(),
      r["seqlen_q"].get<std::int64_t>(), r["seqlen_k"].get<std::int64_t>(),
      r["num_heads"].get<std::int64_t>(), r["num_heads_kv"].get<std::int64_t>(),
      r["head_dim"].get<std::int64_t>(), r["batch"].get<std::int64_t>(),
      r["causal"].get<bool>() ? "yes" : "no", r["window"].get<std::string>(),
      1e3 * r["seconds_median"].get<double>(), 1e3 * r["seconds_min"].get<double>(),
      100 * r["spread"].get<double>(), r["gflops"].get<double>());
}

constexpr const char* kMdHeader =
    "| kernel | threads | dtype | seqlen | heads | dim | batch | causal | window | median ms | min "
    "ms | spread | GFLOP/s |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";

int run_bench(const BenchOptions& options) {
  const std::vector<BenchCase> cases = expand(options);
  const std::string cpu = cpu_model();
  Json records = Json::array();
  for (std::size_t n = 0; n < cases.size(); ++n) {
    stop_if_interrupted();
    const std::string place = fmt::format("{}/{}", n + 1, cases.size());
    const Json record = record_of(cases[n], measure(cases[n], options, place), cpu);
    if (options.format == "json") {
      records.push_back(record);
    } else if (options.format == "jsonl") {
      print_out(record.dump() + "\n");
    } else if (options.format == "csv") {
      print_out((n == 0 ? csv_line(record, true) : "") + csv_line(record, false));
    } else {
      const std::string header =
          n == 0 ? fmt::format("longspan {}, {}\n\n{}", version(), cpu, kMdHeader) : "";
      print_out(header + md_line(record));
    }
  }
  if (options.format == "json") {
    Json all = new_record();
    all["command"] = "bench";
    all["records"] = std::move(records);
    print_record(all);
  }
  return kSuccess;
}

}  // namespace

Runner add_bench(CLI::App& program) {
  CLI::App* app = program.add_subcommand(
      "bench", "Times attention for all combinations of lists of parameters");
  const auto options = std::make_shared<BenchOptions>();
  add_bench_options(*app, *options);
  app->footer(kExamples);
  return [options] { return run_bench(*options); };
}

}  // namespace longspan::cli
