// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The visibility words of a tile from interval tests: vectors of lanes outside, keys inside, and
// all tests of a pair while its lanes are in registers.
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

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// words[key] bit l: all tests leave the pair visible. Bits past the lanes are 0.
inline void fill_intervals(const IntervalTile& tile, std::uint64_t* words) {
  const hn::ScalableTag<std::int32_t> d;
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  std::fill_n(words, tile.keys, std::uint64_t{0});
  for (std::int64_t lane = 0; lane < tile.lanes; lane += step) {
    const std::int64_t rest = tile.lanes - lane;
    const std::uint64_t used = rest >= step ? ~std::uint64_t{0} : (std::uint64_t{1} << rest) - 1;
    for (std::int64_t k = 0; k < tile.keys; ++k) {
      auto hidden = hn::Ne(hn::Zero(d), hn::Zero(d));
      for (const IntervalTest* test = tile.tests; test != tile.tests + tile.count; ++test) {
        const auto place = hn::Sub(hn::Set(d, test->numbers[k]), hn::LoadU(d, test->first + lane));
        const auto inside = hn::Lt(place, hn::LoadU(d, test->count + lane));
        hidden = hn::Or(hidden, test->hides_inside ? inside : hn::Not(inside));
      }
      std::uint64_t bits = 0;
      hn::StoreMaskBits(d, hn::Not(hidden), reinterpret_cast<std::uint8_t*>(&bits));
      words[k] |= (bits & used) << lane;
    }
  }
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
