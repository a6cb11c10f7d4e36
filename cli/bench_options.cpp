// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Declares the options of `bench` and multiplies them out.
#include "bench_options.h"

#include <fmt/format.h>

#include <algorithm>

#include "failure.h"
#include "options.h"

namespace longspan::cli {
namespace {

void add_list(OptionAdder& add, const std::string& name, BenchOptions::Numbers& into,
              std::int64_t least, std::int64_t most, const std::string& help) {
  const std::string expected =
      fmt::format("at most {} integers in {}..{} such as 1,2,5 or 1024:8192:x2 or 64:256:+64",
                  kMostValues, least, most);
  add.text(name, "LIST", help, expected, [&into, least, most](const std::string& value) {
    const auto values = parse_list(value);
    if (!values) return false;
    into = *values;
    return std::all_of(into.begin(), into.end(),
                       [&](std::int64_t v) { return v >= least && v <= most; });
  });
}

bool parse_windows(const std::vector<std::string>& words, std::vector<BenchOptions::Window>& into) {
  into.clear();
  for (const std::string& word : words) {
    const auto window = parse_pair(word, ',');
    if (word != "none" && (!window || window->first < -1 || window->second < -1)) return false;
    into.push_back(window);
  }
  return true;
}

}  // namespace

void add_bench_options(CLI::App& app, BenchOptions& options) {
  constexpr std::int64_t kMost = std::int64_t{1} << 40;
  OptionAdder add(app);
  add_list(add, "--batch", options.batch, 1, kMost, "batch entries (1)");
  add_list(add, "--seqlen", options.seqlen, 1, kMost, "positions of keys and queries (1024,4096)");
  add_list(add, "--seqlen-q", options.seqlen_q, 1, kMost,
           "positions of queries, at the end of the keys (as --seqlen)");
  add_list(add, "--heads", options.heads, 1, 1 << 20, "query heads (8)");
  add_list(add, "--heads-kv", options.heads_kv, 1, 1 << 20, "key and value heads (as --heads)");
  add_list(add, "--head-dim", options.head_dim, 1, 1 << 20, "dims of a head (64)");
  add_list(add, "--threads", options.threads, 0, 4096,
           "threads; 0: all that the process may use (0)");
  app.add_option_function<std::string>(
         "--causal",
         [&options](const std::string& value) {
           if (value == "0,1" || value == "1,0") {
             options.causal = {0, 1};
           } else if (value.empty() || value == "1" || value == "0" || value == "true") {
             options.causal = {value == "0" ? 0 : 1};
           } else {
             throw Failure(kUsage,
                           fmt::format("bench: --causal: expected 0, 1 or 0,1, found '{}'", value));
           }
         },
         "causal attention; --causal=0,1: without and with (0)")
      ->type_name("")
      ->expected(0, 1);
  app.add_option_function<std::vector<std::string>>(
         "--window",
         [&options](const std::vector<std::string>& words) {
           if (parse_windows(words, options.windows)) return;
           throw Failure(
               kUsage,
               fmt::format("bench: --window: expected L,R of at least -1 or none, found '{}'",
                           fmt::join(words, "', '")));
         },
         "sliding window, or none; may be repeated (none)")
      ->type_name("L,R")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  add.text("--dtype", "LIST", "f32, f64, f16, bf16 (f32)", "a list of f32, f64, f16, bf16",
           [&options](const std::string& value) {
             options.dtypes.clear();
             for (const std::string& name : split(value, ',')) {
               const auto dtype = parse_dtype(name);
               if (!dtype) return false;
               options.dtypes.push_back(*dtype);
             }
             return true;
           });
  add.text("--kernel", "LIST",
           "names from 'longspan doctor'; all: every one that can run (the best)",
           "a list of kernels that can run here", [&options](const std::string& value) {
             options.kernels.clear();
             std::vector<std::string> usable;
             for (const KernelInfo& kernel : kernels()) {
               if (kernel.usable) usable.push_back(kernel.name);
             }
             options.kernels = value == "all" ? usable : split(value, ',');
             return std::all_of(
                 options.kernels.begin(), options.kernels.end(), [&](const std::string& name) {
                   return std::find(usable.begin(), usable.end(), name) != usable.end();
                 });
           });
  add.integer("--repeat", options.repeat, 1, 1000000, "timed runs of each combination (5)");
  add.integer("--warm-up", options.warm_up, 0, 1000000,
              "runs before them; the checked run is one more (1)");
  add.text("-o,--output", "md|csv|json|jsonl", "what is printed (md)", "md, csv, json or jsonl",
           [&options](const std::string& value) {
             options.format = value;
             return value == "md" || value == "csv" || value == "json" || value == "jsonl";
           });
  app.add_flag_callback(
      "--json", [&options] { options.format = "json"; }, "the same as -o json");
  add.flag("--quiet", options.quiet, "nothing on standard error");
}

std::vector<BenchCase> expand(const BenchOptions& options) {
  std::vector<BenchCase> cases;
  // The innermost loop changes fastest: what one wants to compare stands side by side.
  for (const DType dtype : options.dtypes)
    for (const std::int64_t head_dim : options.head_dim)
      for (const std::int64_t batch : options.batch)
        for (const std::int64_t heads : options.heads)
          for (const std::int64_t heads_kv : options.heads_kv)
            for (const auto& window : options.windows)
              for (const std::int64_t causal : options.causal)
                for (const std::int64_t seqlen : options.seqlen)
                  for (const std::int64_t seqlen_q : options.seqlen_q)
                    for (const std::string& kernel : options.kernels)
                      for (const std::int64_t threads : options.threads) {
                        SampleShape shape{batch,
                                          seqlen_q > 0 ? seqlen_q : seqlen,
                                          seqlen,
                                          heads,
                                          heads_kv > 0 ? heads_kv : heads,
                                          head_dim,
                                          head_dim,
                                          dtype,
                                          causal != 0,
                                          window};
                        if (heads % shape.num_heads_kv != 0) {
                          throw Failure(
                              kUsage,
                              fmt::format(
                                  "bench: --heads-kv: expected a divisor of --heads = {}, found {}",
                                  heads, heads_kv));
                        }
                        cases.push_back({shape, kernel, static_cast<int>(threads)});
                      }
  return cases;
}

}  // namespace longspan::cli
