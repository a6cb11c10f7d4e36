// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What this machine can do at this moment: the best loop of independent products in registers, and
// the best loop that reads memory.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "longspan/tensor.h"

namespace longspan::bench {

// FLOP/s of the products of a kernel of this name for inputs of this type, on `threads` threads:
//   avx3...       float32 multiply-adds, 512 bits wide     avx2   the same, 256 bits wide
//   sse4, sse2    float32 multiplications and additions, 128 bits wide
//   avx512_bf16   VDPBF16PS for bfloat16, else as avx3
//   amx           TDPBF16PS for bfloat16, else as avx3
// A kernel that widens 16-bit inputs has the peak of float32. Nothing where this processor or
// operating system lacks the instruction, the name is not known here, or float64 is asked for.
// Takes about 10 ms.
std::optional<double> product_peak(const std::string& kernel, DType dtype, int threads);

// The float32 peak of the kernel, 0 when there is none.
inline double fma_peak(const std::string& kernel, int threads) {
  return product_peak(kernel, DType::kFloat32, threads).value_or(0);
}

// FLOP/s of one pass of the AMX loop on `threads` threads (peaks_amx.cpp).
std::optional<double> amx_peak(int threads);

// Bytes/s of reading a buffer that no cache holds. The loops differ in how many streams a thread
// reads, how far ahead they prefetch and into which cache; the constructor tries them all once and
// keeps the best few, which measure() times again. Memory comes from malloc, as a tensor of most
// programs does: pages are what the system gives.
class ReadBandwidth {
 public:
  static constexpr std::size_t kBytes = std::size_t{1} << 30;

  explicit ReadBandwidth(int threads);
  double measure() const;
  // "4 streams a thread, prefetch 4096 bytes ahead into L2"
  std::string best_loop() const;

 private:
  struct Loop {
    int streams = 1;
    int hint = 0;      // 0: none; 1: prefetch into L2; 2: into L1
    int distance = 0;  // bytes
  };
  double time(const Loop& loop) const;

  int threads_;
  std::vector<char> buffer_;
  std::vector<Loop> best_;
};

}  // namespace longspan::bench
