// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Software twins of instructions that this machine may lack, and whole kernels over them: packing,
// masks, tails and slow paths run everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/registry.h"

namespace longspan::test {

// Kernels over twins, two for each instruction set that this processor runs, best first:
// "amx_twin_avx2", "avx512_bf16_twin_avx2", ... The first call adds them to the registry, so that
// calls may ask for them by name.
const std::vector<std::string>& twin_kernels();

// The twin, in the same instruction set, of a kernel for bfloat16 that runs here.
const kernel::Kernel& twin_of(const kernel::Kernel& tier);

// acc[i] after VDPBF16PS with a[i] and b[i], by its published pseudo-code.
float twin_dot(float acc, std::uint32_t a, std::uint32_t b);

// The instruction itself, on 16 words; only where avx512_bf16_refusal() is empty.
void hardware_dot(float* acc, const std::uint32_t* a, const std::uint32_t* b);

// Tiles of 16 rows of 16 words.
struct Tile {
  std::uint32_t words[16][16];
};

// c after TDPBF16PS with a and b, by its published pseudo-code.
void twin_tile(Tile& c, const Tile& a, const Tile& b);

// The same as kernels over twins do it, in the best instruction set that runs here: of as many
// columns as it has lanes; the number of them is returned.
int twin_tile_columns(Tile& c, const Tile& a, const Tile& b);

// The instruction itself; only where amx_refusal() is empty.
void hardware_tile(Tile& c, const Tile& a, const Tile& b);

}  // namespace longspan::test
