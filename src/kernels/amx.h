// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The kernel for bfloat16 inputs on tile registers (AMX): TDPBF16PS.
#pragma once

#include <string>

#include "kernels/kernel_table.h"

namespace longspan::kernel {

// Why this process cannot run it; empty when it can. Asks Linux for the tile registers, once.
std::string amx_refusal();

// The words for it: has the processor the instructions, does the system keep the registers' state,
// and what did it answer (errno, 0: granted) when the process asked to use them?
std::string amx_refusal(bool has_instructions, bool keeps_state, int answer);

// `avx3` with everything that depends on the operands replaced.
KernelTable<float> amx_table(const KernelTable<float>& avx3);

}  // namespace longspan::kernel
