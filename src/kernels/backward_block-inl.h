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

#include "base/round.h"
#include "kernels/backward_block.h"
#include "kernels/exp2-inl.h"
#include "kernels/lanes-inl.h"
#include "kernels/not_finite-inl.h"
#include "kernels/product-inl.h"
#include "kernels/score_terms-inl.h"
#include "kernels/tile_products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class Dot, int N>
class Backward {
  using T = typename Dot::Real;
  using Operand = typename Dot::Operand;
  using State = typename Dot::State;
  using D = typename Dot::D;
  using V = hn::Vec<D>;
  static constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));
  static constexpr std::int64_t kWidth = N * kLanes;
  static constexpr std::uint64_t kAllLanes = kLanesOf<kWidth>;
  static constexpr int kGroup = kRows;
  // Operands are stored as rows and as lanes; where they are numbers, both are one.
  static constexpr bool kTwoForms = Dot::kValues > 1;
  static constexpr std::int64_t kRowValues = base::round_up(kWidth, Dot::kDepth);
  static constexpr std::int64_t kRowOperands = kRowValues / Dot::kValues;

 public:
  static HWY_NOINLINE bool block(const BackwardBlock<T>& b) {
    const Groups groups(b);
    if (groups.first == groups.last) return false;
    State instructions;
    weights(b, instructions, groups);
    if (b.dvalue != nullptr) {
      add_rows(b, instructions, groups, b.doutput_rows, b.head_dim_v, b.stride_v, b.dvalue);
    }
    if (b.dkey == nullptr && b.dquery_lanes == nullptr && b.dscores == nullptr) return true;
    score_gradients(b, instructions, groups);
    if (b.dkey != nullptr) {
      add_rows(b, instructions, groups, b.query_rows, b.head_dim, b.stride, b.dkey);
    }
    if (b.dquery_lanes != nullptr) add_lanes(b, instructions, groups);
    return true;
  }

 private:
  // Keys in groups of kGroup. A group is not seen (all its words are 0), wholly seen, or needs its
  // words; the words of the last group say that keys past the end are hidden.
  struct Groups {
    // Groups that a sum over keys takes at a time.
    static constexpr int kStep = Dot::kDepth > kGroup ? Dot::kDepth / kGroup : 1;
    static constexpr int kMost = 256 / kGroup + kStep;
    enum class Seen : std::uint8_t { kNone, kAll, kSome };

    explicit Groups(const BackwardBlock<T>& b) {
      count = static_cast<int>((b.keys + kGroup - 1) / kGroup);
      last = 0;
      first = count;
      const bool whole = b.keys % kGroup == 0;
      for (int g = 0; g < count; ++g) {
        seen[g] = g + 1 < count || whole ? look(b, g) : look_at_rest(b, g);
        if (seen[g] == Seen::kNone) continue;
        first = first < g ? first : g;
        last = g + 1;
      }
      first = first < last ? first / kStep * kStep : last;
      last = base::round_up(last, kStep);
      for (int g = count; g < last; ++g) seen[g] = Seen::kNone;
    }

    static HWY_INLINE std::uint64_t word(const BackwardBlock<T>& b, const std::uint64_t* words,
                                         std::int64_t key) {
      return key >= b.keys ? 0 : words == nullptr ? kAllLanes : words[key] & kAllLanes;
    }
    static HWY_INLINE Seen look(const BackwardBlock<T>& b, int g) {
      if (b.visible == nullptr) return Seen::kAll;
      const std::uint64_t* words = b.visible + first_key(g);
      std::uint64_t any = 0;
      std::uint64_t all = kAllLanes;
      for (int r = 0; r < kGroup; ++r) {
        any |= words[r];
        all &= words[r];
      }
      return (any & kAllLanes) == 0 ? Seen::kNone : all == kAllLanes ? Seen::kAll : Seen::kSome;
    }
    static HWY_INLINE Seen look_at_rest(const BackwardBlock<T>& b, int g) {
      std::uint64_t any = 0;
      for (int r = 0; r < kGroup; ++r) any |= word(b, b.visible, first_key(g) + r);
      return any == 0 ? Seen::kNone : Seen::kSome;
    }

    static constexpr std::int64_t first_key(int g) { return std::int64_t{g} * kGroup; }

    int count;
    int first;  // groups before it and from `last` on are not seen: whole steps of a sum
    int last;
    Seen seen[kMost];
  };

  static HWY_INLINE Operand* operand_row(const BackwardBlock<T>& b, std::int64_t key) {
    return static_cast<Operand*>(b.operand_rows) + key * kRowOperands;
  }
  static HWY_INLINE Operand* operand_lanes(const BackwardBlock<T>& b, std::int64_t key) {
    return static_cast<Operand*>(b.operand_lanes) + key / Dot::kValues * kWidth;
  }
  static HWY_INLINE void clear(Operand* operands, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) operands[i] = 0;
  }

  // acc = rows first .. first + kGroup of `rows` times the panel.
  static HWY_INLINE void lane_tile(Products<Dot, N>& products, const OperandRows& rows,
                                   std::int64_t first, std::int64_t dim, const void* panel,
                                   V (&acc)[kGroup][N]) {
    products.template multiply<Layout::kRowMajor>(
        static_cast<const Operand*>(rows.data) + first * rows.stride, rows.stride, first,
        operands<Dot>(dim), static_cast<const Operand*>(panel), kWidth, acc);
  }

  // What the epilogues read beside the products: in memory, so that no register holds it across
  // them.
  struct Shared {
    HWY_INLINE explicit Shared(const BackwardBlock<T>& b)
        : scale(b.exponent_scale),
          lse(b.lse),
          delta(b.delta),
          keep_scale(b.kept == nullptr ? T{1} : b.keep_scale) {}
    T scale;
    const T* lse;
    const T* delta;
    T keep_scale;
    Exp2Constants<T> exp2 = kExp2Constants<T>;
  };

  // 0 in the place of pairs that the words leave out.
  static HWY_INLINE void select(const BackwardBlock<T>& b, const std::uint64_t* words,
                                std::int64_t first, V (&x)[kGroup][N]) {
    LONGSPAN_UNROLL
    for (int r = 0; r < kGroup; ++r) {
      const std::uint64_t word = Groups::word(b, words, first + r);
      LONGSPAN_UNROLL
      for (int n = 0; n < N; ++n) x[r][n] = hn::IfThenElseZero(lane_mask(D(), word, n), x[r][n]);
    }
  }
  static HWY_INLINE void store(T* rows, std::int64_t first, const V (&x)[kGroup][N]) {
    LONGSPAN_UNROLL
    for (int r = 0; r < kGroup; ++r) {
      LONGSPAN_UNROLL
      for (int n = 0; n < N; ++n) hn::Store(x[r][n], D(), rows + (first + r) * kWidth + n * kLanes);
    }
  }
  template <bool kLanesToo>
  static HWY_INLINE void store_operands(const BackwardBlock<T>& b, std::int64_t first,
                                        const V (&x)[kGroup][N]) {
    LONGSPAN_UNROLL
    for (int n = 0; n < N; ++n) {
      LONGSPAN_UNROLL
      for (int r = 0; r < kGroup; r += Dot::kValues) {
        V values[Dot::kValues];
        LONGSPAN_UNROLL
        for (int m = 0; m < Dot::kValues; ++m) values[m] = x[r + m][n];
        const auto joined = Dot::join(values);
        Dot::store_values(joined, operand_row(b, first + r), kRowOperands, n * kLanes);
        if constexpr (kLanesToo) Dot::store(joined, operand_lanes(b, first + r) + n * kLanes);
      }
    }
  }

  // weights = P, operands = P without what dropout drops: of one group.
  template <bool kPlain>
  static HWY_INLINE void weight_group(const BackwardBlock<T>& b, Products<Dot, N>& products,
                                      Shared& shared, std::int64_t first) {
    const D d;
    V p[kGroup][N];
    lane_tile(products, b.key, first, b.head_dim, b.query_lanes, p);
    if constexpr (!kPlain) {
      if (b.terms != nullptr) apply_terms(b, first, p);
    }
    if constexpr (kRowValues > kWidth) {
      clear(operand_row(b, first), kGroup * kRowOperands);
    }
    Shared& s = *opaque(&shared);
    LONGSPAN_UNROLL
    for (int n = 0; n < N; ++n) {
      const V lse = hn::Load(d, s.lse + n * kLanes);
      const V scale = hn::Set(d, s.scale);
      LONGSPAN_UNROLL
      for (int r = 0; r < kGroup; ++r) {
        p[r][n] = exp2_of(d, hn::MulSub(p[r][n], scale, lse), s.exp2);
      }
    }
    if constexpr (!kPlain) select(b, b.visible, first, p);
    store(b.weights, first, p);
    if constexpr (!kPlain) {
      if (b.kept != nullptr) {
        select(b, b.kept, first, p);
        store_operands<false>(b, first, p);
        return;
      }
    }
    if constexpr (kTwoForms) store_operands<false>(b, first, p);
  }

  static HWY_INLINE bool is_plain(const BackwardBlock<T>& b, const Groups& groups, int g) {
    return groups.seen[g] == Groups::Seen::kAll && b.kept == nullptr && b.terms == nullptr;
  }

  static HWY_INLINE void apply_terms(const BackwardBlock<T>& b, std::int64_t first,
                                     V (&acc)[kGroup][N]) {
    if (b.slopes == nullptr) {
      finish_scores<T, kGroup, N>(*b.terms, b.scale, first, 0, kWidth, acc);
      return;
    }
    V slopes[kGroup * N];
    finish_scores<T, kGroup, N>(*b.terms, b.scale, first, 0, kWidth, acc, slopes);
    for (int i = 0; i < kGroup * N; ++i) {
      hn::Store(slopes[i], D(), b.slopes + first * kWidth + i * kLanes);
    }
  }

  static HWY_INLINE void weights(const BackwardBlock<T>& b, State& instructions,
                                 const Groups& groups) {
    Shared shared(b);
    Products<Dot, N> products(instructions);
    const PartsAhead ahead(b.ahead, groups.last - groups.first);
    for (int g = groups.first; g < groups.last; ++g) {
      ahead.fetch(g - groups.first);
      if (groups.seen[g] == Groups::Seen::kNone) {
        clear_group(b, g);
      } else if (is_plain(b, groups, g)) {
        weight_group<true>(b, products, shared, Groups::first_key(g));
      } else {
        weight_group<false>(b, products, shared, Groups::first_key(g));
      }
    }
  }

  static HWY_INLINE void clear_group(const BackwardBlock<T>& b, int g) {
    clear(operand_row(b, Groups::first_key(g)), kGroup * kRowOperands);
    if constexpr (kTwoForms) {
      clear(operand_lanes(b, Groups::first_key(g)), kGroup / Dot::kValues * kWidth);
    }
  }

  template <bool kPlain>
  static HWY_INLINE void gradient_group(const BackwardBlock<T>& b, Products<Dot, N>& products,
                                        Shared& shared, std::int64_t first) {
    const D d;
    V ds[kGroup][N];
    lane_tile(products, b.value, first, b.head_dim_v, b.doutput_lanes, ds);
    if constexpr (!kPlain) {
      if (b.kept != nullptr) select(b, b.kept, first, ds);
    }
    Shared& s = *opaque(&shared);
    LONGSPAN_UNROLL
    for (int n = 0; n < N; ++n) {
      const V delta = hn::Load(d, s.delta + n * kLanes);
      LONGSPAN_UNROLL
      for (int r = 0; r < kGroup; ++r) {
        const V weight = hn::Load(d, b.weights + (first + r) * kWidth + n * kLanes);
        const V off = kPlain ? hn::Sub(ds[r][n], delta)
                             : hn::MulSub(ds[r][n], hn::Set(d, s.keep_scale), delta);
        ds[r][n] = hn::Mul(weight, off);
      }
    }
    if constexpr (!kPlain) {
      select(b, b.visible, first, ds);
      if (b.dscores != nullptr) store(b.dscores, first, ds);
      if (b.slopes != nullptr) {
        LONGSPAN_UNROLL
        for (int r = 0; r < kGroup; ++r) {
          LONGSPAN_UNROLL
          for (int n = 0; n < N; ++n) {
            const T* at = b.slopes + (first + r) * kWidth + n * kLanes;
            ds[r][n] = hn::Mul(ds[r][n], hn::Load(d, at));
          }
        }
        select(b, b.visible, first, ds);
      }
    }
    store_operands<kTwoForms>(b, first, ds);
  }

  // dS over P. In groups that are not seen P is 0 already, and so is dS.
  static HWY_INLINE void score_gradients(const BackwardBlock<T>& b, State& instructions,
                                         const Groups& groups) {
    Shared shared(b);
    Products<Dot, N> products(instructions);
    for (int g = 0; g < groups.count; ++g) {
      if (groups.seen[g] == Groups::Seen::kNone) {
        if (b.dscores != nullptr) zero_scores(b, g);
      } else if (is_plain(b, groups, g)) {
        gradient_group<true>(b, products, shared, Groups::first_key(g));
      } else {
        gradient_group<false>(b, products, shared, Groups::first_key(g));
      }
    }
  }

  static HWY_INLINE void zero_scores(const BackwardBlock<T>& b, int g) {
    const D d;
    T* rows = b.dscores + Groups::first_key(g) * kWidth;
    for (std::int64_t i = 0; i < kGroup * kWidth; i += kLanes) hn::Store(hn::Zero(d), d, rows + i);
  }

  // into[key][component] += operands[key][query] rows[query][component].
  static HWY_INLINE void add_rows(const BackwardBlock<T>& b, State& instructions,
                                  const Groups& groups, const void* packed, std::int64_t dim,
                                  std::int64_t stride, T* into) {
    const auto* rows = static_cast<const Operand*>(packed);
    // Components in tiles of equal width: 8 vectors are 3 + 3 + 2.
    const std::int64_t vectors = (dim + kLanes - 1) / kLanes;
    std::int64_t tiles = (vectors + kMaxVectors - 1) / kMaxVectors;
    for (std::int64_t v = 0; v < vectors; --tiles) {
      const std::int64_t wide = (vectors - v + tiles - 1) / tiles;
      const std::int64_t at = v * kLanes;
      if (wide == 3) {
        add_row_tiles<3>(b, instructions, groups, rows + at, stride, into + at);
      } else if (wide == 2) {
        add_row_tiles<2>(b, instructions, groups, rows + at, stride, into + at);
      } else {
        add_row_tiles<1>(b, instructions, groups, rows + at, stride, into + at);
      }
      v += wide;
    }
    if (b.skip_hidden) {
      add_rows_not_finite<Dot>(operand_row(b, 0), kRowOperands, b.keys, kWidth, b.visible, rows,
                               stride, dim, into);
    }
  }

  template <int C>
  static HWY_NOINLINE void add_row_tiles(const BackwardBlock<T>& b, State& instructions,
                                         const Groups& groups, const Operand* rows,
                                         std::int64_t stride, T* into) {
    const D d;
    Products<Dot, C> products(instructions);
    for (int g = groups.first; g < groups.last; ++g) {
      if (groups.seen[g] == Groups::Seen::kNone) continue;
      const std::int64_t first = Groups::first_key(g);
      V acc[kGroup][C];
      if (b.skip_hidden) {
        row_tile<Clean::kB>(b, products, first, rows, stride, acc);
      } else {
        row_tile<Clean::kNothing>(b, products, first, rows, stride, acc);
      }
      LONGSPAN_UNROLL
      for (int r = 0; r < kGroup; ++r) {
        LONGSPAN_UNROLL
        for (int n = 0; n < C; ++n) {
          T* at = into + (first + r) * stride + n * kLanes;
          hn::Store(hn::Add(hn::Load(d, at), acc[r][n]), d, at);
        }
      }
    }
  }

  template <Clean kClean, int C>
  static HWY_INLINE void row_tile(const BackwardBlock<T>& b, Products<Dot, C>& products,
                                  std::int64_t first, const Operand* rows, std::int64_t stride,
                                  V (&acc)[kGroup][C]) {
    products.template multiply<Layout::kRowMajor, kClean>(
        operand_row(b, first), kRowOperands, first, operands<Dot>(kWidth), rows, stride, acc);
  }

  // dquery_lanes[component][query] += key[key][component] dS[key][query].
  static HWY_INLINE void add_lanes(const BackwardBlock<T>& b, State& instructions,
                                   const Groups& groups) {
    const D d;
    const std::int64_t begin = Groups::first_key(groups.first);
    const std::int64_t past = Groups::first_key(groups.last);
    const std::int64_t end = past < b.keys ? past : b.keys;
    Products<Dot, N> products(instructions);
    for (std::int64_t first = 0; first < b.head_dim; first += kGroup) {
      V acc[kGroup][N];
      if (b.skip_hidden) {
        component_tile<Clean::kA>(b, products, first, begin, end, acc);
      } else {
        component_tile<Clean::kNothing>(b, products, first, begin, end, acc);
      }
      LONGSPAN_UNROLL
      for (int r = 0; r < kGroup; ++r) {
        LONGSPAN_UNROLL
        for (int n = 0; n < N; ++n) {
          T* at = b.dquery_lanes + (first + r) * kWidth + n * kLanes;
          hn::Store(hn::Add(hn::Load(d, at), acc[r][n]), d, at);
        }
      }
    }
    if (b.skip_hidden) {
      add_components_not_finite<Dot>(b.key_components, 0, b.keys, b.head_dim, b.visible,
                                     operand_lanes(b, 0), kWidth, b.dquery_lanes);
    }
  }

  template <Clean kClean>
  static HWY_INLINE void component_tile(const BackwardBlock<T>& b, Products<Dot, N>& products,
                                        std::int64_t first, std::int64_t begin, std::int64_t end,
                                        V (&acc)[kGroup][N]) {
    products.template multiply<Dot::kComponents, kClean>(
        component<Dot>(b.key_components, begin, first), b.key_components.stride, first,
        operands<Dot>(end - begin), operand_lanes(b, begin), kWidth, acc);
  }
};

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
