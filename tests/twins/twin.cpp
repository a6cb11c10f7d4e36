// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// VDPBF16PS and TDPBF16PS in plain arithmetic, vector by vector, and the kernels over them. Each
// step is rounded to nearest; subnormal inputs and results are 0 of their sign. Where a vector has
// fewer than 16 lanes, so has a tile.
#include "twins/twin.h"

#include <cstring>

#include "kernels/portable.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (LONGSPAN_DISABLED_TARGETS | HWY_SSE4)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "twins/twin.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
// clang-format off
#include <hwy/highway.h>
#include "kernels/pair_table-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {

struct TwinPairs : PairOperands {
  using V = hn::Vec<D>;
  static HWY_INLINE V flush(V x) {
    const D d;
    const V exponent = hn::BitCast(d, hn::Set(DU(), 0x7F800000u));
    const auto subnormal = hn::Eq(hn::And(x, exponent), hn::Zero(d));
    return hn::IfThenElse(subnormal, hn::And(x, hn::SignBit(d)), x);
  }
  static HWY_INLINE V odd(Row a) {
    return flush(hn::BitCast(D(), hn::And(a, hn::Set(DU(), 0xFFFF0000u))));
  }
  static HWY_INLINE V even(Row a) { return flush(hn::BitCast(D(), hn::ShiftLeft<16>(a))); }
  static HWY_INLINE Row join(const V (&values)[kValues]) {
    const auto low = round_to_bfloat16(D(), flush(values[0]));
    const auto high = round_to_bfloat16(D(), flush(values[1]));
    return hn::Or(hn::ShiftRight<16>(low), hn::And(high, hn::Set(DU(), 0xFFFF0000u)));
  }
};

// The odd members of the pairs first, then the even ones.
struct TwinDot : TwinPairs {
  static HWY_INLINE V multiply_add(Row a, Row b, V c) {
    const V first = flush(hn::MulAdd(odd(a), odd(b), flush(c)));
    return flush(hn::MulAdd(even(a), even(b), first));
  }
};

// Odd and even members each have a sum over the depth of a tile; their sum is added to C.
class TwinTiles {
  using D = PairOperands::D;
  using V = hn::Vec<D>;
  using DU = PairOperands::DU;
  static constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));

 public:
  template <int kTile>
  void clear() {
    std::memset(tiles_[kTile], 0, sizeof(tiles_[kTile]));
  }
  template <int kTile>
  void load(const void* rows, std::int64_t stride) {
    for (std::int64_t r = 0; r < kTileRows; ++r) {
      std::memcpy(tiles_[kTile][r], static_cast<const char*>(rows) + r * stride, kRowBytes<kTile>);
    }
  }
  template <int kTile>
  void store(void* rows, std::int64_t stride) const {
    for (std::int64_t r = 0; r < kTileRows; ++r) {
      std::memcpy(static_cast<char*>(rows) + r * stride, tiles_[kTile][r], kRowBytes<kTile>);
    }
  }
  template <int kC, int kA, int kB>
  void multiply_add() {
    const D d;
    V odds[kTileDepth];
    V evens[kTileDepth];
    for (int k = 0; k < kTileDepth; ++k) {
      const auto b = hn::Load(DU(), tiles_[kB][k]);
      odds[k] = TwinPairs::odd(b);
      evens[k] = TwinPairs::even(b);
    }
    for (int m = 0; m < kTileRows; ++m) {
      V odd = hn::Zero(d);
      V even = hn::Zero(d);
      for (int k = 0; k < kTileDepth; ++k) {
        const auto a = hn::Set(DU(), tiles_[kA][m][k]);
        even = TwinPairs::flush(hn::MulAdd(TwinPairs::even(a), evens[k], even));
        odd = TwinPairs::flush(hn::MulAdd(TwinPairs::odd(a), odds[k], odd));
      }
      const V c = TwinPairs::flush(hn::BitCast(d, hn::Load(DU(), tiles_[kC][m])));
      const V sum = TwinPairs::flush(hn::Add(even, odd));
      hn::Store(hn::BitCast(DU(), TwinPairs::flush(hn::Add(c, sum))), DU(), tiles_[kC][m]);
    }
  }

 private:
  template <int kTile>
  static constexpr std::size_t kRowBytes = sizeof(std::uint32_t) *
                                           (kTile == kTileOfA ? kTileDepth : kLanes);
  alignas(64) std::uint32_t tiles_[8][kTileRows][kTileDepth] = {};
};

void twin_operands(KernelTable<float>& amx, KernelTable<float>& avx512_bf16) {
  use_pairs<TileDot<TwinPairs, TwinTiles>>(amx);
  use_pairs<TwinDot>(avx512_bf16);
}

int twin_tile(test::Tile& c, const test::Tile& a, const test::Tile& b) {
  TwinTiles tiles;
  tiles.load<0>(&c, 64);
  tiles.load<kTileOfA>(&a, 64);
  tiles.load<7>(&b, 64);
  tiles.multiply_add<0, kTileOfA, 7>();
  tiles.store<0>(&c, 64);
  return static_cast<int>(hn::MaxLanes(hn::ScalableTag<float>()));
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <cctype>

namespace longspan::kernel {
HWY_EXPORT(twin_operands);
HWY_EXPORT(twin_tile);

namespace {

std::int64_t targets() { return hwy::SupportedTargets() & static_cast<std::int64_t>(HWY_TARGETS); }

std::vector<std::string> add_twins() {
  std::vector<std::string> names;
  for (int bit = 0; bit < 63; ++bit) {  // lower bits are better targets
    const std::int64_t target = std::int64_t{1} << bit;
    if ((targets() & target) == 0) continue;
    std::string name = hwy::TargetName(target);
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    Kernel amx = choose_kernel(name);
    amx.drawback = "it is software, for tests";
    Kernel avx512_bf16 = amx;
    amx.name = "amx_twin_" + name;
    avx512_bf16.name = "avx512_bf16_twin_" + name;
    hwy::GetChosenTarget().Update(target);
    HWY_DYNAMIC_DISPATCH(twin_operands)(amx.bfloat16, avx512_bf16.bfloat16);
    for (const Kernel& twin : {amx, avx512_bf16}) {
      add_kernel(twin);
      names.push_back(twin.name);
    }
  }
  return names;
}

int best_twin_tile(test::Tile& c, const test::Tile& a, const test::Tile& b) {
  hwy::GetChosenTarget().Update(targets());
  return HWY_DYNAMIC_DISPATCH(twin_tile)(c, a, b);
}

}  // namespace
}  // namespace longspan::kernel

namespace longspan::test {

const std::vector<std::string>& twin_kernels() {
  static const std::vector<std::string> twins = kernel::add_twins();
  return twins;
}

const kernel::Kernel& twin_of(const kernel::Kernel& tier) {
  // Elsewhere a vector of lanes is shorter, or 2^x is computed another way.
  return kernel::choose_kernel(tier.name + "_twin_avx3");
}

int twin_tile_columns(Tile& c, const Tile& a, const Tile& b) {
  return kernel::best_twin_tile(c, a, b);
}

}  // namespace longspan::test
#endif  // HWY_ONCE
