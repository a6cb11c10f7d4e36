// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The list of kernels, best first, and the choice among them.
#include "kernels/registry.h"

#include <algorithm>
#include <cstdlib>
#include <deque>

#include "base/check.h"
#include "kernels/amx.h"
#include "kernels/avx512_bf16.h"
#include "kernels/portable.h"
#include "longspan/execution.h"

namespace longspan {
namespace kernel {
namespace {

std::deque<Kernel> list_kernels() {
  std::deque<Kernel> kernels;
  for (const PortableKernel& k : portable_kernels()) {
    kernels.push_back({k.name, k.usable ? "" : "this processor lacks the instructions", "",
                       k.float32, k.float32, k.float64});
  }
  // The tiers for bfloat16 stand on the AVX-512 kernel, which serves the other types.
  const auto found = std::find_if(kernels.begin(), kernels.end(),
                                  [](const Kernel& k) { return k.name == "avx3"; });
  if (found == kernels.end()) return kernels;
  const Kernel& avx3 = *found;  // more in front leaves a deque's references as they are
  const auto add_tier = [&](Kernel tier, KernelTable<float> (*table)(const KernelTable<float>&)) {
    if (tier.usable()) {
      tier.float32 = avx3.float32;
      tier.bfloat16 = table(avx3.float32);
      tier.float64 = avx3.float64;
    }
    kernels.push_front(tier);
  };
  add_tier({"avx512_bf16", avx512_bf16_refusal(), avx512_bf16_drawback(), {}, {}, {}},
           avx512_bf16_table);
  add_tier({"amx", amx_refusal(), "", {}, {}, {}}, amx_table);
  return kernels;
}

std::deque<Kernel>& kernels_here() {
  static std::deque<Kernel> kernels = list_kernels();
  return kernels;
}

std::string forced_by_environment() {
  const char* name = std::getenv("LONGSPAN_KERNEL");
  return name == nullptr ? std::string() : std::string(name);
}

const Kernel& best_kernel() {
  return *std::find_if(all_kernels().begin(), all_kernels().end(),
                       [](const Kernel& k) { return k.usable() && k.drawback.empty(); });
}

}  // namespace

const std::deque<Kernel>& all_kernels() { return kernels_here(); }

void add_kernel(const Kernel& kernel) { kernels_here().push_back(kernel); }

const Kernel& choose_kernel(const std::string& requested) {
  const bool from_environment = requested.empty();
  const std::string name = from_environment ? forced_by_environment() : requested;
  if (name.empty()) return best_kernel();
  std::string names;
  std::string found = name;
  for (const Kernel& k : all_kernels()) {
    if (k.usable()) {
      if (k.name == name) return k;
      names += (names.empty() ? "" : ", ") + k.name;
    } else if (k.name == name) {
      found += ", which cannot run: " + k.refusal;
    }
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
  for (const kernel::Kernel& k : kernel::all_kernels()) {
    KernelInfo info{k.name, k.usable(), k.name == chosen, {}};
    if (!k.usable()) {
      info.reason = k.refusal;
    } else if (!problem.empty()) {
      info.reason = problem;
    } else if (!info.chosen) {
      info.reason = !kernel::forced_by_environment().empty() ? "LONGSPAN_KERNEL asks for " + chosen
                    : !k.drawback.empty()                    ? k.drawback
                                                             : chosen + " is better";
    }
    infos.push_back(info);
  }
  return infos;
}

}  // namespace longspan
