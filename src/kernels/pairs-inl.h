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
#include "kernels/rows-inl.h"
#include "kernels/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// What every Dot over such pairs shares (product-inl.h); it adds multiply_add and join.
struct PairOperands {
  using Real = float;
  using Operand = std::uint32_t;
  using D = hn::ScalableTag<float>;
  using DU = hn::RebindToUnsigned<D>;
  using Row = hn::Vec<DU>;
  static constexpr int kValues = 2;
  static HWY_INLINE Row load(const Operand* b) { return hn::Load(DU(), b); }
  static HWY_INLINE void store(Row row, Operand* b) { hn::Store(row, DU(), b); }
  static HWY_INLINE Row broadcast(Operand a) { return hn::Set(DU(), a); }
  static HWY_INLINE float value(Operand a, int member) {
    return std::bit_cast<float>(member == 0 ? a << 16 : a & 0xFFFF0000u);
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
  const base::BFloat16* data;
  std::int64_t row_stride;
  std::int64_t dim_stride;
  std::int64_t dim;
#if HWY_TARGET != HWY_SCALAR
  using DU = hn::ScalableTag<std::uint32_t>;
  HWY_INLINE hn::Vec<DU> load(std::int64_t r, std::int64_t c) const {
    const hn::Repartition<std::uint16_t, DU> d16;
    return hn::BitCast(DU(), hn::LoadU(d16, &data[r * row_stride + 2 * c].bits));
  }
#endif
  HWY_INLINE std::uint32_t number(std::int64_t r, std::int64_t c) const {
    const base::BFloat16* pair = data + r * row_stride + 2 * c * dim_stride;
    const std::uint32_t odd = 2 * c + 1 < dim ? pair[dim_stride].bits : 0;
    return pair->bits | odd << 16;
  }
  HWY_INLINE void ahead(std::int64_t r) const { prefetch_row(data + r * row_stride, 2 * dim); }
};

// Two rows of bfloat16 at a time, their components side by side.
struct WovenRows {
  const base::BFloat16* data;
  std::int64_t row_stride;
  std::int64_t dim_stride;
  std::int64_t rows;
  std::int64_t dim;
  using DU = hn::ScalableTag<std::uint32_t>;
  HWY_INLINE hn::Vec<DU> load(std::int64_t r, std::int64_t c) const {
    const hn::Rebind<std::uint16_t, DU> d16;
    const base::BFloat16* even = data + 2 * r * row_stride + c;
    const auto low = hn::PromoteTo(DU(), hn::LoadU(d16, &even->bits));
    if (2 * r + 1 >= rows) return low;
    const auto high = hn::PromoteTo(DU(), hn::LoadU(d16, &even[row_stride].bits));
    return hn::Or(low, hn::ShiftLeft<16>(high));
  }
  HWY_INLINE std::uint32_t number(std::int64_t r, std::int64_t c) const {
    const base::BFloat16* even = data + 2 * r * row_stride + c * dim_stride;
    const std::uint32_t odd = 2 * r + 1 < rows ? even[row_stride].bits : 0;
    return even->bits | odd << 16;
  }
  HWY_INLINE void ahead(std::int64_t r) const {
    prefetch_row(data + 2 * r * row_stride, 2 * dim);
    if (2 * r + 1 < rows) prefetch_row(data + (2 * r + 1) * row_stride, 2 * dim);
  }
};

// Packing for a kernel whose format pads sums to kDepth and rows to kRowMultiple. `Owner` makes the
// functions those of one kernel: another may be compiled for more instructions.
template <class Owner, std::int64_t kDepth, std::int64_t kRowMultiple>
struct PairPacking {
  static constexpr OperandFormat kFormat{DType::kBFloat16, kDepth, kRowMultiple, false};
  using DU = PairOperands::DU;
  static constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(DU()));

  static const base::BFloat16* row(const base::RowSource& source, std::int64_t first) {
    return static_cast<const base::BFloat16*>(source.data) + first * source.row_stride;
  }
  static std::int64_t words(std::int64_t n) { return kFormat.depth(n) / 2; }

  static void query(const base::RowSource& source, std::int64_t first, std::int64_t count,
                    std::int64_t dim, std::int64_t width, void* panel) {
    const WordRows from{row(source, first), source.row_stride, source.dim_stride, dim};
    const PlainRows<std::uint32_t> to{static_cast<std::uint32_t*>(panel), width};
    std::int64_t c = 0;
    if (source.dim_stride == 1) {
      c = dim / 2;
      transpose_between<std::uint32_t>(from, count, c, to);
    }
    for (; 2 * c < dim; ++c) {
      for (std::int64_t lane = 0; lane < count; ++lane) to.set(from.number(lane, c), c, lane);
    }
    std::fill(to.data + c * width, to.data + words(dim) * width, 0u);
    for (std::int64_t w = 0; w < c; ++w) {
      std::fill(to.data + w * width + count, to.data + (w + 1) * width, 0u);
    }
  }

  static OperandRows keys(const base::RowSource& source, std::int64_t first, std::int64_t count,
                          std::int64_t dim, void* rows) {
    const WordRows from{row(source, first), source.row_stride, source.dim_stride, dim};
    const std::int64_t stride = words(dim);
    auto* out = static_cast<std::uint32_t*>(rows);
    for (std::int64_t n = 0; n < count; ++n, out += stride) {
      if (source.dim_stride == 1 && n + kAhead < count) from.ahead(n + kAhead);
      std::int64_t c = 0;
      if (source.dim_stride == 1) {
        std::memcpy(out, from.data + n * from.row_stride, static_cast<std::size_t>(dim / 2 * 4));
        c = dim / 2;
      }
      for (; 2 * c < dim; ++c) out[c] = from.number(n, c);
      std::fill(out + c, out + stride, 0u);
    }
    std::fill(out, out + (kFormat.rows(count) - count) * stride, 0u);
    return {rows, stride, 0};
  }

  // kRowMultiple components of all keys together, word by word of keys.
  static OperandRows values(const base::RowSource& source, std::int64_t first, std::int64_t count,
                            std::int64_t dim, void* rows) {
    constexpr std::int64_t kChunk = kLanes * kRowMultiple;
    const WovenRows from{row(source, first), source.row_stride, source.dim_stride, count, dim};
    const std::int64_t group = words(count) * kRowMultiple;
    auto* out = static_cast<std::uint32_t*>(rows);
    for (std::int64_t r = 0; r < words(count); ++r) {
      const std::int64_t later = r + kAhead / 2;
      if (source.dim_stride == 1 && 2 * later < count) from.ahead(later);
      for (std::int64_t begin = 0; begin < dim; begin += kChunk) {
        alignas(64) std::uint32_t chunk[kChunk] = {};
        const std::int64_t n = std::min(kChunk, dim - begin);
        if (2 * r < count) {
          std::int64_t c = 0;
          if (source.dim_stride == 1) {
            for (; c + kLanes <= n; c += kLanes) {
              hn::Store(from.load(r, begin + c), DU(), chunk + c);
            }
          }
          for (; c < n; ++c) chunk[c] = from.number(r, begin + c);
        }
        for (std::int64_t c = 0; c < n; c += kRowMultiple) {
          std::memcpy(out + (begin + c) / kRowMultiple * group + r * kRowMultiple, chunk + c,
                      kRowMultiple * sizeof(std::uint32_t));
        }
      }
    }
    return {rows, kRowMultiple, group};
  }
};

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
