// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// One panel of queries meets one block of keys: scores, probabilities, values. Two score paths:
//   fused   scores leave the registers as probabilities and are never stored;
//   stored  scores are stored, and lanes get a new reference where one is needed.
// The fused path keeps an old reference and looks only at the block's sum of probabilities: all are
// > 0, so a sum below kSafeSum bounds each of them, and inf and NaN fail the comparison, too. A
// block that fails takes the stored path. Only the lanes that left the safe range move their
// reference: a row's bits do not depend on the rows beside it.
#if defined(LONGSPAN_KERNELS_FORWARD_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_FORWARD_BLOCK_INL_H_
#undef LONGSPAN_KERNELS_FORWARD_BLOCK_INL_H_
#else
#define LONGSPAN_KERNELS_FORWARD_BLOCK_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "base/round.h"
#include "kernels/exp2-inl.h"
#include "kernels/kernel_table.h"
#include "kernels/lanes-inl.h"
#include "kernels/not_finite-inl.h"
#include "kernels/product-inl.h"
#include "kernels/score_terms-inl.h"
#include "kernels/tile_products-inl.h"
#include "kernels/vector_rule-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class Dot, int N>
class Forward {
  using T = typename Dot::Real;
  using Operand = typename Dot::Operand;
  using State = typename Dot::State;
  using D = typename Dot::D;
  using V = hn::Vec<D>;
  using M = hn::Mask<D>;
  using Rule = VectorRule<D>;
  static constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));
  static constexpr std::int64_t kWidth = N * kLanes;
  static constexpr int kGroup = kRows;
  static constexpr T kSafeSum =
      T{4096};  // 2^12: float32 sums of 2^12 parts keep 12 bits below their last block
  static constexpr T kLeastSum = T(0x1p-64);  // what is 2^-60 of such a sum is still normal

 public:
  static HWY_NOINLINE bool block(const ForwardBlock<T>& b) {
    const bool stored = b.exact_reference;
    bool slow = false;
    State instructions;
    Scores scores(instructions);
    if (!stored) {
      if (b.fresh) first_reference(b, scores);
      if (!b.bounded && b.terms != nullptr && b.terms->query_positions != nullptr) {
        raise_reference(b, scores);
      }
    }
    if (stored || !fused(b, scores)) {
      slow = !stored;
      store_scores(b, scores);
      finish_stored(b);
    }
    if (b.kept != nullptr) drop(b);
    add_values(b, instructions);
    return slow;
  }

 private:
  using Scores = Products<Dot, N>;

  // Do all lanes see all of these keys (word = kAllLanes), or none any of them (word = 0)?
  static HWY_INLINE bool all_equal(const std::uint64_t* words, int rows, std::uint64_t word) {
    std::uint64_t differ = 0;
    for (int r = 0; r < rows; ++r) differ |= words[r] ^ word;
    return (differ & kAllLanes) == 0;
  }
  static constexpr std::uint64_t kAllLanes = kLanesOf<kWidth>;

  template <int R>
  static HWY_INLINE void score_tile(const ForwardBlock<T>& b, Scores& scores, std::int64_t first,
                                    V (&acc)[R][N]) {
    const auto* key = static_cast<const Operand*>(b.key.data);
    scores.template multiply<Layout::kRowMajor>(key + (b.first_key + first) * b.key.stride,
                                                b.key.stride, first, operands<Dot>(b.head_dim),
                                                static_cast<const Operand*>(b.query), kWidth, acc);
  }

  static HWY_INLINE Operand* probability_row(const ForwardBlock<T>& b, std::int64_t key) {
    return static_cast<Operand*>(b.probabilities) + key / Dot::kValues * kWidth;
  }

  // What the fused path reads and sums beside the products, in memory between tiles.
  struct FusedState {
    alignas(64) T sum[kWidth];
    T scale;
    const T* reference;
    Exp2Constants<T> exp2;
  };

  struct FusedRows {
    const ForwardBlock<T>& b;
    Scores& scores;
    FusedState& state;
    PartsAhead ahead;
    template <int R>
    HWY_INLINE void run(std::int64_t first) const {
      const D d;
      ahead.fetch(first / kGroup);
      Operand* out = probability_row(b, first);
      const std::uint64_t* words = b.visible == nullptr ? nullptr : b.visible + first;
      if (words != nullptr && all_equal(words, R, 0)) {
        V none[Dot::kValues];
        for (V& p : none) p = hn::Zero(d);
        for (std::int64_t i = 0; i < operands<Dot>(R) * kWidth; i += kLanes)
          Dot::store(Dot::join(none), out + i);
        return;
      }
      V acc[R][N];
      score_tile<R>(b, scores, first, acc);
      if (b.terms != nullptr) finish_scores<T, R, N>(*b.terms, b.scale, first, 0, kWidth, acc);
      if (words == nullptr || all_equal(words, R, kAllLanes)) {
        finish<R, false>(acc, nullptr, out);
      } else {
        finish<R, true>(acc, words, out);
      }
    }
    template <int R, bool kMasked>
    HWY_INLINE void finish(V (&acc)[R][N], const std::uint64_t* words, Operand* out) const {
      const D d;
      FusedState& s = *opaque(&state);
      LONGSPAN_UNROLL
      for (int n = 0; n < N; ++n) {
        const V reference = hn::Load(d, s.reference + n * kLanes);
        const V scale = hn::Set(d, s.scale);
        V sum = hn::Load(d, s.sum + n * kLanes);
        LONGSPAN_UNROLL
        for (int first = 0; first < R; first += Dot::kValues) {
          V joined[Dot::kValues];
          LONGSPAN_UNROLL
          for (int m = 0; m < Dot::kValues; ++m) {
            const int r = first + m;
            if (r >= R) {
              joined[m] = hn::Zero(d);
              continue;
            }
            V p = exp2_of(d, hn::MulSub(acc[r][n], scale, reference), s.exp2);
            if (kMasked) p = hn::IfThenElseZero(lane_mask(D(), words[r], n), p);
            sum = hn::Add(sum, p);
            joined[m] = p;
          }
          Dot::store(Dot::join(joined), out + first / Dot::kValues * kWidth + n * kLanes);
        }
        hn::Store(sum, d, s.sum + n * kLanes);
      }
    }
  };

  // Lanes whose scores are so large that half a unit in their last place counts in the exponent:
  // there the rounding of the reference must meet the same rounding of the score, which a fused
  // multiply-subtract does not do.
  static HWY_INLINE M is_huge(V reference) {
    const D d;
    const V limit = hn::Set(d, sizeof(T) == 4 ? T(0x1p23) : T(0x1p52));
    return hn::And(hn::Gt(hn::Abs(reference), limit), hn::Ne(reference, hn::Neg(hn::Inf(d))));
  }

  // True when every lane's sum stayed in the safe range; the state's sums are then up to date.
  static HWY_INLINE bool fused(const ForwardBlock<T>& b, Scores& scores) {
    const D d;
    for (std::int64_t l = 0; l < kWidth; l += kLanes) {
      if (!hn::AllFalse(d, is_huge(hn::Load(d, b.state.reference + l)))) return false;
    }
    FusedState state{{}, b.exponent_scale, b.state.reference, kExp2Constants<T>};
    const PartsAhead ahead(b.ahead, (b.keys + kGroup - 1) / kGroup);
    for_row_groups<kGroup>(b.keys, FusedRows{b, scores, state, ahead});
    bool safe = true;
    for (std::int64_t l = 0; l < kWidth; l += kLanes) {
      safe = safe && hn::AllTrue(d, hn::Lt(hn::Load(d, state.sum + l), hn::Set(d, kSafeSum)));
    }
    if (b.bounded && forget_far_bounds(b, state)) safe = false;
    if (!safe) return false;
    for (std::int64_t l = 0; l < kWidth; l += kLanes) {
      T* total = b.state.sum + l;
      hn::Store(hn::Add(hn::Load(d, total), hn::Load(d, state.sum + l)), d, total);
    }
    return true;
  }

  // Lanes that see something for the first time, so far below the bound of their scores that little
  // of it is left, look for a reference.
  static HWY_INLINE bool forget_far_bounds(const ForwardBlock<T>& b, const FusedState& state) {
    const D d;
    std::uint64_t seen = b.visible == nullptr ? kAllLanes : 0;
    for (std::int64_t k = 0; b.visible != nullptr && k < b.keys; ++k) seen |= b.visible[k];
    bool some = false;
    for (int n = 0; n < N; ++n) {
      const V total = hn::Load(d, b.state.sum + n * kLanes);
      const V sum = hn::Load(d, state.sum + n * kLanes);
      const M far = hn::And(lane_mask(D(), seen, n), hn::And(hn::Eq(total, hn::Zero(d)),
                                                             hn::Lt(sum, hn::Set(d, kLeastSum))));
      if (hn::AllFalse(d, far)) continue;
      some = true;
      T* at = b.state.reference + n * kLanes;
      hn::Store(hn::IfThenElse(far, hn::Neg(hn::Inf(d)), hn::Load(d, at)), d, at);
    }
    return some;
  }

  // best[n] = the largest visible score of a few keys, in units of the reference; -inf where there
  // is none, NaN left out.
  static HWY_INLINE void best_of_group(const ForwardBlock<T>& b, Scores& scores, std::int64_t first,
                                       V (&best)[N]) {
    const D d;
    V acc[kGroup][N];
    score_tile<kGroup>(b, scores, first, acc);
    if (b.terms != nullptr) finish_scores<T, kGroup, N>(*b.terms, b.scale, first, 0, kWidth, acc);
    const V scale = hn::Set(d, b.exponent_scale);
    LONGSPAN_UNROLL
    for (int n = 0; n < N; ++n) {
      best[n] = hn::Neg(hn::Inf(d));
      LONGSPAN_UNROLL
      for (int r = 0; r < kGroup; ++r) {
        const V s = hn::Mul(acc[r][n], scale);
        best[n] =
            hn::IfThenElse(hn::And(visible_lanes(b, first + r, n), hn::Gt(s, best[n])), s, best[n]);
      }
    }
  }

  // A panel that has seen nothing takes its reference from the first few keys of the block: any
  // number near the scores will do, and the whole block need not be stored to find one. Lanes that
  // see none of these keys keep -inf, which sends the block to the stored path if they see a later
  // one.
  static HWY_INLINE void first_reference(const ForwardBlock<T>& b, Scores& scores) {
    if (b.keys < kGroup) return;
    V best[N];
    best_of_group(b, scores, 0, best);
    for (int n = 0; n < N; ++n) hn::Store(best[n], D(), b.state.reference + n * kLanes);
  }

  struct StoredRows {
    const ForwardBlock<T>& b;
    Scores& scores;
    template <int R>
    HWY_INLINE void run(std::int64_t first) const {
      const D d;
      V acc[R][N];
      score_tile<R>(b, scores, first, acc);
      LONGSPAN_UNROLL
      for (int r = 0; r < R; ++r) {
        LONGSPAN_UNROLL
        for (int n = 0; n < N; ++n) {
          hn::Store(acc[r][n], d, b.scores + (first + r) * kWidth + n * kLanes);
        }
      }
    }
  };

  // ALiBi: where a block comes nearer to its queries, scores rise by slope * distance from its
  // first key to its nearest one, and the reference beforehand. A gentle slope leaves the safe
  // range after a few blocks: the reference rises by 2^8 whenever the sum says that they have been.
  // A steep one leaves it within the block: the reference rises to the scores of a few near keys.
  // Scores alone, never the slope: where they do not rise (a bias, an outlier far away), it would
  // leave behind all that was summed.
  static HWY_INLINE void raise_reference(const ForwardBlock<T>& b, Scores& scores) {
    const D d;
    const ScoreTerms<T>& terms = *b.terms;
    const V zero = hn::Zero(d);
    const V step = hn::Set(d, T{8});
    const V first = hn::Set(d, terms.key_positions[0]);
    const V last = hn::Set(d, terms.key_positions[b.keys - 1]);
    const V slope = hn::Set(d, terms.alibi_slope * b.exponent_scale);
    V best[N];
    bool looked = false;
    for (int n = 0; n < N; ++n) {
      const V query = hn::Load(d, terms.query_positions + n * kLanes);
      const V nearest = hn::Max(zero, hn::Max(hn::Sub(query, last), hn::Sub(first, query)));
      const V gain = hn::Mul(slope, hn::Sub(hn::Abs(hn::Sub(query, first)), nearest));
      const V total = hn::Load(d, b.state.sum + n * kLanes);
      const V reference = hn::Load(d, b.state.reference + n * kLanes);
      const M steep = hn::Gt(gain, step);
      const M full = hn::And(hn::Gt(gain, zero), hn::Gt(total, hn::Set(d, T{16})));
      V raised = hn::IfThenElse(full, hn::Add(reference, step), reference);
      if (b.keys >= kGroup && !hn::AllFalse(d, steep)) {
        if (!looked) best_of_group(b, scores, nearest_group(b), best);
        looked = true;
        raised = hn::IfThenElse(steep, hn::Max(reference, best[n]), raised);
      }
      if (!hn::AllTrue(d, hn::Eq(raised, reference))) move_reference(b, n, raised, zero);
    }
  }

  // The group of keys nearest to the panel of those before it, or the block's last or first.
  static HWY_INLINE std::int64_t nearest_group(const ForwardBlock<T>& b) {
    const T before = b.terms->query_positions[0] - b.terms->key_positions[0] + T{1};
    const T groups = before / static_cast<T>(kGroup);
    const std::int64_t last = b.keys / kGroup - 1;
    if (!(groups < static_cast<T>(last + 1))) return last * kGroup;
    return groups < 1 ? 0 : (static_cast<std::int64_t>(groups) - 1) * kGroup;
  }

  // The state of some lanes merged with a part of no numerator yet: its reference and its sum.
  static HWY_INLINE void move_reference(const ForwardBlock<T>& b, int n, V part_reference,
                                        V part_sum) {
    const D d;
    V reference = hn::Load(d, b.state.reference + n * kLanes);
    V total = hn::Load(d, b.state.sum + n * kLanes);
    const V old = reference;
    const auto weights = Rule::merge(reference, total, part_reference, part_sum);
    hn::Store(reference, d, b.state.reference + n * kLanes);
    hn::Store(total, d, b.state.sum + n * kLanes);
    if (hn::AllTrue(d, hn::Eq(reference, old))) return;
    for (std::int64_t i = 0; i < b.head_dim_v; ++i) {
      T* at = b.state.numerator + i * kWidth + n * kLanes;
      hn::Store(hn::Mul(hn::Load(d, at), weights.into), d, at);
    }
  }

  // scores[key][lane] = the dot products, or with terms the finished scores in natural units.
  static HWY_INLINE void store_scores(const ForwardBlock<T>& b, Scores& scores) {
    for_row_groups<kGroup>(b.keys, StoredRows{b, scores});
    if (b.terms != nullptr) {
      finish_stored_scores<T>(*b.terms, b.scale, b.keys, kWidth, b.scores);
    }
  }

  static HWY_INLINE M visible_lanes(const ForwardBlock<T>& b, std::int64_t key, int n) {
    return lane_mask(D(), b.visible == nullptr ? kAllLanes : b.visible[key], n);
  }

  // probabilities and their sum for one vector of lanes, relative to `reference`.
  static HWY_INLINE V exponentiate(const ForwardBlock<T>& b, int n, V scale, V reference) {
    const D d;
    const M huge = is_huge(reference);
    V sum = hn::Zero(d);
    for (std::int64_t first = 0; first < b.keys; first += Dot::kValues) {
      V joined[Dot::kValues];
      LONGSPAN_UNROLL
      for (int m = 0; m < Dot::kValues; ++m) {
        const std::int64_t k = first + m;
        joined[m] = hn::Zero(d);
        if (k >= b.keys) continue;
        const V s = hn::Load(d, b.scores + k * kWidth + n * kLanes);
        const V exponent = hn::IfThenElse(huge, hn::Sub(hn::Mul(s, scale), reference),
                                          hn::MulSub(s, scale, reference));
        joined[m] = hn::IfThenElseZero(visible_lanes(b, k, n), exp2_of(d, exponent));
        sum = hn::Add(sum, joined[m]);
      }
      Dot::store(Dot::join(joined), probability_row(b, first) + n * kLanes);
    }
    return sum;
  }

  static HWY_INLINE V visible_maximum(const ForwardBlock<T>& b, int n, V scale) {
    const D d;
    const V lowest = hn::Neg(hn::Inf(d));
    V best = lowest;
    for (std::int64_t k = 0; k < b.keys; ++k) {
      const V s = hn::Mul(hn::Load(d, b.scores + k * kWidth + n * kLanes), scale);
      best = hn::Max(best, hn::IfThenElse(visible_lanes(b, k, n), s, lowest));
    }
    return best;
  }

  // From stored scores to probabilities: lanes whose sum would leave the safe range move their
  // reference to the block's maximum, by the merge rule, the block being a part with that
  // reference.
  static HWY_INLINE void finish_stored(const ForwardBlock<T>& b) {
    const D d;
    const V zero = hn::Zero(d);
    const V lowest = hn::Neg(hn::Inf(d));
    const V scale = hn::Set(d, b.exponent_scale);
    for (int n = 0; n < N; ++n) {
      const V old = hn::Load(d, b.state.reference + n * kLanes);
      const V best = visible_maximum(b, n, scale);
      M moves = b.exact_reference ? hn::Gt(best, old) : hn::Eq(old, lowest);
      for (;;) {
        const V moved = hn::IfThenElse(moves, hn::Max(best, old), old);
        // -inf as reference means nothing was seen; 0 stands in for it so that -inf - -inf does not
        // arise.
        const V usable = hn::IfThenElse(hn::Eq(moved, lowest), zero, moved);
        const V sum = exponentiate(b, n, scale, usable);
        const M unsafe = hn::AndNot(moves, hn::Not(hn::Lt(sum, hn::Set(d, kSafeSum))));
        if (!hn::AllFalse(d, unsafe)) {
          moves = hn::Or(moves, unsafe);
          continue;
        }
        // A lane that stayed has moved == old: its weights are exactly 1.
        move_reference(b, n, moved, sum);
        break;
      }
    }
  }

  // The sum is taken: what is dropped has only its value to lose. A mask between exponential and
  // store would be a hundredth of the time faster, and one more copy of every score tile.
  static HWY_INLINE void drop(const ForwardBlock<T>& b) {
    for (std::int64_t first = 0; first < b.keys; first += Dot::kValues) {
      LONGSPAN_UNROLL
      for (int n = 0; n < N; ++n) {
        M kept[Dot::kValues];
        for (int m = 0; m < Dot::kValues; ++m) {
          kept[m] = lane_mask(D(), first + m < b.keys ? b.kept[first + m] : 0, n);
        }
        Operand* at = probability_row(b, first) + n * kLanes;
        Dot::store(Dot::keep(Dot::load(at), kept), at);
      }
    }
  }

  struct ValueRows {
    const ForwardBlock<T>& b;
    Products<Dot, N>& values;
    template <int R>
    HWY_INLINE void run(std::int64_t first) const {
      const D d;
      V acc[R][N];
      if (b.skip_hidden_values) {
        multiply<Clean::kA>(first, acc);
      } else {
        multiply<Clean::kNothing>(first, acc);
      }
      // The block's sum starts at 0 and is added once: at 65536 keys the error is 7 times smaller.
      LONGSPAN_UNROLL
      for (int r = 0; r < R; ++r) {
        LONGSPAN_UNROLL
        for (int n = 0; n < N; ++n) {
          T* at = b.state.numerator + (first + r) * kWidth + n * kLanes;
          hn::Store(hn::Add(hn::Load(d, at), acc[r][n]), d, at);
        }
      }
    }
    template <Clean kClean, int R>
    HWY_INLINE void multiply(std::int64_t first, V (&acc)[R][N]) const {
      values.template multiply<Dot::kComponents, kClean>(
          component<Dot>(b.value, b.first_key, first), b.value.stride, first, operands<Dot>(b.keys),
          probability_row(b, 0), kWidth, acc);
    }
  };

  static HWY_INLINE void add_values(const ForwardBlock<T>& b, State& instructions) {
    if constexpr (Dot::kDepth > Dot::kValues) {  // sums run on to a whole step
      const std::int64_t end = base::round_up(b.keys, Dot::kDepth) / Dot::kValues * kWidth;
      for (std::int64_t i = operands<Dot>(b.keys) * kWidth; i < end; ++i) {
        probability_row(b, 0)[i] = 0;
      }
    }
    Products<Dot, N> values(instructions);
    for_row_groups<kGroup>(b.head_dim_v, ValueRows{b, values});
    if (b.skip_hidden_values) {
      add_components_not_finite<Dot>(b.value, b.first_key, b.keys, b.head_dim_v, b.visible,
                                     probability_row(b, 0), kWidth, b.state.numerator);
    }
  }
};

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
