// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The kernel for bfloat16 inputs on VDPBF16PS.
#pragma once

#include <string>

#include "kernels/kernel_table.h"

namespace longspan::kernel {

// Why this processor cannot run it; empty when it can.
std::string avx512_bf16_refusal();

// Why float32 arithmetic is faster here; empty when it is not.
std::string avx512_bf16_drawback();

// `avx3` with everything that depends on the operands replaced.
KernelTable<float> avx512_bf16_table(const KernelTable<float>& avx3);

}  // namespace longspan::kernel
