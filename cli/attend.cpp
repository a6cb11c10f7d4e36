// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// `longspan attend`: attention over the tensors of a file.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "attend_inputs.h"
#include "attend_options.h"
#include "attend_outputs.h"
#include "commands.h"
#include "effective_options.h"
#include "failure.h"
#include "lsh_diagnosis.h"
#include "machine.h"
#include "output_file.h"
#include "progress.h"
#include "record.h"

namespace longspan::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  longspan attend input.safetensors -o result.safetensors --causal
  longspan attend query.npy key.npy value.npy -o output.npy --scale 0.125
  longspan attend input.safetensors -o part.safetensors --keys 0:4096
  longspan attend input.safetensors -o gradients.safetensors --backward
  longspan attend input.safetensors -o hashed.safetensors --method lsh --causal --diagnose
  longspan attend input.safetensors --dry-run --memory-limit 64MiB

Values that begin with - are given as --window=-1,0. Tensors of INPUT, shapes and exit codes: docs/command-line.md.)";

constexpr const char* kSplitHint = "attend to a part of the batch, heads or queries at a time";

// One of the two passes over the pairs.
struct Pass {
  AttentionPlan plan;
  double seconds = 0;
  double gflops() const { return seconds > 0 ? plan.flop / seconds / 1e9 : 0; }
};

struct Result {
  Pass forward;
  std::optional<Pass> backward;
  std::optional<LshDiagnostics> diagnosis;
  MemoryNeed memory;
};

OutputFile output_of(const AttendOptions& options) {
  return {"attend", options.output, options.force, options.json};
}

// What both methods say of a pass.
AttentionPlan common_plan(const LshPlan& lsh) {
  AttentionPlan plan;
  plan.kernel = lsh.kernel;
  plan.threads = lsh.threads;
  plan.tasks = lsh.tasks;
  plan.workspace_bytes = lsh.workspace_bytes;
  plan.flop = lsh.flop;
  return plan;
}

// One plan for each pass, forward first, backward last.
std::vector<AttentionPlan> plan_passes(const AttendOptions& options, const AttendCall& call,
                                       const Execution& execution) {
  std::vector<AttentionPlan> plans;
  if (options.lsh) {
    plans.push_back(common_plan(plan_lsh_attention(call.query, key_of(call), call.value, call.lsh,
                                                   call.options, execution)));
    if (options.diagnose) plans.push_back(plan_diagnosis(call, execution));
    if (options.backward) {
      plans.push_back(common_plan(plan_lsh_attention_backward(call.query, key_of(call), call.value,
                                                              call.lsh, call.options, execution)));
    }
    return plans;
  }
  plans.push_back(plan_attention(call.query, call.key, call.value, call.options, execution));
  if (options.backward) {
    plans.push_back(
        plan_attention_backward(call.query, call.key, call.value, call.options, execution));
  }
  return plans;
}

// The passes run one after the other.
std::size_t workspace_of(const std::vector<AttentionPlan>& plans) {
  std::size_t most = 0;
  for (const AttentionPlan& plan : plans) most = std::max(most, plan.workspace_bytes);
  return most;
}

std::optional<std::vector<AttentionPlan>> plan_within(const AttendOptions& options,
                                                      const AttendCall& call, Execution execution,
                                                      std::size_t limit) {
  try {
    execution.memory_limit = limit;
    return plan_passes(options, call, execution);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory) throw;
    return std::nullopt;
  }
}

std::vector<AttentionPlan> make_plans(const AttendOptions& options, const AttendCall& call,
                                      const Execution& execution) {
  try {
    return plan_passes(options, call, execution);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory || execution.memory_limit == 0) throw;
    // Doubling the limit ends: without one there are plans.
    std::size_t limit = execution.memory_limit;
    std::optional<std::vector<AttentionPlan>> fitting;
    while (!fitting) fitting = plan_within(options, call, execution, limit *= 2);
    const std::size_t needed = workspace_of(*fitting);
    throw Failure(kNoMemory, error.what(),
                  fmt::format("--memory-limit {} fits ({})", needed, format_bytes(needed)));
  }
}

std::string hint_for_memory(const AttendOptions& options, const AttendCall& call,
                            const Execution& execution, std::uint64_t left) {
  const bool fits =
      left > 0 && plan_within(options, call, execution, static_cast<std::size_t>(left));
  return fits ? fmt::format("--memory-limit {} fits ({})", left, format_bytes(left)) : kSplitHint;
}

Json shapes_record(const AttendCall& call) {
  return {{"batch", call.batch},
          {"seqlen_q", call.seqlen_q},
          {"seqlen_k", call.seqlen_k},
          {"num_heads", call.num_heads},
          {"num_heads_kv", call.num_heads_kv},
          {"head_dim", call.head_dim},
          {"head_dim_v", call.head_dim_v},
          {"rank", call.rank}};
}

void add_plan(Json& record, const Pass& pass) {
  const AttentionPlan& plan = pass.plan;
  record["query_chunk"] = plan.query_chunk;
  record["key_chunk"] = plan.key_chunk;
  record["tasks"] = plan.tasks;
  record["tiles_visited"] = plan.tiles_visited;
  record["tiles_skipped"] = plan.tiles_skipped;
  record["flop"] = plan.flop;
}

Json backward_record(const Pass& pass, bool dry_run) {
  Json record;
  record["threads"] = pass.plan.threads;
  add_plan(record, pass);
  record["workspace_bytes"] = pass.plan.workspace_bytes;
  if (!dry_run) {
    record["seconds"] = pass.seconds;
    record["gflops"] = pass.gflops();
  }
  return record;
}

Json make_record(const AttendOptions& options, const AttendCall& call, DType output_dtype,
                 const std::string& effective, const Result& result) {
  Json record = new_record();
  record["command"] = "attend";
  record["version"] = version();
  record["dry_run"] = options.dry_run;
  record["method"] = options.lsh ? "lsh" : "exact";
  record["shapes"] = shapes_record(call);
  record["dtype"] = name_of(call.query.dtype);
  record["output_dtype"] = name_of(output_dtype);
  record["options"] = effective;
  record["kernel"] = result.forward.plan.kernel;
  record["decode"] = result.forward.plan.decode;
  record["threads"] = result.forward.plan.threads;
  add_plan(record, result.forward);
  record["input_bytes"] = result.memory.inputs;
  record["output_bytes"] = result.memory.outputs;
  record["workspace_bytes"] = result.memory.workspace;
  record["predicted_peak_bytes"] = result.memory.peak();
  if (!options.dry_run) {
    record["peak_bytes"] = peak_memory();
    record["seconds"] = result.forward.seconds;
    record["gflops"] = result.forward.gflops();
    record["output"] = printable(options.output);
  }
  if (result.backward) record["backward"] = backward_record(*result.backward, options.dry_run);
  if (result.diagnosis) record["diagnosis"] = diagnosis_record(*result.diagnosis);
  return record;
}

std::string summary_of(const Pass& pass, bool dry_run) {
  const AttentionPlan& plan = pass.plan;
  if (!dry_run) return fmt::format("{:.3g} s, {:.3g} GFLOP/s", pass.seconds, pass.gflops());
  return fmt::format("{} tasks, {} tiles ({} skipped), {:.3g} FLOP, workspace {}", plan.tasks,
                     plan.tiles_visited, plan.tiles_skipped, plan.flop,
                     format_bytes(plan.workspace_bytes));
}

std::string summary(const AttendOptions& options, const AttendCall& call, const Result& result) {
  const AttentionPlan& plan = result.forward.plan;
  std::string text = fmt::format(
      "attend: {}, {}, batch {}, {} x {} positions, {}/{} heads, dims {}/{}; kernel {}{}, {} "
      "threads; {}",
      options.lsh ? "lsh" : "exact", name_of(call.query.dtype), call.batch, call.seqlen_q,
      call.seqlen_k, call.num_heads, call.num_heads_kv, call.head_dim, call.head_dim_v, plan.kernel,
      plan.decode ? ", decode" : "", plan.threads, summary_of(result.forward, options.dry_run));
  if (result.backward) text += "; backward " + summary_of(*result.backward, options.dry_run);
  if (options.dry_run) text += "; " + result.memory.text();
  text += '\n';
  if (result.diagnosis) text += diagnosis_text(*result.diagnosis);
  return text;
}

// `run` with progress on stderr, timed.
template <class Run>
void run_pass(const std::string& what, const AttendOptions& options, Execution execution,
              Pass& pass, const Run& run) {
  ProgressReporter progress(what, options.quiet);
  execution.progress = progress.counter();
  const auto start = std::chrono::steady_clock::now();
  run(execution);
  pass.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void compute_and_write(const AttendOptions& options, AttendInputs& inputs, AttendOutputs& outputs,
                       const std::string& effective, const Execution& execution, Result& result) {
  inputs.load_all();
  const AttendCall call = make_call(options, inputs);  // again: the views now lead to the data
  outputs.allocate();
  run_pass("attend", options, execution, result.forward, [&](const Execution& with) {
    if (options.lsh) {
      lsh_attention(call.query, key_of(call), call.value, outputs.result(), call.lsh, call.options,
                    with);
    } else {
      attention(call.query, call.key, call.value, outputs.result(), call.options, with);
    }
  });
  if (result.backward) {
    run_pass("attend: backward", options, execution, *result.backward, [&](const Execution& with) {
      const ConstPartial derivatives{call.doutput, call.dlse};
      if (options.lsh) {
        lsh_attention_backward(call.query, key_of(call), call.value, outputs.result(), derivatives,
                               outputs.gradients(), call.lsh, call.options, with);
      } else {
        attention_backward(call.query, call.key, call.value, outputs.result(), derivatives,
                           outputs.gradients(), call.options, with);
      }
    });
  }
  if (options.save_buckets) fill_buckets(call, outputs, execution);
  if (options.diagnose) {
    Pass pass;
    run_pass("attend: diagnosis", options, execution, pass,
             [&](const Execution& with) { result.diagnosis = diagnose(call, outputs, with); });
  }
  write_output(output_of(options), outputs.named(),
               {{"command", "attend"},
                {"version", version()},
                {"options", effective},
                {"layout", options.bhsd ? "bhsd" : "bshd"},
                {"kernel", result.forward.plan.kernel}});
}

int run_attend(const AttendOptions& options) {
  check_attend_options(options);
  if (!options.dry_run) check_output(output_of(options));
  AttendInputs inputs(options);
  check_memory("attend", {inputs.bytes(), 0, 0}, [](std::uint64_t) { return kSplitHint; });
  inputs.load_what_planning_reads();
  const AttendCall call = make_call(options, inputs);
  const Execution execution = make_execution(options);

  AttendOutputs outputs(options, call);
  if (options.backward) outputs.check_derivatives(inputs);

  const std::vector<AttentionPlan> plans = make_plans(options, call, execution);
  Result result;
  result.forward.plan = plans.front();
  if (options.backward) result.backward = Pass{plans.back()};
  result.memory = {inputs.bytes(), outputs.bytes(), workspace_of(plans)};
  check_memory("attend", result.memory,
               [&](std::uint64_t left) { return hint_for_memory(options, call, execution, left); });

  const std::string effective = effective_options(options, call, inputs.has(Role::kQueryOffsets));
  if (!options.dry_run) {
    if (!options.quiet) print_err(fmt::format("attend: {}\n", result.memory.text()));
    compute_and_write(options, inputs, outputs, effective, execution, result);
  }
  const std::string text =
      options.json ? text_of(make_record(options, call, outputs.dtype(), effective, result))
                   : summary(options, call, result);
  if (options.dry_run) {
    print_out(text);
  } else {
    print_after_output(output_of(options), text);
  }
  return kSuccess;
}

}  // namespace

Runner add_attend(CLI::App& program) {
  CLI::App* app = program.add_subcommand(
      "attend",
      "Attention of queries over keys and values, exact in little memory, or by hashing; "
      "gradients too");
  const auto options = std::make_shared<AttendOptions>();
  add_attend_options(*app, *options);
  app->footer(kExamples);
  return [options] { return run_attend(*options); };
}

}  // namespace longspan::cli
