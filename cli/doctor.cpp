// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// `longspan doctor`: what longspan finds on this machine, and whether every kernel that can run
// computes rightly.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "commands.h"
#include "failure.h"
#include "machine.h"
#include "options.h"
#include "record.h"
#include "sample.h"
#include "signals.h"

namespace longspan::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  longspan doctor
  longspan doctor --json
  LONGSPAN_KERNEL=avx2 longspan doctor)";

struct SelfTest {
  std::string kernel;
  DType dtype = DType::kFloat32;
  bool supported = true;
  SampleError error;
  bool passed() const { return !supported || error.within; }
};

// Lengths and dims that no vector or tile divides, grouped heads, two dims, a mask: 1/20 s for the
// literal answer.
SelfTest run_self_test(const std::string& kernel, DType dtype) {
  const Sample sample(SampleShape{2, 67, 131, 4, 2, 40, 23, dtype, true, std::nullopt});
  SelfTest test{kernel, dtype, true, {}};
  Execution execution;
  execution.kernel = kernel;
  execution.stop = stop_token();
  try {
    attention(sample.query(), sample.key(), sample.value(), sample.result(), sample.options(),
              execution);
    test.error = sample.check(0);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported) throw;
    test.supported = false;
  }
  return test;
}

std::vector<SelfTest> run_self_tests(const std::vector<KernelInfo>& found) {
  std::vector<SelfTest> tests;
  for (const KernelInfo& kernel : found) {
    if (!kernel.usable) continue;
    for (const DType dtype :
         {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
      tests.push_back(run_self_test(kernel.name, dtype));
    }
  }
  return tests;
}

Json optional_number(const std::optional<std::uint64_t>& value) {
  return value ? Json(*value) : Json();
}

Json make_record(const std::vector<KernelInfo>& found, const Threads& threads, const Memory& memory,
                 const std::vector<SelfTest>& tests, bool healthy) {
  Json record = new_record();
  record["command"] = "doctor";
  record["version"] = version();
  record["cpu"] = cpu_model();
  record["kernels"] = Json::array();
  for (const KernelInfo& kernel : found) {
    record["kernels"].push_back({{"name", kernel.name},
                                 {"usable", kernel.usable},
                                 {"chosen", kernel.chosen},
                                 {"reason", kernel.reason}});
    if (kernel.chosen) record["kernel"] = kernel.name;
  }
  record["threads"] = {{"used", available_threads()},
                       {"online", threads.online},
                       {"affinity", threads.affinity},
                       {"cgroup", threads.cgroup_quota ? Json(*threads.cgroup_quota) : Json()}};
  record["memory"] = {{"total", memory.total},
                      {"available", memory.available},
                      {"cgroup_limit", optional_number(memory.cgroup_limit)},
                      {"cgroup_available", optional_number(memory.cgroup_available)}};
  record["self_test"] = Json::array();
  for (const SelfTest& test : tests) {
    Json entry = {
        {"kernel", test.kernel}, {"dtype", short_name(test.dtype)}, {"supported", test.supported}};
    if (test.supported) {
      entry["passed"] = test.passed();
      entry["output_rel_l2"] = json_number(test.error.output_rel_l2);
      entry["lse_abs"] = json_number(test.error.lse_abs);
    }
    record["self_test"].push_back(std::move(entry));
  }
  record["healthy"] = healthy;
  return record;
}

// Without one LONGSPAN_KERNEL asks for what cannot run here, and every call is refused.
bool has_chosen(const std::vector<KernelInfo>& found) {
  return std::any_of(found.begin(), found.end(), [](const KernelInfo& k) { return k.chosen; });
}

std::string verdict(const std::vector<KernelInfo>& found, bool healthy) {
  if (healthy) return "all is well\n";
  if (!has_chosen(found))
    return "LONGSPAN_KERNEL asks for a kernel that cannot run: attention is refused\n";
  return "the self-test FAILED: please report this with the lines above\n";
}

std::string text_of(const std::vector<KernelInfo>& found, const Threads& threads,
                    const Memory& memory, const std::vector<SelfTest>& tests, bool healthy) {
  std::string text =
      fmt::format("longspan {}\nprocessor   {}\nkernels     best first\n", version(), cpu_model());
  for (const KernelInfo& kernel : found) {
    text += fmt::format("  {:<12} {}{}{}\n", kernel.name,
                        kernel.chosen   ? "used"
                        : kernel.usable ? "can run"
                                        : "cannot run",
                        kernel.reason.empty() ? "" : ": ", kernel.reason);
  }
  text += fmt::format(
      "threads     {} used; {} processors online, {} by affinity, cgroup {}\n", available_threads(),
      threads.online, threads.affinity,
      threads.cgroup_quota ? fmt::format("{:.3g}", *threads.cgroup_quota) : "without limit");
  text += fmt::format("memory      {} of {} available; cgroup {}\n", format_bytes(memory.available),
                      format_bytes(memory.total),
                      memory.cgroup_limit
                          ? fmt::format("{} of {}", format_bytes(*memory.cgroup_available),
                                        format_bytes(*memory.cgroup_limit))
                          : "without limit");
  text += "self-test   against float64, relative L2 of the output and largest error of lse\n";
  for (const SelfTest& test : tests) {
    if (test.supported) {
      text += fmt::format("  {:<12} {:<5} {}  {:.1e}  {:.1e}\n", test.kernel,
                          short_name(test.dtype), test.passed() ? "ok  " : "FAIL",
                          test.error.output_rel_l2, test.error.lse_abs);
    } else {
      text += fmt::format("  {:<12} {:<5} not supported\n", test.kernel, short_name(test.dtype));
    }
  }
  return text + verdict(found, healthy);
}

int run_doctor(bool json) {
  const std::vector<KernelInfo> found = kernels();
  const Threads threads = thread_limits();
  const Memory memory = memory_of_machine();
  const std::vector<SelfTest> tests = run_self_tests(found);
  bool healthy = !tests.empty() && has_chosen(found);
  for (const SelfTest& test : tests) healthy = healthy && test.passed();
  if (json) {
    print_record(make_record(found, threads, memory, tests, healthy));
  } else {
    print_out(text_of(found, threads, memory, tests, healthy));
  }
  return healthy ? kSuccess : kRunTimeFailure;
}

}  // namespace

Runner add_doctor(CLI::App& program) {
  CLI::App* app = program.add_subcommand(
      "doctor", "Kernels, threads and memory of this machine, and a self-test");
  const auto json = std::make_shared<bool>(false);
  OptionAdder(*app).flag("--json", *json, "a JSON record on standard output");
  app->footer(kExamples);
  return [json] { return run_doctor(*json); };
}

}  // namespace longspan::cli
