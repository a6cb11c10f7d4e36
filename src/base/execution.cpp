// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// How many threads the process may use, and the version.
#include "longspan/execution.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "base/parallel_for.h"

namespace longspan {
namespace {

int affinity_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;  // more than 1024 CPUs: be modest
  return std::max(1, CPU_COUNT(&set));
}

// CPU quota of the cgroup, rounded up; 0 when there is none. Version 2 holds "quota period" or "max
// period" in one file, version 1 holds the two numbers in two.
int quota_threads() {
  double quota = -1;
  double period = 0;
  if (std::ifstream file("/sys/fs/cgroup/cpu.max"); file) {
    std::string first;
    if (file >> first >> period && first != "max") quota = std::strtod(first.c_str(), nullptr);
  } else {
    std::ifstream quota_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    std::ifstream period_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    if (!(quota_file >> quota) || !(period_file >> period)) quota = -1;
  }
  if (!(quota > 0) || !(period > 0)) return 0;
  return static_cast<int>(std::max(1.0, std::min(1024.0, (quota + period - 1) / period)));
}

}  // namespace

int available_threads() {
  static const int quota = quota_threads();
  const int affinity = affinity_threads();
  return quota > 0 ? std::min(quota, affinity) : affinity;
}

const char* version() noexcept { return LONGSPAN_VERSION; }

namespace base {

int resolve_threads(int requested, std::int64_t tasks) {
  const int threads = requested > 0 ? requested : available_threads();
  return static_cast<int>(std::clamp<std::int64_t>(tasks, 1, threads));
}

}  // namespace base
}  // namespace longspan
