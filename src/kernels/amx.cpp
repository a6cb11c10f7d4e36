// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The templates of both passes over TDPBF16PS. Compiled as avx512_bf16.cpp is. Tile instructions
// are written as assembly: the macros of g++ 12 take no constants but literals, and do not say that
// a load reads memory.
#include "kernels/amx.h"

#if defined(__x86_64__) && defined(__linux__) && !defined(LONGSPAN_WITHOUT_AVX512)

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX2 | HWY_AVX3_DL)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/amx.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
// clang-format off
#include <hwy/highway.h>
// clang-format on

#if HWY_TARGET == HWY_AVX3
#undef HWY_TARGET_STR
#define HWY_TARGET_STR HWY_TARGET_STR_AVX3 ",avx512bf16"
#include "kernels/pair_conversion-inl.h"
#include "kernels/pair_table-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace {

// The 64 bytes that LDTILECFG reads: palette 1, eight tiles of 16 rows of 64 bytes.
struct alignas(64) TileShapes {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileShapes) == 64);
constexpr TileShapes kTileShapes;

// Configured for the length of a block of keys and no longer: registers in use are saved at every
// switch of threads, 8 KiB.
class TileRegisters {
 public:
  TileRegisters() { asm volatile("ldtilecfg %0" : : "m"(kTileShapes)); }
  ~TileRegisters() { asm volatile("tilerelease" : : : "memory"); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;

  template <int kTile>
  HWY_INLINE void clear() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  HWY_INLINE void load(const void* rows, std::int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(rows), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  HWY_INLINE void store(void* rows, std::int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)"
                 :
                 : "r"(rows), "r"(stride), "i"(kTile)
                 : "memory");
  }
  template <int kC, int kA, int kB>
  HWY_INLINE void multiply_add() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }
};

}  // namespace

void use_tiles(KernelTable<float>& table) {
  use_pairs<TileDot<ConvertedPairs, TileRegisters>>(table);
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HWY_AVX3

#if HWY_ONCE
namespace longspan::kernel {

KernelTable<float> amx_table(const KernelTable<float>& avx3) {
  KernelTable<float> table = avx3;
  N_AVX3::use_tiles(table);
  return table;
}

}  // namespace longspan::kernel
#endif  // HWY_ONCE

#else  // not x86-64 Linux, or left out

namespace longspan::kernel {
KernelTable<float> amx_table(const KernelTable<float>& avx3) { return avx3; }
}  // namespace longspan::kernel

#endif
