// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// /proc and cgroups, version 1 and 2.
#include "machine.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <vector>

#include "failure.h"
#include "options.h"
#include "record.h"

namespace longspan::cli {
namespace {

// The number after `key` in files of lines "key: 123 kB" or "key 123".
std::optional<std::uint64_t> number_after(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name, value;
    if (!(words >> name >> value) || (name != key && name != key + ":")) continue;
    const auto number = parse_integer(value);
    if (number && *number >= 0) return static_cast<std::uint64_t>(*number);
  }
  return std::nullopt;
}

// The first word of a file as a number; nothing for "max" and for the huge value that means the
// same in version 1.
std::optional<std::int64_t> limit_in(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  if (!(file >> word)) return std::nullopt;
  const auto number = parse_integer(word);
  return number && *number >= 0 && *number < (std::int64_t{1} << 60) ? number : std::nullopt;
}

struct Hierarchy {
  std::string mount;  // "/sys/fs/cgroup/memory"
  std::string path;   // "/user.slice/a"
};

// Where the cgroup of this process lies for a controller: version 1 names it, version 2 is the line
// "0::path".
std::vector<Hierarchy> hierarchies(const std::string& controller) {
  std::vector<Hierarchy> found;
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> parts = split(line, ':');
    if (parts.size() < 3) continue;
    const std::string path = line.substr(parts[0].size() + parts[1].size() + 2);
    const std::vector<std::string> names = split(parts[1], ',');
    if (parts[1].empty()) {
      found.push_back({"/sys/fs/cgroup", path});
      found.push_back({"/sys/fs/cgroup/unified", path});
    } else if (std::find(names.begin(), names.end(), controller) != names.end()) {
      found.push_back({"/sys/fs/cgroup/" + parts[1], path});
    }
  }
  return found;
}

// Calls visit(folder) for the process's cgroup and every ancestor: a limit holds for all below it.
// Inside a container the path may not exist under the mount; the mount itself always does.
template <class Visit>
void for_each_cgroup(const std::string& controller, Visit visit) {
  for (const Hierarchy& hierarchy : hierarchies(controller)) {
    std::string path = hierarchy.path == "/" ? "" : hierarchy.path;
    for (;;) {
      visit(hierarchy.mount + path);
      const std::size_t slash = path.rfind('/');
      if (path.empty() || slash == std::string::npos) break;
      path.resize(slash);
    }
  }
}

void tighten(Memory& memory, const std::string& folder, const char* limit_name,
             const char* usage_name, const char* cache_name) {
  const auto limit = limit_in(folder + "/" + limit_name);
  if (!limit) return;
  const auto bytes = static_cast<std::uint64_t>(*limit);
  // Page cache that nothing uses is given back before the limit bites.
  const auto usage = static_cast<std::uint64_t>(limit_in(folder + "/" + usage_name).value_or(0));
  const std::uint64_t cache = number_after(folder + "/memory.stat", cache_name).value_or(0);
  const std::uint64_t used = usage - std::min(cache, usage);
  const std::uint64_t left = bytes - std::min(used, bytes);
  memory.cgroup_limit = std::min(memory.cgroup_limit.value_or(bytes), bytes);
  memory.cgroup_available = std::min(memory.cgroup_available.value_or(left), left);
}

}  // namespace

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) {
      return printable(line.substr(colon + 2));
    }
  }
  return "unknown";
}

Threads thread_limits() {
  Threads threads;
  threads.online = static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  cpu_set_t set;
  CPU_ZERO(&set);
  threads.affinity = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : threads.online;
  const auto tighten_quota = [&](double quota, double period) {
    const double share = quota / period;
    threads.cgroup_quota = std::min(threads.cgroup_quota.value_or(share), share);
  };
  for_each_cgroup("cpu", [&](const std::string& folder) {
    std::ifstream file(folder + "/cpu.max");  // version 2: "200000 100000" or "max 100000"
    std::string quota_word, period_word;
    if (file >> quota_word >> period_word) {
      const auto quota = parse_integer(quota_word);
      const auto period = parse_integer(period_word);
      if (quota && period && *quota > 0 && *period > 0) {
        tighten_quota(static_cast<double>(*quota), static_cast<double>(*period));
      }
    }
    const auto quota = limit_in(folder + "/cpu.cfs_quota_us");  // version 1; -1 means none
    const auto period = limit_in(folder + "/cpu.cfs_period_us");
    if (quota && period && *quota > 0 && *period > 0) {
      tighten_quota(static_cast<double>(*quota), static_cast<double>(*period));
    }
  });
  return threads;
}

Memory memory_of_machine() {
  Memory memory;
  memory.total = 1024 * number_after("/proc/meminfo", "MemTotal").value_or(0);
  memory.available = 1024 * number_after("/proc/meminfo", "MemAvailable").value_or(0);
  for_each_cgroup("memory", [&](const std::string& folder) {
    tighten(memory, folder, "memory.max", "memory.current", "inactive_file");
    tighten(memory, folder, "memory.limit_in_bytes", "memory.usage_in_bytes",
            "total_inactive_file");
  });
  return memory;
}

std::uint64_t peak_memory() {
  return 1024 * number_after("/proc/self/status", "VmHWM").value_or(0);
}

std::string MemoryNeed::text() const {
  return fmt::format("predicted peak {} (inputs {}, outputs {}, workspace {}, process {})",
                     format_bytes(peak()), format_bytes(inputs), format_bytes(outputs),
                     format_bytes(workspace), format_bytes(kProcessBytes));
}

void check_memory(const std::string& command, const MemoryNeed& need,
                  const std::function<std::string(std::uint64_t)>& hint_for) {
  const Memory memory = memory_of_machine();
  const bool cgroup = memory.cgroup_available && *memory.cgroup_available < memory.available;
  const std::uint64_t available = cgroup ? *memory.cgroup_available : memory.available;
  if (memory.available == 0 || need.peak() <= available) return;  // 0: not known
  const std::uint64_t fixed = need.peak() - need.workspace;
  const std::string hint = hint_for(available > fixed ? available - fixed : 0);
  throw Failure(kNoMemory,
                fmt::format("{}: memory: {}; {} has {} left", command, need.text(),
                            cgroup ? "the cgroup" : "the machine", format_bytes(available)),
                hint);
}

}  // namespace longspan::cli
