// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The portable kernel: one Highway source, compiled for every instruction set that Highway knows on
// this architecture.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernel_table.h"

// SSSE3 has nothing that SSE4 and the scalar fall-back do not serve; the micro-kernel keeps vectors
// in arrays, which sizeless types (SVE) do not allow.
#define LONGSPAN_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | LONGSPAN_UNRUNNABLE_TARGETS)
// Sanitizer builds on a processor without AVX-512 leave out what it could not run: half the time.
#ifdef LONGSPAN_WITHOUT_AVX512
#define LONGSPAN_UNRUNNABLE_TARGETS (HWY_AVX3 | HWY_AVX3_DL)
#else
#define LONGSPAN_UNRUNNABLE_TARGETS 0
#endif

namespace longspan::kernel {

struct PortableKernel {
  std::string
      name;  // Highway's target in lower case: "avx3", "avx2", "sse4", "sse2", "neon", "scalar"
  bool usable = false;  // this processor has the instructions
  KernelTable<float> float32;
  KernelTable<double> float64;
};

// Fill in the functions of one part, of the target that Highway has chosen last
// (portable_rows.cpp, portable_backward.cpp, portable_decode.cpp: translation units of their own,
// because each takes a minute to compile).
void fill_rows(PortableKernel& kernel);
void fill_backward(PortableKernel& kernel);
void fill_decode(PortableKernel& kernel);

// Every target in this build, best first. Tables of targets that the processor lacks are empty.
const std::vector<PortableKernel>& portable_kernels();

}  // namespace longspan::kernel
