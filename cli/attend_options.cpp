// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Declares and checks the options of `attend`.
#include "attend_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "failure.h"
#include "lsh_options.h"
#include "options.h"
#include "tensor_file.h"

namespace longspan::cli {
namespace {

void add_input_options(CLI::App& app, OptionAdder& add, AttendOptions& options) {
  app.add_option("INPUT", options.inputs,
                 "one .safetensors file, or three .npy files: query, key, value")
      ->type_name("FILE");
  app.add_option("-o,--output", options.output,
                 "the result: .safetensors, or .npy for output alone")
      ->type_name("FILE");
  add.text("--layout", "bshd|bhsd", "axes of query, key, value and output (bshd)", "bshd or bhsd",
           [&](const std::string& value) {
             options.bhsd = value == "bhsd";
             return value == "bshd" || value == "bhsd";
           });
  add.text("--output-dtype", "f32", "float32 output, whatever the inputs are (as query)", "f32",
           [&](const std::string& value) { return options.output_f32 = value == "f32"; });
}

void add_score_options(OptionAdder& add, AttendOptions& options) {
  add.group("Method, mask and scores");
  add.text("--method", "exact|lsh", "exact attention, or the Reformer's by hashing (exact)",
           "exact or lsh", [&](const std::string& value) {
             options.lsh = value == "lsh";
             return value == "exact" || value == "lsh";
           });
  add.flag("--causal", options.causal, "key j is seen by query i when j <= i + query offset");
  add.text("--window", "L,R",
           "key j is seen when i + offset - L <= j <= i + offset + R; -1: unbounded (-1,-1)",
           "two integers L,R of at least -1", [&](const std::string& value) {
             options.window = parse_pair(value, ',');
             return options.window && options.window->first >= -1 && options.window->second >= -1;
           });
  add.text("--query-offset", "N|end",
           "key position of query 0; end: seqlen_k - seqlen_q (0 where the lengths are equal)",
           "an integer or 'end'", [&](const std::string& value) {
             options.offset_end = value == "end";
             options.offset = parse_integer(value);
             return options.offset_end || options.offset.has_value();
           });
  add.real("--scale", options.scale, -HUGE_VAL, "factor of query . key (1 / sqrt(head_dim))");
  add.real("--softcap", options.softcap, 0,
           "scores become softcap * tanh(score / softcap) (0: off)");
  add.text("--keys", "A:B", "only the keys A <= j < B: a part for merge (all)",
           "two integers A:B with 0 <= A <= B", [&](const std::string& value) {
             options.keys = parse_pair(value, ':');
             return options.keys && options.keys->first >= 0 &&
                    options.keys->first <= options.keys->second;
           });
  add.text("--dropout", "P", "probability of dropping a weight (0)", "a number in 0..1",
           [&](const std::string& value) {
             const auto probability = parse_real(value);
             options.dropout = probability.value_or(0);
             return probability && *probability >= 0 && *probability <= 1;
           });
  add.integer("--seed", options.seed, 0, kNoLimit,
              "of the pattern of --dropout, of the rotations of lsh (0)");
  add.flag("--backward", options.backward,
           "gradients too, from the tensor 'doutput' and, if there, 'dlse'");
}

void add_execution_options(OptionAdder& add, AttendOptions& options) {
  add.group("How it runs");
  add.integer("--query-chunk", options.query_chunk, 1, kNoLimit,
              "queries handled together (chosen)");
  add.integer("--key-chunk", options.key_chunk, 1, kNoLimit,
              "keys summarised before a merge (chosen)");
  add.integer("--threads", options.threads, 1, 4096, "threads (all that the process may use)");
  add.text("--memory-limit", "SIZE",
           "memory above inputs and outputs, such as 64MiB (what is free)",
           "a size such as 64MiB, 1GiB, 500MB", [&](const std::string& value) {
             const auto size = parse_size(value);
             options.memory_limit = size.value_or(0);
             return size.has_value();
           });
  add.flag("--dry-run", options.dry_run,
           "say what would be done and how much memory it needs; do nothing");
  add.flag("--json", options.json, "a JSON record on standard output");
  add.flag("--quiet", options.quiet, "no progress and no predicted memory on standard error");
  add.flag("--force", options.force, "overwrite OUTPUT");
}

void add_name_options(CLI::App& app, OptionAdder& add, AttendOptions& options) {
  add.group("Names of tensors");
  for (const char* name : kRoleNames) {
    app.add_option(name_option(name), options.renamed[name],
                   fmt::format("what this tensor is called in INPUT ({})", name))
        ->type_name("NAME");
  }
}

void check_backward_options(const AttendOptions& options, bool npy_input) {
  if (npy_input) {
    throw Failure(kUsage,
                  options.command +
                      ": --backward: expected a .safetensors INPUT with the tensor 'doutput', "
                      "found .npy files");
  }
  if (is_npy(options.output)) {
    throw Failure(kUsage,
                  options.command +
                      ": --backward: expected a .safetensors OUTPUT, which holds the gradients, "
                      "found " +
                      options.output);
  }
}

}  // namespace

std::string name_option(const std::string& role) {
  std::string option = fmt::format("--{}-name", role);
  std::replace(option.begin(), option.end(), '_', '-');
  return option;
}

void add_attend_options(CLI::App& app, AttendOptions& options) {
  OptionAdder add(app);
  add_input_options(app, add, options);
  add_score_options(add, options);
  add_lsh_options(add, options);
  add_execution_options(add, options);
  add_name_options(app, add, options);
}

void check_attend_options(const AttendOptions& options) {
  const auto npy =
      static_cast<std::size_t>(std::count_if(options.inputs.begin(), options.inputs.end(), is_npy));
  const std::size_t count = options.inputs.size();
  if (!(count == 1 && npy == 0) && !(count == 3 && npy == 3)) {
    throw Failure(
        kUsage,
        fmt::format(
            "{}: INPUT: expected one .safetensors file or three .npy files (query key value), "
            "found {} {}, {} of them .npy",
            options.command, count, count == 1 ? "file" : "files", npy),
        "longspan attend query.npy key.npy value.npy -o output.npy");
  }
  const bool renames = std::any_of(options.renamed.begin(), options.renamed.end(),
                                   [](const auto& entry) { return !entry.second.empty(); });
  if (npy > 0 && renames) {
    throw Failure(
        kUsage,
        options.command +
            ": --NAME-name: expected a .safetensors INPUT, whose tensors have names, found .npy");
  }
  if (options.backward) {
    check_backward_options(options, npy > 0);
  } else if (!options.renamed.at("doutput").empty() || !options.renamed.at("dlse").empty()) {
    throw Failure(kUsage,
                  options.command +
                      ": --doutput-name, --dlse-name: expected --backward with them, found none");
  }
  check_lsh_options(options);
  for (std::size_t n = static_cast<std::size_t>(Role::kQueryKey); n < kRoleNames.size(); ++n) {
    if (options.lsh || options.renamed.at(kRoleNames[n]).empty()) continue;
    throw Failure(kUsage, fmt::format("{}: --NAME-name of '{}': expected --method lsh with it, "
                                      "found --method exact",
                                      options.command, kRoleNames[n]));
  }
  if (options.output.empty() && !options.dry_run) {
    throw Failure(kUsage, options.command + ": -o OUTPUT: expected a file name, found none",
                  "--dry-run alone needs no OUTPUT");
  }
}

}  // namespace longspan::cli
