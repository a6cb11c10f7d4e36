// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Chooses the kernel of a call. Forcing one that cannot run is an error, never a fall-back.
#pragma once

#include <string>

#include "kernels/kernel_table.h"

namespace longspan::kernel {

struct Kernel {
  std::string name;
  const KernelTable<float>* float32 = nullptr;
  const KernelTable<double>* float64 = nullptr;

  template <class T>
  const KernelTable<T>& table() const noexcept {
    if constexpr (sizeof(T) == 8) {
      return *float64;
    } else {
      return *float32;
    }
  }
};

// `requested` is Execution::kernel; empty means the environment variable LONGSPAN_KERNEL, or the
// best that runs here. Throws Error(kUnsupported) naming the kernels that there are.
const Kernel& choose_kernel(const std::string& requested);

}  // namespace longspan::kernel
