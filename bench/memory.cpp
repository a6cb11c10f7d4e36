// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Memory above inputs and outputs: the peak resident size of a call minus that of the process when
// its inputs and outputs are touched and nothing is computed yet. A row is measured in a process of
// its own, which has no memory left over from another.
#include <array>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>

#include "lsh_problem.h"

namespace longspan::bench {
namespace {

struct Column {
  const char* title;
  DType dtype;
  bool backward;
};
constexpr std::array<Column, 4> kColumns{{{"forward, float32", DType::kFloat32, false},
                                          {"forward, bfloat16", DType::kBFloat16, false},
                                          {"backward, float32", DType::kFloat32, true},
                                          {"backward, bfloat16", DType::kBFloat16, true}}};

struct Table {
  const char* name;
  const char* title;
  std::int64_t heads;
  int last_power;  // of 2, tokens
};
constexpr Table kExact{"exact", "1 head, d 64, causal window of 1024", 1, 20};
constexpr Table kLsh{"lsh", "LSH attention, 8 heads, d 64, causal, 4 hash rounds", 8, 16};

struct Bytes {
  long long measured = 0;
  long long planned = 0;  // workspace_bytes of the plan
};

// A causal window of 1024 keys, so that a million tokens end.
void set_window(const Shape&, Extras& extras) { extras.options.mask = window(1023, 0); }

void touch(const TensorView& view) {
  if (view.data == nullptr) return;
  std::memset(view.data, 0, static_cast<std::size_t>(element_count(view)) * size_of(view.dtype));
}

// VmHWM, the most that was resident since it was last reset.
std::int64_t peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    std::int64_t kilobytes = 0;
    if (word == "VmHWM:" && status >> kilobytes) return kilobytes * 1024;
  }
  throw std::runtime_error("/proc/self/status has no VmHWM");
}
void reset_peak() {
  std::ofstream clear("/proc/self/clear_refs");
  clear << 5;
  if (!clear.flush()) throw std::runtime_error("/proc/self/clear_refs cannot be written");
}

template <class AnyProblem>
Bytes measure(const AnyProblem& problem, bool backward, std::size_t planned) {
  touch(problem.result().output);
  touch(problem.result().lse);
  touch(problem.gradients().query);
  touch(problem.gradients().key);
  touch(problem.gradients().value);
  if (backward) problem.forward({});
  reset_peak();
  const std::int64_t before = peak_bytes();
  backward ? problem.backward({}) : problem.forward({});
  return {peak_bytes() - before, static_cast<long long>(planned)};
}

Bytes measure(const std::string& table, std::int64_t seqlen, const Column& column) {
  if (table == kLsh.name) {
    const LshProblem problem({kLsh.heads, kLsh.heads, seqlen, seqlen, 64, column.dtype}, {},
                             column.backward);
    return measure(problem, column.backward, problem.plan(column.backward, {}).workspace_bytes);
  }
  const Problem problem({kExact.heads, kExact.heads, seqlen, seqlen, 64, column.dtype}, set_window,
                        column.backward);
  const auto plan = column.backward ? plan_attention_backward : plan_attention;
  return measure(
      problem, column.backward,
      plan(problem.query(), problem.key(), problem.value(), problem.options(), {}).workspace_bytes);
}

Bytes measure_apart(const Table& table, std::int64_t seqlen, std::size_t column) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string command =
      "'" + self + "' " + table.name + " " + std::to_string(seqlen) + " " + std::to_string(column);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> child(
      popen(command.c_str(), "r"), pclose);  // NOLINT(bugprone-command-processor): of our own words
  Bytes bytes;
  if (child == nullptr ||
      std::fscanf(child.get(), "%lld %lld", &bytes.measured, &bytes.planned) != 2) {
    throw std::runtime_error("could not run " + command);
  }
  return bytes;
}

void print_table(const Table& table) {
  const auto mebibytes = [](long long bytes) { return static_cast<double>(bytes) / (1 << 20); };
  std::printf("### Memory above inputs and outputs, MiB (planned): %s, %d threads\n\n", table.title,
              available_threads());
  std::printf("| tokens |");
  for (const Column& column : kColumns) std::printf(" %s |", column.title);
  std::printf("\n|---|---|---|---|---|\n");
  for (int power = 10; power <= table.last_power; power += 2) {
    std::printf("| 2^%d |", power);
    for (std::size_t column = 0; column < kColumns.size(); ++column) {
      const Bytes bytes = measure_apart(table, std::int64_t{1} << power, column);
      std::printf(" %.1f (%.1f) |", mebibytes(bytes.measured), mebibytes(bytes.planned));
      std::fflush(stdout);
    }
    std::printf("\n");
  }
  std::printf("\n");
}

}  // namespace
}  // namespace longspan::bench

// usage: memory, or for two numbers in bytes: memory TABLE TOKENS COLUMN
int main(int argc, char** argv) {
  using namespace longspan::bench;
  try {
    if (argc == 4) {
      const Bytes bytes = measure(argv[1], std::stoll(argv[2]), kColumns.at(std::stoull(argv[3])));
      std::printf("%lld %lld\n", bytes.measured, bytes.planned);
    } else {
      print_table(kExact);
      print_table(kLsh);
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "memory: %s\n", error.what());
    return 1;
  }
}
