// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Few rows meet one block of keys. The arithmetic is small beside the reading of keys and values,
// so both streams are fetched ahead, a row with each key that is worked on, and every number is
// widened where it is read. A few keys at a time:
//   dots     sums along head_dim stay apart by lanes; those of `kLanes` keys are then added across
//            at once and make one vector of scores, a lane a key;
//   weights  one exponential for each such vector, relative to an old reference as in
//            forward_block-inl.h: a row moves it only when its sum leaves the safe range;
//   values   numerator[row] += weight * value, in registers over the keys.
// A row meets the same operations in the same order whatever rows stand beside it.
#if defined(LONGSPAN_KERNELS_DECODE_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_DECODE_BLOCK_INL_H_
#undef LONGSPAN_KERNELS_DECODE_BLOCK_INL_H_
#else
#define LONGSPAN_KERNELS_DECODE_BLOCK_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/float16.h"
#include "base/visit_dtype.h"
#include "kernels/decode_block.h"
#include "kernels/elements-inl.h"
#include "kernels/exp2-inl.h"
#include "kernels/lanes-inl.h"
#include "kernels/product-inl.h"
#include "kernels/score_terms-inl.h"
#include "kernels/sums_across-inl.h"
#include "kernels/vector_rule-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <int R, int N, class V>
HWY_INLINE void clear_tile(V (&acc)[R][N]) {
  LONGSPAN_UNROLL
  for (int r = 0; r < R; ++r) {
    LONGSPAN_UNROLL
    for (int n = 0; n < N; ++n) acc[r][n] = hn::Zero(hn::DFromV<V>());
  }
}

// Stays in a register until it was used for the last time. A compiler that reads it again at each
// use has the two loads of a cycle as its limit, not the multiplications.
template <class V>
HWY_INLINE V in_register(V v) {
#if HWY_ARCH_X86
  asm("" : "+x"(v.raw));
#endif
  return v;
}

// body.operator()<size>(first) over 0 .. count: pieces of N, then of 2, then of 1. Of four, two
// pieces of 2 keep more sums going than 3 and 1.
template <int N, class Body>
HWY_INLINE void in_pieces(std::int64_t count, const Body& body) {
  std::int64_t n = 0;
  for (; n + N <= count && (N != 3 || n + 4 != count); n += N) body.template operator()<N>(n);
  if constexpr (N > 2) {
    for (; n + 2 <= count; n += 2) body.template operator()<2>(n);
  }
  for (; n < count; ++n) body.template operator()<1>(n);
}

// Walks over memory that is read next: a line with each line that is worked on.
class Fetcher {
 public:
  explicit Fetcher(const FetchAhead& ahead)
      : at_(ahead.data),
        end_(ahead.end),
        stride_(ahead.stride),
        gap_(ahead.stride - ahead.bytes),
        lines_(ahead.lines) {}
  // To the second level cache.
  HWY_INLINE void fetch_line() {
    if (lines_ <= 0) return;
    --lines_;
    __builtin_prefetch(at_, /*rw=*/0, /*locality=*/2);
    at_ += kLine;
    if (at_ < end_) return;
    at_ = end_ + gap_;
    end_ += stride_;
  }

 private:
  static constexpr std::int64_t kLine = 64;
  const char* at_;
  const char* end_;
  std::int64_t stride_;
  std::int64_t gap_;
  std::int64_t lines_;
};

// Rows of keys or of values.
template <class T, class E>
class Stream {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  static constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));

 public:
  static constexpr bool kVectors = Elements<T, E>::kVectors;
  static constexpr std::int64_t kLine = 64 / std::int64_t{sizeof(E)};  // numbers of a cache line

  Stream(const base::RowSource& source, std::int64_t first, std::int64_t dim)
      : data_(static_cast<const E*>(source.data) + first * source.row_stride),
        stride_(source.row_stride),
        dim_(dim) {}

  HWY_INLINE V whole(std::int64_t n, std::int64_t c) const {
    return Elements<T, E>::load(data_ + n * stride_ + c);
  }
  // Zeros past the end of the row.
  HWY_INLINE V part(std::int64_t n, std::int64_t c) const {
    alignas(64) T numbers[kLanes] = {};
    const E* from = data_ + n * stride_ + c;
    const std::int64_t count = std::min(kLanes, dim_ - c);
    for (std::int64_t i = 0; i < count; ++i) numbers[i] = static_cast<T>(base::to_float(from[i]));
    return hn::Load(D(), numbers);
  }
  HWY_INLINE T number(std::int64_t n, std::int64_t c) const {
    return static_cast<T>(base::to_float(data_[n * stride_ + c]));
  }

 private:
  const E* data_;
  std::int64_t stride_;
  std::int64_t dim_;
};

template <class T, class E>
class Decode {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  using Rule = VectorRule<D>;
  static constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));
  static constexpr std::int64_t kStep = 16;  // keys: of the two streams, in turn
  static constexpr int kRowGroup = 4;        // rows that share what is read
  // Beside so many rows: with the sums, and one number more, they fill 16 registers.
  static constexpr int kVectors[kRowGroup + 1] = {0, 8, 4, 3, 3};
  static constexpr T kSafeSum = T{4096};  // as in forward_block-inl.h
  static_assert(kStep % kLanes == 0 && kDecodeKeys % kStep == 0);

 public:
  explicit Decode(const DecodeBlock<T>& block)
      : b_(block),
        key_(block.key, block.first_key, block.head_dim),
        value_(block.value, block.first_key, block.head_dim_v),
        next_key_(block.key_ahead),
        next_value_(block.value_ahead) {}

  HWY_INLINE void run() {
    for (std::int64_t first = 0; first < b_.keys; first += kStep) {
      const std::int64_t keys = std::min(kStep, b_.keys - first);
      for_row_groups([&]<int R>(std::int64_t row) HWY_ATTR {
        for (std::int64_t k = 0; k < keys; k += kLanes) {
          dots<R>(row, first + k, std::min(kLanes, keys - k), scores_[row] + k);
        }
      });
      for (std::int64_t row = 0; row < b_.rows; ++row) weigh(row, first, keys);
      for_row_groups([&]<int R>(std::int64_t row) HWY_ATTR {
        b_.skip_hidden_values ? add_values<R, true>(row, first, keys)
                              : add_values<R, false>(row, first, keys);
      });
      if (b_.skip_hidden_values) add_values_not_finite(first, keys);
    }
  }

 private:
  // body.operator()<R>(row) for groups of kRowGroup rows and once for the rest.
  template <class Body>
  HWY_INLINE void for_row_groups(const Body& body) const {
    std::int64_t row = 0;
    for (; row + kRowGroup <= b_.rows; row += kRowGroup) body.template operator()<kRowGroup>(row);
    static_assert(kRowGroup == 4);
    switch (b_.rows - row) {
      case 3:
        return body.template operator()<3>(row);
      case 2:
        return body.template operator()<2>(row);
      case 1:
        return body.template operator()<1>(row);
    }
  }

  // Dot products of R rows with `keys` <= kLanes keys.
  template <int R>
  HWY_INLINE void dots(std::int64_t row, std::int64_t first, std::int64_t keys, T* scores) {
    constexpr auto kMost = static_cast<int>(std::min<std::int64_t>(kVectors[R], kLanes));
    alignas(64) T sums[R][kLanes * kLanes];  // [row][key][lane]
    in_pieces<kMost>(keys,
                     [&]<int K>(std::int64_t k) HWY_ATTR { dots_of<R, K>(row, first, k, sums); });
    for (std::int64_t k = keys; k < kLanes; ++k) {
      for (int r = 0; r < R; ++r) hn::Store(hn::Zero(D()), D(), sums[r] + k * kLanes);
    }
    for (int r = 0; r < R; ++r) {
      hn::Store(sums_across<kLanes>(D(), sums[r]), D(), scores + r * kStep);
    }
  }

  template <int R, int K>
  HWY_INLINE void dots_of(std::int64_t row, std::int64_t first, std::int64_t k,
                          T (&sums)[R][kLanes * kLanes]) {
    const D d;
    V acc[R][K];
    clear_tile(acc);
    const Stream<T, E> keys = key_;
    const T* query = b_.query + row * b_.stride;
    const std::int64_t stride = b_.stride;
    const std::int64_t key = first + k;
    const auto add = [&](std::int64_t c, const auto& load) HWY_ATTR {
      V numbers[K];
      LONGSPAN_UNROLL
      for (int n = 0; n < K; ++n) numbers[n] = load(key + n, c);
      LONGSPAN_UNROLL
      for (int r = 0; r < R; ++r) {
        const V factor = in_register(hn::Load(d, query + r * stride + c));
        LONGSPAN_UNROLL
        for (int n = 0; n < K; ++n) acc[r][n] = hn::MulAdd(factor, numbers[n], acc[r][n]);
      }
    };
    const auto whole = [&](std::int64_t n, std::int64_t at) HWY_ATTR { return keys.whole(n, at); };
    const auto part = [&](std::int64_t n, std::int64_t at) HWY_ATTR { return keys.part(n, at); };
    const auto fetch = [&]() HWY_ATTR {
      if (row > 0) return;
      LONGSPAN_UNROLL
      for (int n = 0; n < K; ++n) next_key_.fetch_line();
    };
    constexpr std::int64_t kLine = Stream<T, E>::kLine;
    const std::int64_t dim = b_.head_dim;
    std::int64_t c = 0;
    if constexpr (Stream<T, E>::kVectors) {
      for (; c + kLine <= dim; c += kLine) {
        fetch();
        LONGSPAN_UNROLL
        for (std::int64_t i = 0; i < kLine; i += kLanes) add(c + i, whole);
      }
      if (c < dim) fetch();
      for (; c + kLanes <= dim; c += kLanes) add(c, whole);
    }
    for (; c < dim; c += kLanes) add(c, part);
    LONGSPAN_UNROLL
    for (int r = 0; r < R; ++r) {
      LONGSPAN_UNROLL
      for (int n = 0; n < K; ++n) hn::Store(acc[r][n], d, sums[r] + (k + n) * kLanes);
    }
  }

  // Scores become weights relative to the row's reference, 0 where the row does not see the key.
  HWY_INLINE void weigh(std::int64_t row, std::int64_t first, std::int64_t keys) {
    const D d;
    T* scores = scores_[row];
    if (b_.terms != nullptr) {
      for (std::int64_t k = 0; k < keys; k += kLanes) {
        V score[1][1] = {{hn::Load(d, scores + k)}};
        finish_scores<T, 1, 1>(b_.terms[row], b_.scale, 0, first + k, 0, score);
        hn::Store(score[0][0], d, scores + k);
      }
    }
    std::uint64_t seen = (std::uint64_t{1} << keys) - 1;
    if (b_.visible != nullptr) seen &= b_.visible[row] >> first;
    const V sum = exponentiate(row, keys, seen, b_.reference[row]);
    if (hn::AllTrue(d, hn::Lt(sum, hn::Set(d, kSafeSum)))) {
      b_.sum[row] += hn::GetLane(hn::SumOfLanes(d, sum));
    } else {
      move_reference(row, keys, seen);
    }
  }

  // Returns the sums of the weights, by lanes.
  HWY_INLINE V exponentiate(std::int64_t row, std::int64_t keys, std::uint64_t seen, T reference) {
    const D d;
    const V scale = hn::Set(d, b_.exponent_scale);
    const V less = hn::Set(d, reference);
    // As in forward_block-inl.h: there the score is rounded as the reference was.
    const bool huge =
        std::abs(reference) > (sizeof(T) == 4 ? T(0x1p23) : T(0x1p52)) && reference != -kInfinity;
    V sum = hn::Zero(d);
    for (std::int64_t k = 0; k < keys; k += kLanes) {
      const V score = hn::Load(d, scores_[row] + k);
      const V exponent =
          huge ? hn::Sub(hn::Mul(score, scale), less) : hn::MulSub(score, scale, less);
      const V weight = hn::IfThenElseZero(lanes_of(seen, k), exp2_of(d, exponent));
      sum = hn::Add(sum, weight);
      hn::Store(weight, d, weights_[row] + k);
    }
    return sum;
  }

  // The row's reference becomes the largest score that it sees.
  HWY_NOINLINE void move_reference(std::int64_t row, std::int64_t keys, std::uint64_t seen) {
    const D d;
    const V lowest = hn::Set(d, -kInfinity);
    V best = lowest;
    for (std::int64_t k = 0; k < keys; k += kLanes) {
      const V score = hn::Mul(hn::Load(d, scores_[row] + k), hn::Set(d, b_.exponent_scale));
      best = hn::Max(best, hn::IfThenElse(lanes_of(seen, k), score, lowest));
    }
    V reference = hn::Set(d, b_.reference[row]);
    const V moved = hn::Max(hn::MaxOfLanes(d, best), reference);
    const T part = hn::GetLane(moved);
    // -inf means nothing was seen; 0 stands in for it so that -inf - -inf does not arise.
    const V part_sum = exponentiate(row, keys, seen, part == -kInfinity ? T{0} : part);
    V sum = hn::Set(d, b_.sum[row]);
    const auto factors = Rule::merge(reference, sum, moved, hn::SumOfLanes(d, part_sum));
    b_.reference[row] = hn::GetLane(reference);
    b_.sum[row] = hn::GetLane(sum);
    T* numerator = b_.numerator + row * b_.stride_v;
    for (std::int64_t c = 0; c < b_.stride_v; c += kLanes) {
      hn::Store(hn::Mul(hn::Load(d, numerator + c), factors.into), d, numerator + c);
    }
  }

  static HWY_INLINE hn::Mask<D> lanes_of(std::uint64_t seen, std::int64_t k) {
    return lane_mask(D(), seen >> k, 0);
  }

  template <int R, bool kFinite>
  HWY_INLINE void add_values(std::int64_t row, std::int64_t first, std::int64_t keys) {
    const std::int64_t vectors = Stream<T, E>::kVectors ? b_.head_dim_v / kLanes : 0;
    in_pieces<kVectors[R]>(vectors, [&]<int N>(std::int64_t n) HWY_ATTR {
      add_values_of<R, N, kFinite>(row, first, keys, n * kLanes,
                                   [](const auto& s, std::int64_t k, std::int64_t c)
                                       HWY_ATTR { return s.whole(k, c); });
    });
    for (std::int64_t c = vectors * kLanes; c < b_.head_dim_v; c += kLanes) {
      add_values_of<R, 1, kFinite>(row, first, keys, c,
                                   [](const auto& s, std::int64_t k, std::int64_t at)
                                       HWY_ATTR { return s.part(k, at); });
    }
  }

  // N vectors of components from c on.
  template <int R, int N, bool kFinite, class Load>
  HWY_INLINE void add_values_of(std::int64_t row, std::int64_t first, std::int64_t keys,
                                std::int64_t c, const Load& load) {
    const D d;
    V acc[R][N];
    clear_tile(acc);
    const Stream<T, E> values = value_;
    const T* weights = weights_[row];
    for (std::int64_t k = 0; k < keys; ++k) {
      if (row == 0) {
        LONGSPAN_UNROLL
        for (std::int64_t i = 0; i < N * kLanes; i += Stream<T, E>::kLine) {
          next_value_.fetch_line();
        }
      }
      V value[N];
      LONGSPAN_UNROLL
      for (int n = 0; n < N; ++n) {
        value[n] = load(values, first + k, c + n * kLanes);
        if (kFinite) value[n] = hn::IfThenElseZero(hn::IsFinite(value[n]), value[n]);
      }
      LONGSPAN_UNROLL
      for (int r = 0; r < R; ++r) {
        const V weight = hn::Set(d, weights[r * kStep + k]);
        LONGSPAN_UNROLL
        for (int n = 0; n < N; ++n) acc[r][n] = hn::MulAdd(weight, value[n], acc[r][n]);
      }
    }
    LONGSPAN_UNROLL
    for (int r = 0; r < R; ++r) {
      LONGSPAN_UNROLL
      for (int n = 0; n < N; ++n) {
        T* at = b_.numerator + (row + r) * b_.stride_v + c + n * kLanes;
        hn::Store(hn::Add(hn::Load(d, at), acc[r][n]), d, at);
      }
    }
  }

  // What was left out as not finite, for the rows that see it.
  HWY_NOINLINE void add_values_not_finite(std::int64_t first, std::int64_t keys) const {
    for (std::int64_t k = first; k < first + keys; ++k) {
      for (std::int64_t c = 0; c < b_.head_dim_v; ++c) {
        const T value = value_.number(k, c);
        if (std::isfinite(value)) continue;
        for (std::int64_t row = 0; row < b_.rows; ++row) {
          if (b_.visible != nullptr && (b_.visible[row] >> k & 1) == 0) continue;
          b_.numerator[row * b_.stride_v + c] += weights_[row][k - first] * value;
        }
      }
    }
  }

  static constexpr T kInfinity = std::numeric_limits<T>::infinity();

  const DecodeBlock<T>& b_;
  const Stream<T, E> key_;
  const Stream<T, E> value_;
  Fetcher next_key_;
  Fetcher next_value_;
  alignas(64) T scores_[kDecodeRows][kStep];
  alignas(64) T weights_[kDecodeRows][kStep];
};

template <class T>
void decode_block(const DecodeBlock<T>& block) {
  base::visit_floating(block.key.dtype, [&](auto tag) HWY_ATTR {
    using E = decltype(tag);
    if constexpr (sizeof(T) == 8 ? sizeof(E) == 8 : sizeof(E) < 8) Decode<T, E>(block).run();
  });
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
