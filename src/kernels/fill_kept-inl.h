// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The bits of dropout for a tile: groups of 4 keys, which share a counter, meet vectors of queries.
#if defined(LONGSPAN_KERNELS_FILL_KEPT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_FILL_KEPT_INL_H_
#undef LONGSPAN_KERNELS_FILL_KEPT_INL_H_
#else
#define LONGSPAN_KERNELS_FILL_KEPT_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "kernels/dropout.h"
#include "kernels/philox-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

class KeptFiller {
  static constexpr std::int64_t kGroups = 2;
  using Philox = VectorPhilox<kGroups>;
  using D32 = Philox::D32;
  using D64 = Philox::D64;
  static constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(D32()));

 public:
  KeptFiller(const DropoutTile& tile, std::uint64_t* kept)
      : tile_(tile), keys_(tile.seed), kept_(kept) {}

  HWY_INLINE void fill() const {
    std::fill_n(kept_, tile_.keys, std::uint64_t{0});
    for (std::int64_t lane = 0; lane < tile_.queries; lane += kLanes) fill_lanes(lane);
  }

 private:
  HWY_INLINE void fill_lanes(std::int64_t lane) const {
    const D64 d;
    const auto twice = hn::ShiftLeft<1>(hn::Iota(d, std::uint64_t{0}));
    const auto query = static_cast<std::uint64_t>(tile_.first_query + lane);
    Philox::Scalars groups, head, batch;
    Philox::Lanes queries;
    for (std::int64_t g = 0; g < kGroups; ++g) {
      queries.of[g][0] = hn::Add(twice, hn::Set(d, query));
      queries.of[g][1] = hn::Add(twice, hn::Set(d, query + 1));
      head.of[g] = static_cast<std::uint64_t>(tile_.head);
      batch.of[g] = static_cast<std::uint64_t>(tile_.batch);
    }
    const auto last_dropped = hn::Set(D32(), static_cast<std::uint32_t>(tile_.threshold - 1));
    const std::int64_t rest = tile_.queries - lane;
    const std::uint64_t lanes = rest >= kLanes ? ~std::uint64_t{0} : (std::uint64_t{1} << rest) - 1;
    for (std::int64_t first = tile_.first_key / 4 * 4; first < tile_.first_key + tile_.keys;
         first += 4 * kGroups) {
      for (std::int64_t g = 0; g < kGroups; ++g)
        groups.of[g] = static_cast<std::uint64_t>(first / 4 + g);
      const Philox::Words words = Philox::random({groups, queries, head, batch}, keys_);
      LONGSPAN_UNROLL
      for (std::int64_t g = 0; g < kGroups; ++g) {
        const std::uint64_t bits[4] = {
            bits_above(words.w0.of[g], last_dropped), bits_above(words.w1.of[g], last_dropped),
            bits_above(words.w2.of[g], last_dropped), bits_above(words.w3.of[g], last_dropped)};
        for (int w = 0; w < 4; ++w) {
          const std::int64_t k = first + 4 * g + w - tile_.first_key;
          if (k >= 0 && k < tile_.keys) kept_[k] |= (bits[w] & lanes) << lane;
        }
      }
    }
  }

  // Bit l: word l > limit.
  static HWY_INLINE std::uint64_t bits_above(const hn::Vec<D64> (&halves)[2], hn::Vec<D32> limit) {
    std::uint64_t bits = 0;
    hn::StoreMaskBits(D32(), hn::Gt(Philox::weave(halves), limit),
                      reinterpret_cast<std::uint8_t*>(&bits));
    return bits;
  }

  const DropoutTile& tile_;
  const PhiloxKeys keys_;
  std::uint64_t* const kept_;
};

inline void fill_kept(const DropoutTile& tile, std::uint64_t* kept) {
  KeptFiller(tile, kept).fill();
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
