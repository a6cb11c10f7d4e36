// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// `longspan attend`: attention over the tensors of a file.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>

#include "attend_inputs.h"
#include "attend_options.h"
#include "commands.h"
#include "failure.h"
#include "machine.h"
#include "progress.h"
#include "record.h"
#include "signals.h"

namespace longspan::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  longspan attend input.safetensors -o result.safetensors --causal
  longspan attend query.npy key.npy value.npy -o output.npy --scale 0.125
  longspan attend input.safetensors -o part.safetensors --keys 0:4096
  longspan attend input.safetensors --dry-run --memory-limit 64MiB

Values that begin with - are given as --window=-1,0. Tensors of INPUT, shapes and exit codes: docs/command-line.md.)";

constexpr const char* kSplitHint = "attend to a part of the batch, heads or queries at a time";

struct Result {
  AttentionPlan plan;
  MemoryNeed memory;
  double seconds = 0;
};

std::vector<std::int64_t> output_shape(const AttendCall& call, bool bhsd) {
  if (call.rank == 2) return {call.seqlen_q, call.head_dim_v};
  std::vector<std::int64_t> shape = {call.seqlen_q, call.num_heads, call.head_dim_v};
  if (bhsd) std::swap(shape[0], shape[1]);
  if (call.rank == 4) shape.insert(shape.begin(), call.batch);
  return shape;
}

std::vector<std::int64_t> lse_shape(const AttendCall& call) {
  if (call.rank == 2) return {call.seqlen_q};
  if (call.rank == 3) return {call.num_heads, call.seqlen_q};
  return {call.batch, call.num_heads, call.seqlen_q};
}

DType output_dtype(const AttendOptions& options, const AttendCall& call) {
  return options.output_f32 ? DType::kFloat32 : call.query.dtype;
}

DType lse_dtype(const AttendCall& call) {
  return call.query.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

// An empty value can have any head_dim_v: what is too large to count in bytes stays too large for
// any machine.
std::uint64_t bytes_of(const std::vector<std::int64_t>& shape, DType dtype) {
  ConstTensorView view{nullptr, dtype, static_cast<int>(shape.size()), {}, {}};
  std::copy(shape.begin(), shape.end(), view.shape.begin());
  const std::int64_t count = std::min(element_count(view), std::int64_t{1} << 57);
  return static_cast<std::uint64_t>(count) * size_of(dtype);
}

// The options as they were understood, defaults included. Threads and memory limit are left out:
// they change no bit of the result, and so files made with different ones are the same.
std::string effective_options(const AttendOptions& options, const AttendCall& call,
                              bool has_query_offsets) {
  std::string text = fmt::format("--method exact --layout {}", options.bhsd ? "bhsd" : "bshd");
  if (options.causal) text += " --causal";
  if (options.window)
    text += fmt::format(" --window={},{}", options.window->first, options.window->second);
  if (options.offset_end) {
    text += " --query-offset=end";
  } else if (!has_query_offsets) {
    text += fmt::format(" --query-offset={}", options.offset.value_or(0));
  }
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(call.head_dim)));
  text += fmt::format(" --scale={} --softcap={}", scale, options.softcap.value_or(0));
  if (options.keys) text += fmt::format(" --keys {}:{}", options.keys->first, options.keys->second);
  if (options.query_chunk > 0) text += fmt::format(" --query-chunk {}", options.query_chunk);
  if (options.key_chunk > 0) text += fmt::format(" --key-chunk {}", options.key_chunk);
  if (options.output_f32) text += " --output-dtype f32";
  return text;
}

Execution make_execution(const AttendOptions& options) {
  Execution execution;
  execution.threads = static_cast<int>(options.threads);
  execution.memory_limit = static_cast<std::size_t>(options.memory_limit);
  execution.query_chunk = options.query_chunk;
  execution.key_chunk = options.key_chunk;
  execution.stop = stop_token();
  return execution;
}

std::optional<AttentionPlan> plan_within(const AttendCall& call, Execution execution,
                                         std::size_t limit) {
  try {
    execution.memory_limit = limit;
    return plan_attention(call.query, call.key, call.value, call.options, execution);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory) throw;
    return std::nullopt;
  }
}

AttentionPlan make_plan(const AttendCall& call, const Execution& execution) {
  try {
    return plan_attention(call.query, call.key, call.value, call.options, execution);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory || execution.memory_limit == 0) throw;
    // Doubling the limit ends: without one there is a plan.
    std::size_t limit = execution.memory_limit;
    std::optional<AttentionPlan> fitting;
    while (!fitting) fitting = plan_within(call, execution, limit *= 2);
    throw Failure(kNoMemory, error.what(),
                  fmt::format("--memory-limit {} fits ({})", fitting->workspace_bytes,
                              format_bytes(fitting->workspace_bytes)));
  }
}

std::string hint_for_memory(const AttendCall& call, const Execution& execution,
                            std::uint64_t left) {
  const auto plan =
      left > 0 ? plan_within(call, execution, static_cast<std::size_t>(left)) : std::nullopt;
  return plan ? fmt::format("--memory-limit {} fits ({})", left, format_bytes(left)) : kSplitHint;
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

double gflops(const Result& result) {
  return result.seconds > 0 ? result.plan.flop / result.seconds / 1e9 : 0;
}

Json make_record(const AttendOptions& options, const AttendCall& call, const std::string& effective,
                 const Result& result) {
  const AttentionPlan& plan = result.plan;
  Json record = new_record();
  record["command"] = "attend";
  record["version"] = version();
  record["dry_run"] = options.dry_run;
  record["method"] = "exact";
  record["shapes"] = shapes_record(call);
  record["dtype"] = name_of(call.query.dtype);
  record["output_dtype"] = name_of(output_dtype(options, call));
  record["options"] = effective;
  record["kernel"] = plan.kernel;
  record["threads"] = plan.threads;
  record["query_chunk"] = plan.query_chunk;
  record["key_chunk"] = plan.key_chunk;
  record["tasks"] = plan.tasks;
  record["tiles_visited"] = plan.tiles_visited;
  record["tiles_skipped"] = plan.tiles_skipped;
  record["flop"] = plan.flop;
  record["input_bytes"] = result.memory.inputs;
  record["output_bytes"] = result.memory.outputs;
  record["workspace_bytes"] = result.memory.workspace;
  record["predicted_peak_bytes"] = result.memory.peak();
  if (!options.dry_run) {
    record["peak_bytes"] = peak_memory();
    record["seconds"] = result.seconds;
    record["gflops"] = gflops(result);
    record["output"] = printable(options.output);
  }
  return record;
}

void print_summary(const AttendOptions& options, const AttendCall& call, const Result& result) {
  const AttentionPlan& plan = result.plan;
  const std::string what = fmt::format(
      "attend: exact, {}, batch {}, {} x {} positions, {}/{} heads, dims {}/{}; kernel {}, {} "
      "threads",
      name_of(call.query.dtype), call.batch, call.seqlen_q, call.seqlen_k, call.num_heads,
      call.num_heads_kv, call.head_dim, call.head_dim_v, plan.kernel, plan.threads);
  if (options.dry_run) {
    print_out(fmt::format("{}; {} tasks, {} tiles ({} skipped), {:.3g} FLOP; {}\n", what,
                          plan.tasks, plan.tiles_visited, plan.tiles_skipped, plan.flop,
                          result.memory.text()));
  } else {
    print_out(fmt::format("{}; {:.3g} s, {:.3g} GFLOP/s\n", what, result.seconds, gflops(result)));
  }
}

void compute_and_write(const AttendOptions& options, AttendInputs& inputs,
                       const std::string& effective, Execution execution, Result& result) {
  inputs.load_all();
  const AttendCall call = make_call(options, inputs);  // again: the views now lead to the data
  const OwnedTensor output =
      make_tensor(output_dtype(options, call), output_shape(call, options.bhsd));
  const OwnedTensor lse = make_tensor(lse_dtype(call), lse_shape(call));
  {
    ProgressReporter progress("attend", options.quiet);
    execution.progress = progress.counter();
    const auto start = std::chrono::steady_clock::now();
    attention(call.query, call.key, call.value, {in_layout(output.view, options.bhsd), lse.view},
              call.options, execution);
    result.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  const io::NamedTensor tensors[] = {{"output", output.view}, {"lse", lse.view}};
  write_output(options.output, tensors,
               {{"command", "attend"},
                {"version", version()},
                {"options", effective},
                {"layout", options.bhsd ? "bhsd" : "bshd"},
                {"kernel", result.plan.kernel}});
}

int run_attend(const AttendOptions& options) {
  check_attend_options(options);
  if (!options.dry_run) check_output("attend", options.output, options.force);
  AttendInputs inputs(options);
  check_memory("attend", {inputs.bytes(), 0, 0}, [](std::uint64_t) { return kSplitHint; });
  inputs.load_what_planning_reads();
  const AttendCall call = make_call(options, inputs);
  const Execution execution = make_execution(options);

  Result result;
  result.plan = make_plan(call, execution);
  const std::uint64_t output_bytes =
      bytes_of(output_shape(call, options.bhsd), output_dtype(options, call));
  result.memory = {inputs.bytes(), output_bytes + bytes_of(lse_shape(call), lse_dtype(call)),
                   result.plan.workspace_bytes};
  check_memory("attend", result.memory,
               [&](std::uint64_t left) { return hint_for_memory(call, execution, left); });

  const std::string effective = effective_options(options, call, inputs.has(Role::kQueryOffsets));
  if (!options.dry_run) {
    if (!options.quiet) fmt::print(stderr, "attend: {}\n", result.memory.text());
    compute_and_write(options, inputs, effective, execution, result);
  }
  if (options.json) {
    print_record(make_record(options, call, effective, result));
  } else {
    print_summary(options, call, result);
  }
  return kSuccess;
}

}  // namespace

Runner add_attend(CLI::App& program) {
  CLI::App* app = program.add_subcommand(
      "attend", "Attention of queries over keys and values, exact, in little memory");
  const auto options = std::make_shared<AttendOptions>();
  add_attend_options(*app, *options);
  app->footer(kExamples);
  return [options] { return run_attend(*options); };
}

}  // namespace longspan::cli
