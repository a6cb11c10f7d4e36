// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The floating point peak of this machine at this moment: the best loop of independent
// multiply-adds in registers.
#pragma once

#include <string>

namespace longspan::bench {

// FLOP/s of float32 multiply-adds on `threads` threads at the vector width of the kernel ("avx3",
// "avx2", "sse4", "sse2"; SSE multiplies and adds apart). 0 when the width is not known
// here. Takes about 50 ms.
double fma_peak(const std::string& kernel, int threads);

}  // namespace longspan::bench
