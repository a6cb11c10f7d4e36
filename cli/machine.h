// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What the machine offers this process (processor, threads, memory) and whether a plan fits into
// it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace longspan::cli {

std::string cpu_model();

struct Threads {
  int online = 0;                      // processors of the machine
  int affinity = 0;                    // that this process may run on
  std::optional<double> cgroup_quota;  // processors' worth of time, when limited
};
Threads thread_limits();

struct Memory {
  std::uint64_t total = 0;
  std::uint64_t available = 0;  // MemAvailable
  std::optional<std::uint64_t>
      cgroup_limit;  // the tightest of the process's cgroup and its ancestors
  std::optional<std::uint64_t> cgroup_available;  // below it
};
Memory memory_of_machine();

// The most memory that this process has used so far (VmHWM); 0 when unknown.
std::uint64_t peak_memory();

// What a process needs before it holds any tensor: code, thread stacks, buffers of files.
inline constexpr std::uint64_t kProcessBytes = std::uint64_t{16} << 20;

struct MemoryNeed {
  std::uint64_t inputs = 0;
  std::uint64_t outputs = 0;
  std::uint64_t workspace = 0;
  std::uint64_t peak() const { return kProcessBytes + inputs + outputs + workspace; }
  std::string text() const;  // "predicted peak 52.0 MiB (inputs ..., outputs ..., workspace ...,
                             // process 16.0 MiB)"
};

// Refuses (exit 4) what the machine or cgroup cannot hold. `hint_for` says what to do when that
// many bytes of workspace would still fit; 0: not even inputs and outputs do.
void check_memory(const std::string& command, const MemoryNeed& need,
                  const std::function<std::string(std::uint64_t)>& hint_for);

}  // namespace longspan::cli
