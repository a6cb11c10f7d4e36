// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// One panel of queries meets one block of keys, backward (Dao et al. 2022, algorithm 4), by five
// products; S, P, dP, dS are [key][query], transposed:
//   S = key query^T           P = exp(S - lse)
//   dvalue += P doutput
//   dP = value doutput^T      dS = P * (dP - delta)
//   dkey += dS query
//   dquery^T += key^T dS
// P leaves the registers of S, dS those of dP: neither S nor dP is ever stored. Groups of keys that
// no query of the panel sees are skipped in all five.
#if defined(LONGSPAN_KERNELS_BACKWARD_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_BACKWARD_BLOCK_INL_H_
#undef LONGSPAN_KERNELS_BACKWARD_BLOCK_INL_H_
#else
#define LONGSPAN_KERNELS_BACKWARD_BLOCK_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "kernels/backward_block.h"
#include "kernels/exp2-inl.h"
#include "kernels/lanes-inl.h"
#include "kernels/product-inl.h"
#include "kernels/score_terms-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T, int N>
class Backward {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  using M = hn::Mask<D>;
  using Dot = PlainDot<T>;
  static constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));
  static constexpr std::int64_t kWidth = N * kLanes;
  static constexpr std::uint64_t kAllLanes = kLanesOf<kWidth>;

 public:
  static HWY_NOINLINE bool block(const BackwardBlock<T>& b) {
    const Groups groups(b);
    if (groups.first == groups.last) return false;
    weights(b, groups);
    if (b.dvalue != nullptr) {
      add_rows(b, groups, b.doutput_rows, b.head_dim_v, b.stride_v, b.dvalue);
    }
    if (b.dkey == nullptr && b.dquery_lanes == nullptr && b.dscores == nullptr) return true;
    score_gradients(b, groups);
    if (b.dkey != nullptr) add_rows(b, groups, b.query_rows, b.head_dim, b.stride, b.dkey);
    if (b.dquery_lanes != nullptr) add_lanes(b, groups);
    return true;
  }

 private:
  // Keys in groups of kRows. A group is not seen (all its words are 0), wholly seen, or needs its
  // words; the words of the last group say that keys past the end are hidden.
  struct Groups {
    static constexpr int kMost = 256 / kRows + 1;
    enum class Seen : std::uint8_t { kNone, kAll, kSome };

    explicit Groups(const BackwardBlock<T>& b) {
      count = static_cast<int>((b.keys + kRows - 1) / kRows);
      last = 0;
      first = count;
      for (int g = 0; g < count; ++g) {
        seen[g] = look(b, g);
        if (seen[g] == Seen::kNone) continue;
        first = first < g ? first : g;
        last = g + 1;
      }
      first = first < last ? first : last;
    }

    static HWY_INLINE std::uint64_t word(const BackwardBlock<T>& b, std::int64_t key) {
      return key >= b.keys ? 0 : b.visible == nullptr ? kAllLanes : b.visible[key] & kAllLanes;
    }
    static HWY_INLINE Seen look(const BackwardBlock<T>& b, int g) {
      std::uint64_t any = 0;
      std::uint64_t all = kAllLanes;
      for (int r = 0; r < kRows; ++r) {
        const std::uint64_t w = word(b, first_key(g) + r);
        any |= w;
        all &= w;
      }
      return any == 0 ? Seen::kNone : all == kAllLanes ? Seen::kAll : Seen::kSome;
    }

    static constexpr std::int64_t first_key(int g) { return std::int64_t{g} * kRows; }

    int count;
    int first;  // groups before it and from `last` on are not seen
    int last;
    Seen seen[kMost];
  };

  static HWY_INLINE void zero_group(T* rows) {
    const D d;
    for (std::int64_t i = 0; i < kRows * kWidth; i += kLanes) hn::Store(hn::Zero(d), d, rows + i);
  }

  // acc = rows first .. first + kRows of `rows` times the panel.
  static HWY_INLINE void lane_tile(const T* rows, std::int64_t stride, std::int64_t depth,
                                   const T* panel, V (&acc)[kRows][N]) {
    clear_tile(acc);
    multiply<Dot, Layout::kRowMajor>(rows, stride, depth, panel, kWidth, acc);
  }

  // What the epilogues read beside the products: in memory, so that no register holds it across
  // them.
  struct Shared {
    T scale;
    const T* lse;
    const T* delta;
    Exp2Constants<T> exp2;
  };

  // weights = P, operands = P without what dropout drops.
  template <bool kPlain>
  static HWY_INLINE void store_weight(const BackwardBlock<T>& b, std::int64_t key, int n, V p) {
    const D d;
    const std::int64_t at = key * kWidth + n * kLanes;
    if constexpr (!kPlain) {
      p = hn::IfThenElseZero(lane_mask(D(), Groups::word(b, key), n), p);
      if (b.kept != nullptr) {
        const std::uint64_t kept = key < b.keys ? b.kept[key] : 0;
        hn::Store(hn::IfThenElseZero(lane_mask(D(), kept, n), p), d, b.operands + at);
      }
    }
    hn::Store(p, d, b.weights + at);
  }

  template <bool kPlain>
  static HWY_INLINE void weight_group(const BackwardBlock<T>& b, Shared& shared,
                                      std::int64_t first) {
    const D d;
    V acc[kRows][N];
    lane_tile(b.key + first * b.stride, b.stride, b.head_dim, b.query_lanes, acc);
    if constexpr (!kPlain) {
      if (b.terms != nullptr) apply_terms(b, first, acc);
    }
    Shared& s = *opaque(&shared);
    LONGSPAN_UNROLL
    for (int n = 0; n < N; ++n) {
      const V lse = hn::Load(d, s.lse + n * kLanes);
      const V scale = hn::Set(d, s.scale);
      LONGSPAN_UNROLL
      for (int r = 0; r < kRows; ++r) {
        store_weight<kPlain>(b, first + r, n,
                             exp2_of(d, hn::MulSub(acc[r][n], scale, lse), s.exp2));
      }
    }
  }

  static HWY_INLINE bool is_plain(const BackwardBlock<T>& b, const Groups& groups, int g) {
    return groups.seen[g] == Groups::Seen::kAll && b.kept == nullptr && b.terms == nullptr;
  }

  static HWY_INLINE void apply_terms(const BackwardBlock<T>& b, std::int64_t first,
                                     V (&acc)[kRows][N]) {
    if (b.slopes == nullptr) {
      finish_scores<T, kRows, N>(*b.terms, b.scale, first, 0, kWidth, acc);
      return;
    }
    V slopes[kRows * N];
    finish_scores<T, kRows, N>(*b.terms, b.scale, first, 0, kWidth, acc, slopes);
    for (int i = 0; i < kRows * N; ++i) {
      hn::Store(slopes[i], D(), b.slopes + first * kWidth + i * kLanes);
    }
  }

  static HWY_INLINE void weights(const BackwardBlock<T>& b, const Groups& groups) {
    Shared shared{b.exponent_scale, b.lse, b.delta, kExp2Constants<T>};
    for (int g = groups.first; g < groups.last; ++g) {
      fetch_ahead(b, groups, g);
      if (groups.seen[g] == Groups::Seen::kNone) {
        clear_group(b, g);
      } else if (is_plain(b, groups, g)) {
        weight_group<true>(b, shared, Groups::first_key(g));
      } else {
        weight_group<false>(b, shared, Groups::first_key(g));
      }
    }
  }

  static HWY_INLINE void fetch_ahead(const BackwardBlock<T>& b, const Groups& groups, int g) {
    for (const RowsAhead& ahead : b.ahead) {
      fetch_part(ahead, g - groups.first, groups.last - groups.first);
    }
  }

  static HWY_INLINE void clear_group(const BackwardBlock<T>& b, int g) {
    zero_group(b.weights + Groups::first_key(g) * kWidth);
    if (b.operands != b.weights) zero_group(b.operands + Groups::first_key(g) * kWidth);
  }

  template <bool kPlain>
  static HWY_INLINE void gradient_group(const BackwardBlock<T>& b, Shared& shared,
                                        std::int64_t first) {
    const D d;
    V acc[kRows][N];
    lane_tile(b.value + first * b.stride_v, b.stride_v, b.head_dim_v, b.doutput_lanes, acc);
    Shared& s = *opaque(&shared);
    LONGSPAN_UNROLL
    for (int n = 0; n < N; ++n) {
      const V delta = hn::Load(d, s.delta + n * kLanes);
      LONGSPAN_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const std::int64_t key = first + r;
        const std::int64_t at = key * kWidth + n * kLanes;
        V dp = acc[r][n];
        if constexpr (!kPlain) {
          if (b.kept != nullptr && key < b.keys) {
            dp = hn::IfThenElseZero(lane_mask(D(), b.kept[key], n),
                                    hn::Mul(dp, hn::Set(d, b.keep_scale)));
          }
        }
        V ds = hn::Mul(hn::Load(d, b.weights + at), hn::Sub(dp, delta));
        if constexpr (!kPlain) {
          ds = hn::IfThenElseZero(lane_mask(D(), Groups::word(b, key), n), ds);
          if (b.dscores != nullptr) hn::Store(ds, d, b.dscores + at);
          if (b.slopes != nullptr && key < b.keys) {
            ds = hn::Mul(ds, hn::Load(d, b.slopes + at));
            ds = hn::IfThenElseZero(lane_mask(D(), Groups::word(b, key), n), ds);
          }
        }
        hn::Store(ds, d, b.operands + at);
      }
    }
  }

  // dS over P. In groups that are not seen P is 0 already, and so is dS.
  static HWY_INLINE void score_gradients(const BackwardBlock<T>& b, const Groups& groups) {
    Shared shared{b.exponent_scale, b.lse, b.delta, kExp2Constants<T>};
    for (int g = 0; g < groups.count; ++g) {
      if (groups.seen[g] == Groups::Seen::kNone) {
        if (b.dscores != nullptr) zero_group(b.dscores + Groups::first_key(g) * kWidth);
      } else if (is_plain(b, groups, g)) {
        gradient_group<true>(b, shared, Groups::first_key(g));
      } else {
        gradient_group<false>(b, shared, Groups::first_key(g));
      }
    }
  }

  // into[key][component] += operands[key][query] rows[query][component].
  static HWY_INLINE void add_rows(const BackwardBlock<T>& b, const Groups& groups, const T* rows,
                                  std::int64_t dim, std::int64_t stride, T* into) {
    // Components in tiles of equal width: 8 vectors are 3 + 3 + 2.
    const std::int64_t vectors = (dim + kLanes - 1) / kLanes;
    std::int64_t tiles = (vectors + kTileVectors - 1) / kTileVectors;
    for (std::int64_t v = 0; v < vectors; --tiles) {
      const std::int64_t wide = (vectors - v + tiles - 1) / tiles;
      if (wide == 3) {
        if constexpr (kTileVectors >= 3) {
          add_row_tiles<3>(b, groups, rows + v * kLanes, stride, into + v * kLanes);
        }
      } else if (wide == 2) {
        add_row_tiles<2>(b, groups, rows + v * kLanes, stride, into + v * kLanes);
      } else {
        add_row_tiles<1>(b, groups, rows + v * kLanes, stride, into + v * kLanes);
      }
      v += wide;
    }
  }

  template <int C>
  static HWY_NOINLINE void add_row_tiles(const BackwardBlock<T>& b, const Groups& groups,
                                         const T* rows, std::int64_t stride, T* into) {
    const D d;
    for (int g = groups.first; g < groups.last; ++g) {
      if (groups.seen[g] == Groups::Seen::kNone) continue;
      const std::int64_t first = Groups::first_key(g);
      V acc[kRows][C];
      clear_tile(acc);
      if (b.skip_hidden) {
        skipping_rows<C>(b, first, rows, stride, acc);
      } else {
        multiply<Dot, Layout::kRowMajor>(b.operands + first * kWidth, kWidth, kWidth, rows, stride,
                                         acc);
      }
      LONGSPAN_UNROLL
      for (int r = 0; r < kRows; ++r) {
        LONGSPAN_UNROLL
        for (int n = 0; n < C; ++n) {
          T* at = into + (first + r) * stride + n * kLanes;
          hn::Store(hn::Add(hn::Load(d, at), acc[r][n]), d, at);
        }
      }
    }
  }

  template <int C>
  static HWY_NOINLINE void skipping_rows(const BackwardBlock<T>& b, std::int64_t first,
                                         const T* rows, std::int64_t stride, V (&acc)[kRows][C]) {
    const D d;
    for (int r = 0; r < kRows; ++r) {
      const std::uint64_t word = Groups::word(b, first + r);
      for (std::int64_t k = 0; k < kWidth; ++k) {
        if ((word >> k & 1) == 0) continue;
        const V a = hn::Set(d, b.operands[(first + r) * kWidth + k]);
        for (int n = 0; n < C; ++n) {
          acc[r][n] = hn::MulAdd(a, hn::Load(d, rows + k * stride + n * kLanes), acc[r][n]);
        }
      }
    }
  }

  // dquery_lanes[component][query] += key[key][component] dS[key][query].
  static HWY_INLINE void add_lanes(const BackwardBlock<T>& b, const Groups& groups) {
    const D d;
    const std::int64_t begin = Groups::first_key(groups.first);
    const std::int64_t past = Groups::first_key(groups.last);
    const std::int64_t end = past < b.keys ? past : b.keys;
    for (std::int64_t first = 0; first < b.head_dim; first += kRows) {
      V acc[kRows][N];
      clear_tile(acc);
      if (b.skip_hidden) {
        skipping_lanes(b, begin, end, first, acc);
      } else {
        multiply<Dot, Layout::kColumnMajor>(b.key + begin * b.stride + first, b.stride, end - begin,
                                            b.operands + begin * kWidth, kWidth, acc);
      }
      LONGSPAN_UNROLL
      for (int r = 0; r < kRows; ++r) {
        LONGSPAN_UNROLL
        for (int n = 0; n < N; ++n) {
          T* at = b.dquery_lanes + (first + r) * kWidth + n * kLanes;
          hn::Store(hn::Add(hn::Load(d, at), acc[r][n]), d, at);
        }
      }
    }
  }

  static HWY_NOINLINE void skipping_lanes(const BackwardBlock<T>& b, std::int64_t begin,
                                          std::int64_t end, std::int64_t first,
                                          V (&acc)[kRows][N]) {
    const D d;
    for (std::int64_t k = begin; k < end; ++k) {
      const std::uint64_t word = Groups::word(b, k);
      for (int n = 0; n < N; ++n) {
        const V ds = hn::Load(d, b.operands + k * kWidth + n * kLanes);
        for (int r = 0; r < kRows; ++r) {
          const V a = hn::Set(d, b.key[k * b.stride + first + r]);
          acc[r][n] =
              hn::IfThenElse(lane_mask(D(), word, n), hn::MulAdd(a, ds, acc[r][n]), acc[r][n]);
        }
      }
    }
  }
};

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
