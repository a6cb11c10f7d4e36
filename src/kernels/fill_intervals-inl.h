// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The visibility words of a tile from interval tests: vectors of lanes outside, keys inside, and
// the tests of a pair, some at a time, while their lanes are in registers.
#if defined(LONGSPAN_KERNELS_FILL_INTERVALS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_FILL_INTERVALS_INL_H_
#undef LONGSPAN_KERNELS_FILL_INTERVALS_INL_H_
#else
#define LONGSPAN_KERNELS_FILL_INTERVALS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "kernels/interval_tests.h"
#include "kernels/product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Clears the bits that tests hide, of the vector of lanes that begins at `lane`.
template <int kTests>
HWY_INLINE void clear_inside(const IntervalTest* tests, std::int64_t lane, std::int64_t keys,
                             std::uint64_t* words) {
  const hn::ScalableTag<std::int32_t> d;
  hn::Vec<decltype(d)> first[kTests], count[kTests];
  const std::int32_t* numbers[kTests];
  LONGSPAN_UNROLL
  for (int t = 0; t < kTests; ++t) {
    numbers[t] = tests[t].numbers;
    first[t] = hn::LoadU(d, tests[t].first + lane);
    count[t] = hn::LoadU(d, tests[t].count + lane);
  }
  for (std::int64_t k = 0; k < keys; ++k) {
    auto hidden = hn::Lt(hn::Sub(hn::Set(d, numbers[0][k]), first[0]), count[0]);
    LONGSPAN_UNROLL
    for (int t = 1; t < kTests; ++t) {
      const auto place = hn::Sub(hn::Set(d, numbers[t][k]), first[t]);
      hidden = hn::Or(hidden, hn::Lt(place, count[t]));
    }
    std::uint64_t bits = 0;
    hn::StoreMaskBits(d, hidden, reinterpret_cast<std::uint8_t*>(&bits));
    words[k] &= ~(bits << lane);
  }
}

// words[key] bit l: no test hides the pair. Bits past the lanes are 0.
inline void fill_intervals(const IntervalTile& tile, std::uint64_t* words) {
  constexpr std::int64_t kTogether = 4;  // tests whose intervals stay in 8 registers
  constexpr auto kStep = static_cast<std::int64_t>(hn::MaxLanes(hn::ScalableTag<std::int32_t>()));
  std::fill_n(words, tile.keys, ~std::uint64_t{0} >> (64 - tile.lanes));
  for (std::int64_t lane = 0; lane < tile.lanes; lane += kStep) {
    for (std::int64_t t = 0; t < tile.count; t += kTogether) {
      const IntervalTest* tests = tile.tests + t;
      switch (std::min(kTogether, tile.count - t)) {
        case 1:
          clear_inside<1>(tests, lane, tile.keys, words);
          break;
        case 2:
          clear_inside<2>(tests, lane, tile.keys, words);
          break;
        case 3:
          clear_inside<3>(tests, lane, tile.keys, words);
          break;
        default:
          clear_inside<4>(tests, lane, tile.keys, words);
          break;
      }
    }
  }
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
