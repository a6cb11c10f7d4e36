// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Software twins of instructions that this machine may lack, and whole kernels over them: packing,
// masks, tails and slow paths run everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernel_table.h"

namespace longspan::test {

struct TwinKernel {
  std::string name;
  kernel::KernelTable<float> table;
};

// One for each instruction set that this processor runs.
const std::vector<TwinKernel>& twin_kernels();

// acc[i] after VDPBF16PS with a[i] and b[i], by its published pseudo-code.
float twin_dot(float acc, std::uint32_t a, std::uint32_t b);

// The instruction itself, on 16 words; only where avx512_bf16_refusal() is empty.
void hardware_dot(float* acc, const std::uint32_t* a, const std::uint32_t* b);

}  // namespace longspan::test
