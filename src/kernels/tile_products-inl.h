// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Products of pairs on tile registers: C[16][lanes] += A[16][16 words] * B[16 words][lanes]. A tile
// of C leaves through memory, where the epilogues take their rows from: so all that is written over
// products (product-inl.h) runs on tiles, too.
//   tiles: N of C + 1 of A + N of B <= 8. A step of N tile products loads N + 1 tiles.
#if defined(LONGSPAN_KERNELS_TILE_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_TILE_PRODUCTS_INL_H_
#undef LONGSPAN_KERNELS_TILE_PRODUCTS_INL_H_
#else
#define LONGSPAN_KERNELS_TILE_PRODUCTS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <utility>

#include "kernels/product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr int kTileRows = 16;   // of A and C
inline constexpr int kTileDepth = 16;  // words: columns of A, rows of B

// Numbers of tiles: those of C stand before that of A, those of B behind it.
inline constexpr int kTileOfA = kMaxVectors;
static_assert(2 * kMaxVectors + 1 <= 8);

// Pairs that are multiplied on `Tiles`: rows of A are row-major and padded to whole tiles, and so
// is the depth.
//   Tiles          the registers, ready for use from construction to destruction
//   clear<t>()     load<t>(rows, stride), store<t>(rows, stride): 16 rows, strides in bytes
//   multiply_add<c, a, b>()
template <class Pairs, class Tiles>
struct TileDot : Pairs {
  using State = Tiles;
  static constexpr int kDepth = kTileDepth * Pairs::kValues;
  static constexpr int kRowMultiple = kTileRows;
  static constexpr Layout kComponents = Layout::kRowMajor;
};

template <class Dot>
concept OnTiles = Dot::kRowMultiple == kTileRows&& Dot::kComponents == Layout::kRowMajor;

template <OnTiles Dot, int N>
class Products<Dot, N> {
  using Operand = typename Dot::Operand;
  using D = typename Dot::D;
  static constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));
  static constexpr std::int64_t kWidth = N * kLanes;
  static constexpr int kA = kTileOfA;

 public:
  explicit Products(typename Dot::State& tiles) : tiles_(tiles) {}

  template <Layout kLayout, Clean kClean = Clean::kNothing, int R>
  HWY_INLINE void multiply(const Operand* a, std::int64_t stride, std::int64_t row,
                           std::int64_t depth, const Operand* b, std::int64_t b_stride,
                           hn::Vec<D> (&c)[R][N]) {
    static_assert(kLayout == Layout::kRowMajor);
    const std::int64_t within = row % kTileRows;
    if (row - within != held_) {
      fill<kClean>(a - within * stride, stride, depth, b, b_stride);
      held_ = row - within;
    }
    LONGSPAN_UNROLL
    for (int r = 0; r < R; ++r) {
      LONGSPAN_UNROLL
      for (int n = 0; n < N; ++n) {
        c[r][n] = hn::Load(D(), c_ + (within + r) * kWidth + n * kLanes);
      }
    }
  }

 private:
  // body(n) with n = 0 .. N - 1 as constants: instructions name their tiles.
  template <class Body>
  static HWY_INLINE void for_each_vector(const Body& body) {
    [&]<int... n>(std::integer_sequence<int, n...>) HWY_ATTR {
      (body(std::integral_constant<int, n>()), ...);
    }
    (std::make_integer_sequence<int, N>());
  }

  template <Clean kClean>
  HWY_NOINLINE void fill(const Operand* a, std::int64_t stride, std::int64_t depth,
                         const Operand* b, std::int64_t b_stride) {
    constexpr auto kWord = static_cast<std::int64_t>(sizeof(Operand));
    for_each_vector([&](auto n) HWY_ATTR { tiles_.template clear<n>(); });
    for (std::int64_t k = 0; k < depth; k += kTileDepth) {
      if constexpr (kClean == Clean::kA) {
        clean(a + k, stride, kTileDepth);
        tiles_.template load<kA>(cleaned_, kTileDepth * kWord);
      } else {
        tiles_.template load<kA>(a + k, stride * kWord);
      }
      for_each_vector([&](auto n) HWY_ATTR {
        const Operand* rows = b + k * b_stride + n * kLanes;
        if constexpr (kClean == Clean::kB) {
          clean(rows, b_stride, kLanes);
          tiles_.template load<kA + 1 + n>(cleaned_, kLanes * kWord);
        } else {
          tiles_.template load<kA + 1 + n>(rows, b_stride * kWord);
        }
        tiles_.template multiply_add<n, kA, kA + 1 + n>();
      });
    }
    for_each_vector([&](auto n)
                        HWY_ATTR { tiles_.template store<n>(c_ + n * kLanes, kWidth * kWord); });
  }

  HWY_NOINLINE void clean(const Operand* from, std::int64_t stride, std::int64_t columns) {
    for (std::int64_t r = 0; r < kTileRows; ++r) {
      for (std::int64_t i = 0; i < columns; i += kLanes) {
        Dot::store(Dot::finite(Dot::load(from + r * stride + i)), cleaned_ + r * columns + i);
      }
    }
  }

  typename Dot::State& tiles_;
  std::int64_t held_ = -1;  // row of C that stands first in c_
  alignas(64) float c_[kTileRows * kWidth];
  alignas(64) Operand cleaned_[kTileRows * kTileDepth];
};

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
