// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The list of kernels, best first, and the choice among them.
#include "kernels/registry.h"

#include <cstdlib>
#include <vector>

#include "base/check.h"
#include "kernels/portable.h"
#include "longspan/execution.h"

namespace longspan {
namespace kernel {
namespace {

std::vector<Kernel> list_usable() {
  std::vector<Kernel> usable;
  for (const PortableKernel& k : portable_kernels()) {
    if (k.usable) usable.push_back({k.name, &k.float32, &k.float64});
  }
  return usable;
}

const std::vector<Kernel>& usable_kernels() {
  static const std::vector<Kernel> usable = list_usable();
  return usable;
}

std::string forced_by_environment() {
  const char* name = std::getenv("LONGSPAN_KERNEL");
  return name == nullptr ? std::string() : std::string(name);
}

}  // namespace

const Kernel& choose_kernel(const std::string& requested) {
  const bool from_environment = requested.empty();
  const std::string name = from_environment ? forced_by_environment() : requested;
  if (name.empty()) return usable_kernels().front();
  std::string names;
  for (const Kernel& k : usable_kernels()) {
    if (k.name == name) return k;
    names += (names.empty() ? "" : ", ") + k.name;
  }
  std::string found = name;
  for (const PortableKernel& k : portable_kernels()) {
    if (k.name == name) found += ", whose instructions this processor lacks";
  }
  base::fail(ErrorCode::kUnsupported,
             std::string("kernel: ") +
                 (from_environment ? "LONGSPAN_KERNEL" : "Execution::kernel") + " must be one of " +
                 names + "; found " + found);
}

}  // namespace kernel

std::vector<KernelInfo> kernels() {
  std::string chosen;
  std::string problem;
  try {
    chosen = kernel::choose_kernel({}).name;
  } catch (const Error& error) {
    problem = error.what();
  }
  std::vector<KernelInfo> infos;
  for (const kernel::PortableKernel& k : kernel::portable_kernels()) {
    KernelInfo info{k.name, k.usable, k.name == chosen, {}};
    if (!k.usable) {
      info.reason = "this processor lacks the instructions";
    } else if (!problem.empty()) {
      info.reason = problem;
    } else if (!info.chosen) {
      info.reason = kernel::forced_by_environment().empty() ? chosen + " is better"
                                                            : "LONGSPAN_KERNEL asks for " + chosen;
    }
    infos.push_back(info);
  }
  return infos;
}

}  // namespace longspan
