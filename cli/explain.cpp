// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// `longspan explain`: every step of a method with its names, shapes and numbers.
#include "longspan/explain.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "attend_inputs.h"
#include "attend_options.h"
#include "attend_outputs.h"
#include "commands.h"
#include "explain_example.h"
#include "failure.h"
#include "lsh_options.h"
#include "machine.h"
#include "options.h"
#include "output_file.h"
#include "record.h"
#include "tensor_file.h"

namespace longspan::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  longspan explain
  longspan explain --method lsh
  longspan explain --method lsh --preset lab
  longspan explain input.safetensors --rows 0:2 --heads 0:1 --chunks 0:2
  longspan explain --method lsh --html lsh.html

Without INPUT a small example is shown. What every step is: docs/exact-step-by-step.md,
docs/lsh-step-by-step.md.)";

// Options of attend that would change nothing that is shown.
constexpr const char* kNotHere[] = {"--output",    "--output-dtype", "--backward", "--dry-run",
                                    "--diagnose",  "--save-buckets", "--quiet",    "--doutput-name",
                                    "--dlse-name", "--dropout"};

// Options of attend that mean something else here.
constexpr std::pair<const char*, const char*> kOtherHelp[] = {
    {"--seed", "of the rotations of lsh (0)"},
    {"--query-chunk", "exact: queries of a chunk in the step 'coverage' (as --key-chunk)"},
    {"--key-chunk", "exact: keys of a chunk (a quarter of them, at most 128)"},
    {"--threads", "changes nothing that is shown: the call runs on one thread"},
    {"--force", "overwrite the page of --html"}};

struct ExplainOptions {
  AttendOptions attend;
  ExplainChoice choice;
  std::string html;
};

void add_range(OptionAdder& add, const char* name, std::optional<ExplainChoice::Range>& into,
               const char* help) {
  add.text(name, "A:B", help, "two integers A:B with 0 <= A < B", [&into](const std::string& text) {
    const auto pair = parse_pair(text, ':');
    if (!pair || pair->first < 0 || pair->first >= pair->second) return false;
    into = ExplainChoice::Range{pair->first, pair->second};
    return true;
  });
}

void add_options(CLI::App& app, ExplainOptions& options) {
  options.attend.command = "explain";
  options.attend.dry_run = true;  // there is no OUTPUT
  add_attend_options(app, options.attend);
  for (const char* name : kNotHere) app.remove_option(app.get_option(name));
  for (const auto& [name, help] : kOtherHelp) app.get_option(name)->description(help);
  OptionAdder add(app);
  add.group("What is shown");
  add_range(add, "--rows", options.choice.rows, "queries A <= i < B (all)");
  add_range(add, "--heads", options.choice.heads, "heads A <= h < B (all)");
  add_range(add, "--chunks", options.choice.chunks,
            "chunks A <= c < B: of keys, or with lsh of all rounds, one after the other "
            "(all; lsh: those that hold a chosen row)");
  add.integer("--batch", options.choice.batch, 0, kNoLimit, "entry of the batch (0)");
  add.flag("--passthrough", options.choice.passthrough,
           "lsh: weights are the scores themselves, the lab's variant without the softmax");
  app.add_option("--html", options.html, "a page with pictures, that needs nothing else")
      ->type_name("FILE")
      ->group("What is shown");
}

bool wants_colours() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  const bool dumb = term == nullptr || std::string(term) == "dumb";
  return isatty(STDOUT_FILENO) != 0 && (no_color == nullptr || *no_color == '\0') && !dumb;
}

// Where the input is from, and what it says of itself.
std::string origin(const AttendOptions& options, const AttendInputs& inputs) {
  if (options.inputs.empty()) return "The input is a small example that the program has with it.";
  const std::string what = inputs.what();
  return fmt::format("The input is {}{}.", fmt::join(options.inputs, " "),
                     what.empty() ? "" : " (" + what + ")");
}

void check_choice(const ExplainOptions& options, const AttendCall& call) {
  if (call.batch == 0 || call.seqlen_q == 0 || call.seqlen_k == 0 || call.num_heads == 0) {
    throw Failure(
        kBadInput,
        fmt::format("explain: expected some batch entries, queries, keys and heads, found "
                    "query {}, key {}",
                    shape_string(call.query), shape_string(call.key)));
  }
  if (options.choice.batch < call.batch) return;
  throw Failure(kUsage, fmt::format("explain: --batch: expected one of 0 to {}, found {}",
                                    call.batch - 1, options.choice.batch));
}

// What else is wrong with the tensors is said here.
MemoryNeed need_of(const ExplainOptions& options, const AttendInputs& inputs,
                   const AttendCall& call) {
  Execution execution = make_execution(options.attend);
  execution.threads = 1;  // as explain runs
  const std::size_t workspace =
      options.attend.lsh ? plan_lsh_attention(call.query, key_of(call), call.value, call.lsh,
                                              call.options, execution)
                               .workspace_bytes
                         : plan_attention(call.query, call.key, call.value, call.options, execution)
                               .workspace_bytes;
  return {inputs.bytes(), AttendOutputs(options.attend, call).bytes(), workspace};
}

void check_need(const MemoryNeed& need) {
  check_memory("explain", need, [](std::uint64_t) {
    return "explain a part of the batch, heads or queries at a time";
  });
}

// Refuses what certainly cannot be held. What explain keeps of rows and of the plain softmax is not
// counted, so the sum is no prediction to print.
void load(const ExplainOptions& options, AttendInputs& inputs) {
  check_need({inputs.bytes(), 0, 0});
  inputs.load_what_planning_reads();
  const AttendCall call = make_call(options.attend, inputs);
  check_choice(options, call);
  check_need(need_of(options, inputs, call));
  inputs.load_all();
}

Explanation explain(const ExplainOptions& options, const AttendInputs& inputs) {
  const AttendCall call = make_call(options.attend, inputs);
  const Execution execution = make_execution(options.attend);
  try {  // tensors were checked: what is left is a choice that shows too much
    return options.attend.lsh
               ? explain_lsh_attention(call.query, key_of(call), call.value, call.lsh, call.options,
                                       execution, options.choice)
               : explain_attention(call.query, call.key, call.value, call.options, execution,
                                   options.choice);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidArgument) throw;
    throw Failure(kUsage, error.what(), "such as --rows 0:2 --heads 0:1 --chunks 0:2");
  }
}

OutputFile page_of(const ExplainOptions& options) {
  return {"explain", options.html, options.attend.force, options.attend.json};
}

void check(const ExplainOptions& options) {
  if (!options.attend.inputs.empty()) {
    check_attend_options(options.attend);
  } else {
    check_lsh_options(options.attend);
  }
  if (options.choice.passthrough && !options.attend.lsh) {
    throw Failure(kUsage, "explain: --passthrough: expected --method lsh with it, found exact");
  }
  if (!options.html.empty()) check_output(page_of(options));
}

int run_explain(ExplainOptions& options) {
  check(options);
  std::optional<AttendInputs> inputs;
  if (options.attend.inputs.empty()) {
    give_example(options.attend, inputs.emplace());
  } else {
    inputs.emplace(options.attend);
  }
  load(options, *inputs);
  Explanation explanation = explain(options, *inputs);
  explanation.text += "\n\n" + origin(options.attend, *inputs);
  if (options.html.empty()) {
    print_out(options.attend.json ? to_json(explanation)
                                  : to_text(explanation, {80, wants_colours()}));
    return kSuccess;
  }
  write_output(page_of(options), to_html(explanation));
  print_after_output(page_of(options),
                     options.attend.json ? to_json(explanation)
                                         : fmt::format("explain: {}: {}\n", printable(options.html),
                                                       printable(explanation.title)));
  return kSuccess;
}

}  // namespace

Runner add_explain(CLI::App& program) {
  CLI::App* app =
      program.add_subcommand("explain", "Shows every step of a method, with its numbers");
  app->footer(kExamples);
  const auto options = std::make_shared<ExplainOptions>();
  add_options(*app, *options);
  return [options] { return run_explain(*options); };
}

}  // namespace longspan::cli
