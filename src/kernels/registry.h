// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The list of kernels and the choice among them. Forcing one that cannot run is an error, never a
// fall-back.
#pragma once

#include <deque>
#include <string>

#include "kernels/kernel_table.h"

namespace longspan::kernel {

struct Kernel {
  std::string name;
  std::string refusal;   // why it cannot run here; empty when it can. The tables are then empty.
  std::string drawback;  // why it is not taken unless asked for; empty when it may be
  KernelTable<float> float32;   // for float32, and for narrower inputs that are widened
  KernelTable<float> bfloat16;  // for bfloat16 inputs
  KernelTable<double> float64;

  bool usable() const noexcept { return refusal.empty(); }

  // The table that computes in T from inputs of this dtype.
  template <class T>
  const KernelTable<T>& table(DType input = DType::kFloat32) const noexcept {
    if constexpr (sizeof(T) == 8) {
      return float64;
    } else {
      return input == DType::kBFloat16 ? bfloat16 : float32;
    }
  }
};

// Every kernel in this build, best first.
const std::deque<Kernel>& all_kernels();

// Tests add kernels over software twins of instructions, behind all others, before calls run.
void add_kernel(const Kernel& kernel);

// `requested` is Execution::kernel; empty means the environment variable LONGSPAN_KERNEL, or the
// best that runs here. Throws Error(kUnsupported) naming the kernels that there are.
const Kernel& choose_kernel(const std::string& requested);

}  // namespace longspan::kernel
