// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Between rows of tensors and the operands of a kernel whose operands are plain numbers of T:
// panels of queries and tiles of bias (transposed), key and value rows (copied, widened), results
// (scaled, transposed back, narrowed).
#if defined(LONGSPAN_KERNELS_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_ROWS_INL_H_
#undef LONGSPAN_KERNELS_ROWS_INL_H_
#else
#define LONGSPAN_KERNELS_ROWS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "base/round.h"
#include "base/rows.h"
#include "base/visit_dtype.h"
#include "kernels/elements-inl.h"
#include "kernels/kernel_table.h"
#include "kernels/rows_ahead.h"
#include "kernels/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Where rows first, first + 1, ... of a RowSource or a RowTarget begin.
template <class E>
struct Places {
  E* data;
  std::int64_t stride;
  const std::int32_t* index;

  template <class Rows>
  HWY_INLINE Places(const Rows& rows, std::int64_t first)
      : data(static_cast<E*>(rows.data) + (rows.index == nullptr ? first * rows.row_stride : 0)),
        stride(rows.row_stride),
        index(rows.index == nullptr ? nullptr : rows.index + first) {}
  HWY_INLINE E* operator[](std::int64_t r) const {
    return data + (index == nullptr ? r : index[r]) * stride;
  }
};

// Rows of E, read as T.
template <class T, class E>
struct SourceRows {
  Places<const E> places;
  std::int64_t bytes;  // of a row

  struct Row {
    const E* data;
    HWY_INLINE auto load(std::int64_t c) const { return Elements<T, E>::load(data + c); }
    HWY_INLINE T number(std::int64_t c) const { return static_cast<T>(base::to_float(data[c])); }
  };
  HWY_INLINE Row row(std::int64_t r) const { return {places[r]}; }
  HWY_INLINE void ahead(std::int64_t r) const { fetch_lines<Cache::kFirst>(places[r], bytes); }
};

// Rows of E, written from T.
template <class T, class E>
struct TargetRows {
  Places<E> places;
  std::int64_t bytes;  // of a row

  HWY_INLINE TargetRows(const base::RowTarget& target, std::int64_t first, std::int64_t dim)
      : places(target, first), bytes(dim * std::int64_t{sizeof(E)}) {}
  HWY_INLINE void store(hn::Vec<hn::ScalableTag<T>> v, std::int64_t r, std::int64_t c) const {
    Elements<T, E>::store(v, places[r] + c);
  }
  HWY_INLINE void set(T x, std::int64_t r, std::int64_t c) const {
    places[r][c] = base::from_float<E>(x);
  }
  HWY_INLINE void ahead(std::int64_t r) const { fetch_lines<Cache::kFirst>(places[r], bytes); }
};

// A panel [row][lane] whose lanes are multiplied by factors.
template <class T>
struct ScaledPanel {
  const T* data;
  std::int64_t width;
  const T* factors;
  struct Row {
    const T* data;
    const T* factors;
    HWY_INLINE auto load(std::int64_t lane) const {
      const hn::ScalableTag<T> d;
      return hn::Mul(hn::Load(d, data + lane), hn::LoadU(d, factors + lane));
    }
    HWY_INLINE T number(std::int64_t lane) const { return data[lane] * factors[lane]; }
  };
  HWY_INLINE Row row(std::int64_t r) const { return {data + r * width, factors}; }
  HWY_INLINE void ahead(std::int64_t) const {}
};

// Rows of T that keep a part of what they hold, or nothing, whatever it is.
template <class T>
struct SumRows {
  Places<T> places;
  const T* keep;  // by row; null: nothing
  HWY_INLINE void store(hn::Vec<hn::ScalableTag<T>> v, std::int64_t r, std::int64_t c) const {
    const hn::ScalableTag<T> d;
    T* at = places[r] + c;
    if (keep != nullptr) v = hn::Add(hn::Mul(hn::Set(d, keep[r]), hn::LoadU(d, at)), v);
    hn::StoreU(v, d, at);
  }
  HWY_INLINE void set(T x, std::int64_t r, std::int64_t c) const {
    T& at = places[r][c];
    at = keep == nullptr ? x : keep[r] * at + x;
  }
};

// body(rows) with the source's rows from the first wanted one on, `dim` numbers of each.
template <class T, class Body>
HWY_INLINE void visit_rows(const base::RowSource& source, std::int64_t first, std::int64_t dim,
                           const Body& body) {
  base::visit_floating(source.dtype, [&](auto tag) HWY_ATTR {
    using E = decltype(tag);
    body(SourceRows<T, E>{{source, first}, dim * std::int64_t{sizeof(E)}});
  });
}

// Rows first .. first + count become columns of the target; columns past them up to width are 0.
template <class T, class Target>
HWY_INLINE void load_columns(const base::RowSource& source, std::int64_t first, std::int64_t count,
                             std::int64_t dim, std::int64_t width, const Target& target) {
  visit_rows<T>(source, first, dim, [&]<class E>(const SourceRows<T, E>& from) HWY_ATTR {
    if constexpr (Elements<T, E>::kVectors) {
      if (source.dim_stride == 1) return transpose_between<T>(from, count, dim, target);
    }
    for (std::int64_t d = 0; d < dim; ++d) {
      for (std::int64_t lane = 0; lane < count; ++lane) {
        target.set(from.row(lane).number(d * source.dim_stride), d, lane);
      }
    }
  });
  if (count == width) return;
  for (std::int64_t d = 0; d < dim; ++d) {
    std::fill(target.data + d * width + count, target.data + (d + 1) * width, T{0});
  }
}

template <class T>
void load_panel(const base::RowSource& source, std::int64_t first, std::int64_t count,
                std::int64_t dim, std::int64_t width, void* panel) {
  load_columns<T>(source, first, count, dim, width, PlainRows<T>{static_cast<T*>(panel), width});
}

// out[i] = component begin + i of row n, i < count.
template <class T, class E>
HWY_INLINE void widen(const SourceRows<T, E>& from, std::int64_t n, std::int64_t begin,
                      std::int64_t count, std::int64_t dim_stride, T* out) {
  constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(hn::ScalableTag<T>()));
  const auto row = from.row(n);
  std::int64_t c = 0;
  if constexpr (Elements<T, E>::kVectors) {
    if (dim_stride == 1) {
      for (; c + kLanes <= count; c += kLanes) {
        hn::StoreU(row.load(begin + c), hn::ScalableTag<T>(), out + c);
      }
    }
  }
  for (; c < count; ++c) out[c] = row.number((begin + c) * dim_stride);
}

inline constexpr std::int64_t kAhead = 8;  // rows

// body(n) for n < count; row n of `rows` has been fetched by then.
template <class Rows, class Body>
HWY_INLINE void for_fetched(const Rows& rows, std::int64_t count, const Body& body) {
  for (std::int64_t n = 0; n < std::min(kAhead, count); ++n) rows.ahead(n);
  for (std::int64_t n = 0; n < count; ++n) {
    if (n + kAhead < count) rows.ahead(n + kAhead);
    body(n);
  }
}

template <class T>
void load_padded(const base::RowSource& source, std::int64_t first, std::int64_t count,
                 std::int64_t dim, std::int64_t rows, std::int64_t stride, void* padded) {
  T* out = static_cast<T*>(padded);
  visit_rows<T>(source, first, dim, [&]<class E>(const SourceRows<T, E>& from) HWY_ATTR {
    for_fetched(from, count, [&](std::int64_t n) HWY_ATTR {
      widen(from, n, 0, dim, source.dim_stride, out + n * stride);
      std::fill(out + n * stride + dim, out + (n + 1) * stride, T{0});
    });
  });
  std::fill(out + count * stride, out + rows * stride, T{0});
}

template <class T>
OperandRows load_keys(const base::RowSource& source, std::int64_t first, std::int64_t count,
                      std::int64_t dim, void* rows) {
  load_padded<T>(source, first, count, dim, count, dim, rows);
  return {rows, dim, 0};
}

// Values are read kRows components of all keys at a time, which therefore stand together: rows of
// head_dim_v would be touched at a stride of 256 bytes, in a quarter of the sets of the first level
// cache. Keys are taken as many at a time as fill a line of a group, so that it is written whole.
template <class T>
OperandRows load_values(const base::RowSource& source, std::int64_t first, std::int64_t count,
                        std::int64_t dim, void* rows) {
  constexpr std::int64_t kTogether = 64 / (kRows * std::int64_t{sizeof(T)});
  constexpr std::int64_t kChunk = std::int64_t{16} * kRows;
  const std::int64_t group = count * kRows;
  T* out = static_cast<T*>(rows);
  visit_rows<T>(source, first, dim, [&]<class E>(const SourceRows<T, E>& from) HWY_ATTR {
    alignas(64) T widened[kTogether][kChunk] = {};
    for (std::int64_t n = 0; n < count; n += kTogether) {
      const std::int64_t keys = std::min(kTogether, count - n);
      for (std::int64_t r = n + kAhead; r < std::min(n + kAhead + kTogether, count); ++r) {
        if (source.dim_stride == 1) from.ahead(r);
      }
      for (std::int64_t begin = 0; begin < dim; begin += kChunk) {
        const std::int64_t width = std::min(kChunk, dim - begin);
        const T* row[kTogether];
        for (std::int64_t r = 0; r < keys; ++r) {
          if constexpr (std::is_same_v<T, E>) {
            if (source.dim_stride == 1 && width % kRows == 0) {
              row[r] = from.places[n + r] + begin;
              continue;
            }
          }
          widen(from, n + r, begin, width, source.dim_stride, widened[r]);
          std::fill(widened[r] + width, widened[r] + base::round_up(width, kRows), T{0});
          row[r] = widened[r];
        }
        for (std::int64_t c = 0; c < width; c += kRows) {
          T* to = out + (begin + c) / kRows * group + n * kRows;
          for (std::int64_t r = 0; r < keys; ++r) {
            std::memcpy(to + r * kRows, row[r] + c, kRows * sizeof(T));
          }
        }
      }
    }
  });
  return {rows, kRows, group};
}

// A tile of bias that notices -inf as it is written: mostly there is none.
template <class T>
struct BiasTile : PlainRows<T> {
  using D = hn::ScalableTag<T>;
  hn::Mask<D>* excludes;
  HWY_INLINE void store(hn::Vec<D> v, std::int64_t r, std::int64_t c) const {
    PlainRows<T>::store(v, r, c);
    *excludes = hn::Or(*excludes, hn::Eq(v, hn::Neg(hn::Inf(D()))));
  }
  HWY_INLINE void set(T x, std::int64_t r, std::int64_t c) const {
    PlainRows<T>::set(x, r, c);
    *excludes = hn::Or(*excludes, hn::Eq(hn::Set(D(), x), hn::Neg(hn::Inf(D()))));
  }
};

template <class T>
bool load_bias(const base::RowSource& source, std::int64_t first, std::int64_t count,
               std::int64_t keys, std::int64_t width, T* tile, std::uint64_t* words) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto some = hn::Ne(hn::Zero(d), hn::Zero(d));
  load_columns<T>(source, first, count, keys, width, BiasTile<T>{{tile, width}, &some});
  if (hn::AllFalse(d, some)) return false;
  for (std::int64_t k = 0; k < keys; ++k) {
    for (std::int64_t l = 0; l < width; l += lanes) {
      T* at = tile + k * width + l;
      const auto bias = hn::Load(d, at);
      const auto excluded = hn::Eq(bias, hn::Neg(hn::Inf(d)));
      if (hn::AllFalse(d, excluded)) continue;
      std::uint64_t bits = 0;
      hn::StoreMaskBits(d, excluded, reinterpret_cast<std::uint8_t*>(&bits));
      words[k] &= ~(bits << l);
      hn::Store(hn::IfThenZeroElse(excluded, bias), d, at);
    }
  }
  return true;
}

template <class T>
void write_rows(const base::RowTarget& target, std::int64_t first, std::int64_t count,
                std::int64_t dim, std::int64_t width, const T* panel, const T* factors) {
  const ScaledPanel<T> from{panel, width, factors};
  base::visit_floating(target.dtype, [&](auto tag) HWY_ATTR {
    using E = decltype(tag);
    const TargetRows<T, E> to(target, first, dim);
    if constexpr (Elements<T, E>::kVectors) {
      if (target.dim_stride == 1) return transpose_between<T>(from, dim, count, to);
    }
    for (std::int64_t lane = 0; lane < count; ++lane) {
      for (std::int64_t d = 0; d < dim; ++d) {
        to.set(from.row(d).number(lane), lane, d * target.dim_stride);
      }
    }
  });
}

template <class T>
void add_panel(const base::RowTarget& target, std::int64_t first, std::int64_t count,
               std::int64_t dim, std::int64_t width, const T* panel, const T* factors,
               const T* keep) {
  const ScaledPanel<T> from{panel, width, factors};
  const SumRows<T> to{{target, first}, keep};
  if (target.dim_stride == 1) return transpose_between<T>(from, dim, count, to);
  for (std::int64_t lane = 0; lane < count; ++lane) {
    for (std::int64_t d = 0; d < dim; ++d) {
      to.set(from.row(d).number(lane), lane, d * target.dim_stride);
    }
  }
}

template <class T>
void store_rows(const base::RowTarget& target, std::int64_t first, std::int64_t count,
                std::int64_t dim, const T* rows, std::int64_t stride, T factor) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  base::visit_floating(target.dtype, [&](auto tag) HWY_ATTR {
    using E = decltype(tag);
    const TargetRows<T, E> to(target, first, dim);
    for_fetched(to, count, [&](std::int64_t n) HWY_ATTR {
      const T* row = rows + n * stride;
      std::int64_t c = 0;
      if constexpr (Elements<T, E>::kVectors) {
        if (target.dim_stride == 1) {
          for (; c + lanes <= dim; c += lanes) {
            to.store(hn::Mul(hn::LoadU(d, row + c), hn::Set(d, factor)), n, c);
          }
        }
      }
      for (; c < dim; ++c) to.set(row[c] * factor, n, c * target.dim_stride);
    });
  });
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
