// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Operands that are pairs of bfloat16 in 32-bit words, the even member in the lower half: pairs
// along head_dim in queries and keys, along the keys in probabilities and values. What has no
// partner gets 0.
#if defined(LONGSPAN_KERNELS_PAIRS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_PAIRS_INL_H_
#undef LONGSPAN_KERNELS_PAIRS_INL_H_
#else
#define LONGSPAN_KERNELS_PAIRS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "base/float16.h"
#include "base/rows.h"
#include "kernels/elements-inl.h"
#include "kernels/kernel_table.h"
#include "kernels/product-inl.h"
#include "kernels/rows-inl.h"
#include "kernels/rows_ahead.h"
#include "kernels/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// What every Dot over such pairs shares (product-inl.h); it adds multiply_add and join. On tiles,
// State is the tile registers, and kDepth, kRowMultiple and kComponents are those of a tile.
struct PairOperands {
  using Real = float;
  using Operand = std::uint32_t;
  using D = hn::ScalableTag<float>;
  using DU = hn::RebindToUnsigned<D>;
  using Row = hn::Vec<DU>;
  struct State {};
  static constexpr int kValues = 2;
  static constexpr int kDepth = 2;
  static constexpr int kRowMultiple = kRows;
  static constexpr Layout kComponents = Layout::kColumnMajor;
  static HWY_INLINE Row load(const Operand* b) { return hn::Load(DU(), b); }
  static HWY_INLINE void store(Row row, Operand* b) { hn::Store(row, DU(), b); }
  static HWY_INLINE Row broadcast(Operand a) { return hn::Set(DU(), a); }
  static HWY_INLINE float value(Operand a, int member) {
    return std::bit_cast<float>(member == 0 ? a << 16 : a & 0xFFFF0000u);
  }
  static HWY_INLINE void store_values(Row row, Operand* rows, std::int64_t stride,
                                      std::int64_t lane) {
    const hn::Rebind<std::uint16_t, DU> d16;
    auto* even = reinterpret_cast<std::uint16_t*>(rows) + lane;
    auto* odd = reinterpret_cast<std::uint16_t*>(rows + stride) + lane;
    hn::StoreU(hn::TruncateTo(d16, row), d16, even);
    hn::StoreU(hn::TruncateTo(d16, hn::ShiftRight<16>(row)), d16, odd);
  }
  static HWY_INLINE Row finite(Row a) {
    const DU du;
    const auto cleared = [&](std::uint32_t half, std::uint32_t exponent) HWY_ATTR {
      const Row e = hn::Set(du, exponent);
      return hn::IfThenZeroElse(hn::Eq(hn::And(a, e), e), hn::And(a, hn::Set(du, half)));
    };
    return hn::Or(cleared(0xFFFF0000u, 0x7F800000u), cleared(0x0000FFFFu, 0x00007F80u));
  }
  static HWY_INLINE Row keep(Row row, const hn::Mask<D> (&kept)[kValues]) {
    const DU du;
    const auto half = [&](const hn::Mask<D>& mask, std::uint32_t bits) HWY_ATTR {
      return hn::IfThenElseZero(hn::RebindMask(du, mask), hn::And(row, hn::Set(du, bits)));
    };
    return hn::Or(half(kept[0], 0x0000FFFFu), half(kept[1], 0xFFFF0000u));
  }
};

// Rows of bfloat16 as words of neighbours.
struct WordRows {
  Places<const base::BFloat16> places;
  std::int64_t dim_stride;
  std::int64_t dim;
  struct Row {
    const base::BFloat16* data;
    std::int64_t dim_stride;
    std::int64_t dim;
#if HWY_TARGET != HWY_SCALAR
    using DU = hn::ScalableTag<std::uint32_t>;
    HWY_INLINE hn::Vec<DU> load(std::int64_t c) const {
      const hn::Repartition<std::uint16_t, DU> d16;
      return hn::BitCast(DU(), hn::LoadU(d16, &data[2 * c].bits));
    }
#endif
    HWY_INLINE std::uint32_t number(std::int64_t c) const {
      const base::BFloat16* pair = data + 2 * c * dim_stride;
      const std::uint32_t odd = 2 * c + 1 < dim ? pair[dim_stride].bits : 0;
      return pair->bits | odd << 16;
    }
  };
  HWY_INLINE Row row(std::int64_t r) const { return {places[r], dim_stride, dim}; }
  HWY_INLINE void ahead(std::int64_t r) const { fetch_lines<Cache::kFirst>(places[r], 2 * dim); }
};

// Two rows of bfloat16 at a time, their components side by side.
struct WovenRows {
  Places<const base::BFloat16> places;
  std::int64_t dim_stride;
  std::int64_t rows;
  std::int64_t dim;
  using DU = hn::ScalableTag<std::uint32_t>;
  struct Row {
    const base::BFloat16* even;
    const base::BFloat16* odd;  // null: zeros
    std::int64_t dim_stride;
    HWY_INLINE hn::Vec<DU> load(std::int64_t c) const {
      const hn::Rebind<std::uint16_t, DU> d16;
      const auto low = hn::PromoteTo(DU(), hn::LoadU(d16, &even[c].bits));
      if (odd == nullptr) return low;
      const auto high = hn::PromoteTo(DU(), hn::LoadU(d16, &odd[c].bits));
      return hn::Or(low, hn::ShiftLeft<16>(high));
    }
    HWY_INLINE std::uint32_t number(std::int64_t c) const {
      const std::uint32_t high = odd == nullptr ? 0 : odd[c * dim_stride].bits;
      return even[c * dim_stride].bits | high << 16;
    }
  };
  HWY_INLINE Row row(std::int64_t r) const {
    return {places[2 * r], 2 * r + 1 < rows ? places[2 * r + 1] : nullptr, dim_stride};
  }
  HWY_INLINE void ahead(std::int64_t r) const {
    fetch_lines<Cache::kFirst>(places[2 * r], 2 * dim);
    if (2 * r + 1 < rows) fetch_lines<Cache::kFirst>(places[2 * r + 1], 2 * dim);
  }
};

// Packing for a kernel over `Dot`, and its own: another may be compiled for more instructions.
template <class Dot>
struct PairPacking {
  static constexpr std::int64_t kRowMultiple = Dot::kRowMultiple;
  static constexpr OperandFormat kFormat{DType::kBFloat16, Dot::kDepth, kRowMultiple, false};
  using DU = PairOperands::DU;
  static constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(DU()));

  static std::int64_t words(std::int64_t n) { return kFormat.depth(n) / 2; }

  static void query(const base::RowSource& source, std::int64_t first, std::int64_t count,
                    std::int64_t dim, std::int64_t width, void* panel) {
    const WordRows from{{source, first}, source.dim_stride, dim};
    const PlainRows<std::uint32_t> to{static_cast<std::uint32_t*>(panel), width};
    std::int64_t c = 0;
    if (source.dim_stride == 1) {
      c = dim / 2;
      transpose_between<std::uint32_t>(from, count, c, to);
    }
    for (; 2 * c < dim; ++c) {
      for (std::int64_t lane = 0; lane < count; ++lane) to.set(from.row(lane).number(c), c, lane);
    }
    std::fill(to.data + c * width, to.data + words(dim) * width, 0u);
    for (std::int64_t w = 0; w < c; ++w) {
      std::fill(to.data + w * width + count, to.data + (w + 1) * width, 0u);
    }
  }

  static OperandRows keys(const base::RowSource& source, std::int64_t first, std::int64_t count,
                          std::int64_t dim, void* rows) {
    const WordRows from{{source, first}, source.dim_stride, dim};
    const std::int64_t stride = words(dim);
    auto* out = static_cast<std::uint32_t*>(rows);
    for_fetched(from, count, [&](std::int64_t n) HWY_ATTR {
      std::int64_t c = 0;
      if (source.dim_stride == 1) {
        std::memcpy(out, from.places[n], static_cast<std::size_t>(dim / 2 * 4));
        c = dim / 2;
      }
      for (; 2 * c < dim; ++c) out[c] = from.row(n).number(c);
      std::fill(out + c, out + stride, 0u);
      out += stride;
    });
    std::fill(out, out + (kFormat.rows(count) - count) * stride, 0u);
    return {rows, stride, 0};
  }

  // kRowMultiple components of all keys stand together: word by word of keys, or component by
  // component.
  static OperandRows values(const base::RowSource& source, std::int64_t first, std::int64_t count,
                            std::int64_t dim, void* rows) {
    const WovenRows from{{source, first}, source.dim_stride, count, dim};
    auto* out = static_cast<std::uint32_t*>(rows);
    if constexpr (Dot::kComponents == Layout::kRowMajor) {
      component_rows(from, out);
      return {rows, words(count), words(count) * kRowMultiple};
    } else {
      component_columns(from, out);
      return {rows, kRowMultiple, words(count) * kRowMultiple};
    }
  }

  // The right side of a product that sums over these rows: [words(count)][stride].
  static void right_rows(const base::RowSource& source, std::int64_t first, std::int64_t count,
                         std::int64_t dim, std::int64_t stride, void* rows) {
    const WovenRows from{{source, first}, source.dim_stride, count, dim};
    auto* out = static_cast<std::uint32_t*>(rows);
    for (std::int64_t r = 0; r < words(count); ++r) {
      woven(from, r, 0, dim, out + r * stride);
      std::fill(out + r * stride + dim, out + (r + 1) * stride, 0u);
    }
  }

  static void padded(const base::RowSource& source, std::int64_t first, std::int64_t count,
                     std::int64_t dim, std::int64_t rows, std::int64_t stride, void* out) {
    const WordRows from{{source, first}, source.dim_stride, dim};
    auto* to = static_cast<base::BFloat16*>(out);
    for_fetched(from, count, [&](std::int64_t n) HWY_ATTR {
      const base::BFloat16* row = from.places[n];
      if (source.dim_stride == 1) {
        std::memcpy(to, row, static_cast<std::size_t>(dim) * sizeof(*to));
      } else {
        for (std::int64_t c = 0; c < dim; ++c) to[c] = row[c * source.dim_stride];
      }
      std::fill(to + dim, to + stride, base::BFloat16{});
      to += stride;
    });
    std::fill(to, to + (rows - count) * stride, base::BFloat16{});
  }

  static bool all_finite(const void* numbers, std::int64_t count) {
    const auto* words = static_cast<const std::uint32_t*>(numbers);
    const auto is_finite = [](std::uint32_t word) {
      return (word & 0x7F800000u) != 0x7F800000u && (word & 0x7F80u) != 0x7F80u;
    };
    bool all = true;
    for (std::int64_t i = 0; i < count / 2; ++i) all &= is_finite(words[i]);
    return all;
  }

 private:
  // out[c] = word r of component begin + c, c < n.
  static HWY_INLINE void woven(const WovenRows& from, std::int64_t r, std::int64_t begin,
                               std::int64_t n, std::uint32_t* out) {
    if (2 * r >= from.rows) {
      std::fill(out, out + n, 0u);
      return;
    }
    const WovenRows::Row row = from.row(r);
    std::int64_t c = 0;
    if (from.dim_stride == 1) {
      for (; c + kLanes <= n; c += kLanes) hn::StoreU(row.load(begin + c), DU(), out + c);
    }
    for (; c < n; ++c) out[c] = row.number(begin + c);
  }

  static HWY_INLINE void component_columns(const WovenRows& from, std::uint32_t* out) {
    constexpr std::int64_t kChunk = kLanes * kRowMultiple;
    const std::int64_t group = words(from.rows) * kRowMultiple;
    for (std::int64_t r = 0; r < words(from.rows); ++r) {
      const std::int64_t later = r + kAhead / 2;
      if (from.dim_stride == 1 && 2 * later < from.rows) from.ahead(later);
      for (std::int64_t begin = 0; begin < from.dim; begin += kChunk) {
        alignas(64) std::uint32_t chunk[kChunk] = {};
        const std::int64_t n = std::min(kChunk, from.dim - begin);
        woven(from, r, begin, n, chunk);
        for (std::int64_t c = 0; c < n; c += kRowMultiple) {
          std::memcpy(out + (begin + c) / kRowMultiple * group + r * kRowMultiple, chunk + c,
                      kRowMultiple * sizeof(std::uint32_t));
        }
      }
    }
  }

  static HWY_INLINE void component_rows(const WovenRows& from, std::uint32_t* out) {
    const std::int64_t stride = words(from.rows);
    const std::int64_t used = (from.rows + 1) / 2;
    const PlainRows<std::uint32_t> to{out, stride};
    if (from.dim_stride == 1) {
      transpose_between<std::uint32_t>(from, used, from.dim, to);
    } else {
      for (std::int64_t c = 0; c < from.dim; ++c) {
        for (std::int64_t r = 0; r < used; ++r) to.set(from.row(r).number(c), c, r);
      }
    }
    for (std::int64_t c = 0; c < from.dim; ++c) {
      std::fill(out + c * stride + used, out + (c + 1) * stride, 0u);
    }
    std::fill(out + from.dim * stride, out + kFormat.rows(from.dim) * stride, 0u);
  }
};

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
