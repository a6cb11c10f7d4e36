// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The peak of TDPBF16PS: four accumulator tiles in turn, so that 4 x 16 cycles hide its latency of
// 52. Runs only where CPUID names the instructions and Linux grants the tile registers.
#include <algorithm>
#include <cstdint>

#include "peaks.h"
#include "together.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace longspan::bench {

#if defined(__x86_64__) && defined(__linux__)
namespace {

constexpr long kRounds = 1 << 16;
constexpr double kFlopATile = 2.0 * 16 * 16 * 32;
constexpr int kChains = 4;

// The 64 bytes that LDTILECFG reads: palette 1, eight tiles of 16 rows of 64 bytes.
struct alignas(64) TileShape {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes_a_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

bool processor_has_amx() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  constexpr unsigned kTileAndBf16 = (1U << 24) | (1U << 22);
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kTileAndBf16) == kTileAndBf16;
}

bool system_grants_tiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

__attribute__((target("amx-tile,amx-bf16"), noinline)) void loop_amx() {
  const TileShape shape;
  _tile_loadconfig(&shape);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (long n = 0; n < kRounds; ++n) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

}  // namespace

std::optional<double> amx_peak(int threads) {
  if (!processor_has_amx() || !system_grants_tiles()) return std::nullopt;
  double best = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const double seconds =
        slowest_of(threads, [](int) { return thread_seconds_of([] { loop_amx(); }); });
    best = std::max(best, static_cast<double>(kRounds) * kChains * kFlopATile * threads / seconds);
  }
  return best;
}
#else
std::optional<double> amx_peak(int threads) {
  static_cast<void>(threads);
  return std::nullopt;
}
#endif

}  // namespace longspan::bench
