// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// base::philox() for kGroups counters at a time, each with a whole vector of different second
// words.
//   A word is the low half of a 64-bit lane whose upper half is never read: the product of a round
//   is then one instruction, its high half a shift, its low half nothing at all. A vector is kept
//   as its even and its odd elements.
//   Words that are equal in all lanes stay scalars: it takes until the fourth round for one word to
//   reach all four. That leaves 94 vector operations a counter and 16 elements, of the 120 of 10
//   rounds.
//   A round is a product (5 cycles), a shift and a sum, each waiting for the one before: counters
//   side by side keep the processor busy meanwhile.
#if defined(LONGSPAN_KERNELS_PHILOX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_PHILOX_INL_H_
#undef LONGSPAN_KERNELS_PHILOX_INL_H_
#else
#define LONGSPAN_KERNELS_PHILOX_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "base/philox.h"
#include "kernels/product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The keys of all rounds.
struct PhiloxKeys {
  explicit PhiloxKeys(std::uint64_t seed) {
    base::PhiloxKey key = base::philox_key(seed);
    for (std::uint64_t(&round)[2] : of_round) {
      for (int n = 0; n < 2; ++n) {
        round[n] = key[n];
        key[n] += base::kPhiloxKeySteps[n];
      }
    }
  }
  std::uint64_t of_round[base::kPhiloxRounds][2];
};

// Counters or random words, each of the four Scalars or Lanes.
template <class W0, class W1, class W2, class W3>
struct PhiloxWords {
  W0 w0;
  W1 w1;
  W2 w2;
  W3 w3;
};
template <class W0, class W1, class W2, class W3>
PhiloxWords(W0, W1, W2, W3) -> PhiloxWords<W0, W1, W2, W3>;

template <std::int64_t kGroups>
class VectorPhilox {
 public:
  using D32 = hn::ScalableTag<std::uint32_t>;
  using D64 = hn::RepartitionToWide<D32>;
  struct Scalars {
    std::uint64_t of[kGroups];
  };
  struct Lanes {
    HWY_INLINE Lanes() {}         // NOLINT(modernize-use-equals-default): compiled for this target
    hn::Vec<D64> of[kGroups][2];  // even elements, odd elements
  };

 private:
  template <class Body>
  static HWY_INLINE Lanes each(const Body& body) {
    Lanes out;
    LONGSPAN_UNROLL
    for (std::int64_t g = 0; g < kGroups; ++g) {
      LONGSPAN_UNROLL
      for (int h = 0; h < 2; ++h) out.of[g][h] = body(g, h);
    }
    return out;
  }

  static HWY_INLINE Scalars product(Scalars x, std::uint32_t by) {
    for (std::uint64_t& n : x.of) n = std::uint64_t{static_cast<std::uint32_t>(n)} * by;
    return x;
  }
  static HWY_INLINE Lanes product(const Lanes& x, std::uint32_t by) {
    const D32 d;
    return each([&](std::int64_t g, int h)
                    HWY_ATTR { return hn::MulEven(hn::BitCast(d, x.of[g][h]), hn::Set(d, by)); });
  }
  static HWY_INLINE Scalars high(Scalars x) {
    for (std::uint64_t& n : x.of) n >>= 32;
    return x;
  }
  static HWY_INLINE Lanes high(const Lanes& x) {
    return each([&](std::int64_t g, int h) HWY_ATTR { return hn::ShiftRight<32>(x.of[g][h]); });
  }
  static HWY_INLINE Scalars mix(Scalars a, const Scalars& b, std::uint64_t key) {
    for (std::int64_t g = 0; g < kGroups; ++g) a.of[g] ^= b.of[g] ^ key;
    return a;
  }
  static HWY_INLINE Lanes mix(const Lanes& a, const Scalars& b, std::uint64_t key) {
    return each([&](std::int64_t g, int h)
                    HWY_ATTR { return hn::Xor(a.of[g][h], hn::Set(D64(), b.of[g] ^ key)); });
  }
  static HWY_INLINE Lanes mix(const Scalars& a, const Lanes& b, std::uint64_t key) {
    return mix(b, a, key);
  }
  static HWY_INLINE Lanes mix(const Lanes& a, const Lanes& b, std::uint64_t key) {
    return each([&](std::int64_t g, int h)
                    HWY_ATTR { return hn::Xor3(a.of[g][h], b.of[g][h], hn::Set(D64(), key)); });
  }

  template <int kRounds, class W0, class W1, class W2, class W3>
  static HWY_INLINE auto rounds(const PhiloxWords<W0, W1, W2, W3>& c,
                                const std::uint64_t (*key)[2]) {
    if constexpr (kRounds == 0) {
      return c;
    } else {
      const auto a = product(c.w0, base::kPhiloxMultipliers[0]);
      const auto b = product(c.w2, base::kPhiloxMultipliers[1]);
      return rounds<kRounds - 1>(
          PhiloxWords{mix(high(b), c.w1, (*key)[0]), b, mix(high(a), c.w3, (*key)[1]), a}, key + 1);
    }
  }

 public:
  using Words = PhiloxWords<Lanes, Lanes, Lanes, Lanes>;

  static HWY_INLINE Words random(const PhiloxWords<Scalars, Lanes, Scalars, Scalars>& counters,
                                 const PhiloxKeys& keys) {
    return rounds<base::kPhiloxRounds>(counters, keys.of_round);
  }

  // The vector of 32-bit words that these are the even and the odd elements of.
  static HWY_INLINE hn::Vec<D32> weave(const hn::Vec<D64> (&halves)[2]) {
    const D32 d;
    return hn::OddEven(hn::BitCast(d, hn::ShiftLeft<32>(halves[1])), hn::BitCast(d, halves[0]));
  }
};

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
