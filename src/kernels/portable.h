// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The portable kernel: one Highway source, compiled for every instruction set that Highway knows on
// this architecture.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernel_table.h"

namespace longspan::kernel {

struct PortableKernel {
  std::string
      name;  // Highway's target in lower case: "avx3", "avx2", "sse4", "sse2", "neon", "scalar"
  bool usable = false;  // this processor has the instructions
  KernelTable<float> float32;
  KernelTable<double> float64;
};

// Every target in this build, best first. Tables of targets that the processor lacks are empty.
const std::vector<PortableKernel>& portable_kernels();

}  // namespace longspan::kernel
