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

#include "problem.h"

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

std::int64_t measure(std::int64_t seqlen, const Column& column) {
  const Problem problem({1, 1, seqlen, seqlen, 64, column.dtype}, set_window, column.backward);
  touch(problem.result().output);
  touch(problem.result().lse);
  touch(problem.gradients().query);
  touch(problem.gradients().key);
  touch(problem.gradients().value);
  if (column.backward) problem.forward({});
  reset_peak();
  const std::int64_t before = peak_bytes();
  column.backward ? problem.backward({}) : problem.forward({});
  return peak_bytes() - before;
}

double measure_apart(std::int64_t seqlen, std::size_t column) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string command =
      "'" + self + "' " + std::to_string(seqlen) + " " + std::to_string(column);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> child(popen(command.c_str(), "r"), pclose);
  long long bytes = 0;
  if (child == nullptr || std::fscanf(child.get(), "%lld", &bytes) != 1) {
    throw std::runtime_error("could not run " + command);
  }
  return static_cast<double>(bytes) / (1 << 20);
}

void print_table() {
  std::printf(
      "### Memory above inputs and outputs, MiB: 1 head, d 64, causal window of 1024, %d "
      "threads\n\n",
      available_threads());
  std::printf("| tokens |");
  for (const Column& column : kColumns) std::printf(" %s |", column.title);
  std::printf("\n|---|---|---|---|---|\n");
  for (int power = 10; power <= 20; power += 2) {
    std::printf("| 2^%d |", power);
    for (std::size_t column = 0; column < kColumns.size(); ++column) {
      std::printf(" %.1f |", measure_apart(std::int64_t{1} << power, column));
      std::fflush(stdout);
    }
    std::printf("\n");
  }
}

}  // namespace
}  // namespace longspan::bench

// usage: memory, or for one number in bytes: memory TOKENS COLUMN
int main(int argc, char** argv) {
  using namespace longspan::bench;
  try {
    if (argc == 3) {
      std::printf("%lld\n", static_cast<long long>(
                                measure(std::stoll(argv[1]), kColumns.at(std::stoull(argv[2])))));
    } else {
      print_table();
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "memory: %s\n", error.what());
    return 1;
  }
}
