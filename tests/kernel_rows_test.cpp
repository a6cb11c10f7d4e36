// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Every kernel that runs here between rows of tensors and its operands: what it packs and writes,
// number by number, for every type, any size, any strides.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "base/visit_dtype.h"
#include "engine/rows.h"
#include "kernel_testing.h"
#include "kernels/kernel_table.h"
#include "support/tensor.h"

namespace longspan::kernel {
namespace {

using engine::kDTypeOf;
using test::Random;

constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16};
constexpr double kSpecial[] = {0.0, -0.0, kInf, -kInf, kNan, 0x1p-130, 0x1p-16, 65504.0, 1e30};

// Rows of any type with anything between and around them.
struct Rows {
  Rows(DType type, std::int64_t rows, std::int64_t dim, std::int64_t gap, std::int64_t dim_gap,
       Random& random)
      : dtype(type), dim_stride(1 + dim_gap), row_stride(dim * dim_stride + gap) {
    bytes = spoilt((rows * row_stride + 1) * std::int64_t{8});
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < dim; ++c) {
        set(r, c, random.chance(0.1) ? kSpecial[random.between(0, 8)] : random.normal());
      }
    }
  }
  void set(std::int64_t r, std::int64_t c, double x) {
    base::visit_floating(dtype, [&](auto tag) {
      using E = decltype(tag);
      reinterpret_cast<E*>(bytes.data())[r * row_stride + c * dim_stride] = base::from_float<E>(x);
    });
  }
  double get(std::int64_t r, std::int64_t c) const {
    return base::load_double(bytes.data(), dtype, r * row_stride + c * dim_stride);
  }
  base::RowSource source() const { return {bytes.data(), dtype, row_stride, dim_stride}; }
  base::RowTarget target() { return {bytes.data(), dtype, row_stride, dim_stride}; }

  DType dtype;
  std::int64_t dim_stride, row_stride;
  Lines<std::byte> bytes;
};

bool same(double a, double b) {
  return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
}

// Types that a table packs: a narrow one its own, the others all.
template <class T>
bool packs(const KernelTable<T>& table, DType dtype) {
  return table.format.dtype != DType::kBFloat16 || dtype == DType::kBFloat16;
}

// test(rows, count, dim): sizes around the squares that are transposed at once.
template <class T, class Test>
void for_each_shape(const KernelTable<T>& table, int vectors, const Test& test) {
  const std::int64_t width = std::int64_t{table.lanes} * vectors;
  Random random(20);
  for (const DType dtype : kDTypes) {
    for (const std::int64_t count : {std::int64_t{1}, width / 2 + 1, width - 1, width}) {
      if (count > width || count < 1) continue;
      for (const std::int64_t dim : {1, 2, 15, 16, 33, 64}) {
        for (const std::int64_t dim_gap : {0, 0, 2}) {
          SCOPED_TRACE(testing::Message() << name_of(dtype) << ", " << count << " rows of " << dim
                                          << ", " << dim_gap << " apart");
          test(Rows(dtype, 3 + count, dim, random.between(0, 5), dim_gap, random), count, dim);
        }
      }
    }
  }
}

TEST(KernelRows, QueriesBecomeLanes) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    if (!table.format.reads_rows) return;  // operands of more than one number: through products
    const std::int64_t width = std::int64_t{table.lanes} * vectors;
    for_each_shape(table, vectors, [&](const Rows& rows, std::int64_t count, std::int64_t dim) {
      Lines<T> panel(at(dim * width), std::numeric_limits<T>::quiet_NaN());
      table.pack_query(rows.source(), 3, count, dim, width, panel.data());
      for (std::int64_t d = 0; d < dim; ++d) {
        for (std::int64_t lane = 0; lane < width; ++lane) {
          const double truth = lane < count ? rows.get(3 + lane, d) : 0;
          ASSERT_TRUE(same(panel[at(d * width + lane)], static_cast<T>(truth))) << truth;
        }
      }
    });
  });
}

TEST(KernelRows, KeysAndValuesAreCopied) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    if (!table.format.reads_rows) return;
    for_each_shape(table, vectors, [&](const Rows& rows, std::int64_t count, std::int64_t dim) {
      const auto none = std::numeric_limits<T>::quiet_NaN();
      Lines<T> keys(at(dim * count), none);
      ASSERT_EQ(table.pack_keys(rows.source(), 3, count, dim, keys.data()).stride, dim);
      const std::int64_t group = table.format.row_multiple;
      Lines<T> values(at(table.format.rows(dim) * count), none);
      const OperandRows packed = table.pack_values(rows.source(), 3, count, dim, values.data());
      ASSERT_EQ(packed.stride, group);
      ASSERT_EQ(packed.group, group * count);
      for (std::int64_t n = 0; n < count; ++n) {
        for (std::int64_t d = 0; d < dim; ++d) {
          const T truth = static_cast<T>(rows.get(3 + n, d));
          ASSERT_TRUE(same(keys[at(n * dim + d)], truth));
          ASSERT_TRUE(same(values[at((d / group * count + n) * group + d % group)], truth));
        }
      }
    });
  });
}

TEST(KernelRows, ABiasOfMinusInfExcludes) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    const std::int64_t width = std::int64_t{table.lanes} * vectors;
    for_each_shape(table, vectors, [&](const Rows& rows, std::int64_t count, std::int64_t keys) {
      Lines<T> tile(at(keys * width), std::numeric_limits<T>::quiet_NaN());
      std::vector<std::uint64_t> words(at(keys), ~std::uint64_t{0});
      const bool excludes =
          table.load_bias(rows.source(), 3, count, keys, width, tile.data(), words.data());
      bool any = false;
      for (std::int64_t k = 0; k < keys; ++k) {
        for (std::int64_t lane = 0; lane < width; ++lane) {
          const double truth = lane < count ? rows.get(3 + lane, k) : 0;
          const bool excluded = static_cast<T>(truth) == -std::numeric_limits<T>::infinity();
          any = any || excluded;
          ASSERT_EQ((words[at(k)] >> lane & 1) == 0, excluded);
          ASSERT_TRUE(same(tile[at(k * width + lane)], excluded ? T{0} : static_cast<T>(truth)));
        }
      }
      ASSERT_EQ(excludes, any);
    });
  });
}

TEST(KernelRows, ResultsAreScaledAndRoundedOnce) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    const std::int64_t width = std::int64_t{table.lanes} * vectors;
    Random random(21);
    for_each_shape(table, vectors, [&](Rows rows, std::int64_t count, std::int64_t dim) {
      const Rows before = rows;
      Lines<T> panel(at(dim * width)), factors(at(width));
      for (T& x : panel) {
        x = static_cast<T>(random.chance(0.1)
                               ? kSpecial[random.between(0, 8)]
                               : random.normal() * std::exp2(random.between(-20, 20)));
      }
      for (T& x : factors) x = static_cast<T>(1 + random.between(0, 3));
      table.write_rows(rows.target(), 1, count, dim, width, panel.data(), factors.data());
      for (std::int64_t d = 0; d < dim; ++d) {
        ASSERT_TRUE(same(rows.get(0, d), before.get(0, d))) << "the row before";
        ASSERT_TRUE(same(rows.get(1 + count, d), before.get(1 + count, d))) << "the row behind";
        for (std::int64_t lane = 0; lane < count; ++lane) {
          const T truth = panel[at(d * width + lane)] * factors[at(lane)];
          const double rounded = test::rounded_to(rows.dtype, static_cast<double>(truth));
          ASSERT_TRUE(same(rows.get(1 + lane, d), rounded)) << truth;
        }
      }
    });
  });
}

// Rows by an index list, all ways of packing: the same bytes as from rows that stand in that order.
TEST(KernelRows, AnIndexNamesRows) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    const std::int64_t width = std::int64_t{table.lanes} * vectors;
    Random random(23);
    for_each_shape(table, vectors, [&](const Rows& rows, std::int64_t count, std::int64_t dim) {
      if (!packs(table, rows.dtype)) return;
      std::vector<std::int32_t> index(at(3 + count));
      for (std::int32_t& n : index) n = static_cast<std::int32_t>(random.between(0, count + 2));
      Rows ordered = rows;
      for (std::int64_t r = 0; r < 3 + count; ++r) {
        for (std::int64_t c = 0; c < dim; ++c) ordered.set(r, c, rows.get(index[at(r)], c));
      }
      base::RowSource by_index = rows.source();
      by_index.index = index.data();
      const std::int64_t rows_of_values = table.format.rows(dim);
      const auto packed = [&](const base::RowSource& source, int way) {
        const std::int64_t deep = table.format.depth(std::max(dim, count));
        Lines<std::byte> out(
            at((std::max(width, table.format.rows(count)) + rows_of_values + 64) * (deep + 64) * 8),
            std::byte{0});
        if (way == 0) table.pack_query(source, 3, count, dim, width, out.data());
        if (way == 1) table.pack_keys(source, 3, count, dim, out.data());
        if (way == 2) table.pack_values(source, 3, count, dim, out.data());
        if (way == 3) table.pack_padded(source, 3, count, dim, count + 1, dim + 3, out.data());
        return out;
      };
      for (const int way : {0, 1, 2, 3}) {
        ASSERT_TRUE(packed(by_index, way) == packed(ordered.source(), way)) << way;
      }
    });
  });
}

// 0 ... count - 1 in any order.
std::vector<std::int32_t> shuffled(std::int64_t count, Random& random) {
  std::vector<std::int32_t> index;
  for (std::int64_t n = 0; n < count; ++n) index.push_back(static_cast<std::int32_t>(n));
  for (std::int64_t n = count - 1; n > 0; --n)
    std::swap(index[at(n)], index[at(random.between(0, n))]);
  return index;
}

// keep * what is there + panel * factor, in rows named by an index; without `keep` NaN is
// forgotten.
TEST(KernelRows, PanelsAreAddedToIndexedRows) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    const std::int64_t width = std::int64_t{table.lanes} * vectors;
    Random random(24);
    for (const std::int64_t count : {std::int64_t{1}, width - 1, width}) {
      if (count < 1) continue;
      for (const std::int64_t dim : {1, 15, 33, 64}) {
        for (const std::int64_t dim_stride : {1, 2}) {
          const std::int64_t stride = dim * dim_stride + 5, all = count + 7;
          Lines<T> rows(at(all * stride)), panel(at(dim * width)), factors(at(width)),
              keep(at(width));
          for (Lines<T>* array : {&rows, &panel, &factors, &keep}) {
            for (T& x : *array) x = static_cast<T>(random.normal());
          }
          const std::vector<std::int32_t> index = shuffled(all, random);
          for (const bool replaces : {false, true}) {
            Lines<T> found = rows;
            if (replaces) {
              for (std::int64_t lane = 0; lane < count; ++lane) {
                found[at(index[at(2 + lane)] * stride)] = std::numeric_limits<T>::quiet_NaN();
              }
            }
            Lines<T> truth = found;
            const base::RowTarget target{found.data(), kDTypeOf<T>, stride, dim_stride,
                                         index.data()};
            table.add_panel(target, 2, count, dim, width, panel.data(), factors.data(),
                            replaces ? nullptr : keep.data());
            for (std::int64_t lane = 0; lane < count; ++lane) {
              for (std::int64_t d = 0; d < dim; ++d) {
                T& x = truth[at(index[at(2 + lane)] * stride + d * dim_stride)];
                const T part = panel[at(d * width + lane)] * factors[at(lane)];
                x = replaces ? part : keep[at(lane)] * x + part;
              }
            }
            for (std::size_t n = 0; n < truth.size(); ++n) {
              ASSERT_NEAR(found[n], truth[n], 1e-6 * (1 + std::fabs(truth[n]))) << n;
            }
          }
        }
      }
    }
  });
}

TEST(KernelRows, IndexedRowsAreScaledAndRoundedOnce) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    Random random(25);
    for_each_shape(table, vectors, [&](const Rows& rows, std::int64_t count, std::int64_t dim) {
      if (rows.dim_stride != 1) return;
      const std::vector<std::int32_t> index = shuffled(3 + count, random);
      base::RowSource source = rows.source();
      source.index = index.data();
      Lines<T> factors(at(count));
      for (T& x : factors) x = static_cast<T>(random.normal());
      for (const DType dtype : {kDTypeOf<T>, table.format.dtype}) {
        Rows found(dtype, 1 + count, dim, 3, 0, random);
        const Rows before = found;
        table.scale_rows(source, found.target(), count, dim, factors.data());
        for (std::int64_t d = 0; d < dim; ++d) {
          ASSERT_TRUE(same(found.get(count, d), before.get(count, d))) << "the row behind";
          for (std::int64_t n = 0; n < count; ++n) {
            const T truth = static_cast<T>(rows.get(index[at(n)], d)) * factors[at(n)];
            const double rounded = test::rounded_to(dtype, static_cast<double>(truth));
            ASSERT_TRUE(same(found.get(n, d), rounded)) << truth;
          }
        }
      }
    });
  });
}

// Rows lose what they have of another's direction (where the share is 0 nothing, whatever stands
// there), and are added to others.
TEST(KernelRows, IndexedRowsTakeAndGive) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    const double step = std::numeric_limits<T>::epsilon();
    Random random(26);
    for_each_shape(table, vectors, [&](Rows rows, std::int64_t count, std::int64_t dim) {
      if (rows.dim_stride != 1) return;
      const std::vector<std::int32_t> index = shuffled(3 + count, random);
      const std::int64_t untouched = random.between(0, count - 1), stride = dim + 3;
      Lines<T> factors(at(count)), parts(at(count * stride));
      for (Lines<T>* array : {&factors, &parts}) {
        for (T& x : *array) x = static_cast<T>(random.normal());
      }
      for (std::int64_t r = 0; r < 3 + count; ++r) {
        for (std::int64_t d = 0; d < dim; ++d) {
          rows.set(r, d, r == index[at(untouched)] ? kNan : random.normal());
        }
      }
      factors[at(untouched)] = 0;
      base::RowSource source = rows.source();
      source.index = index.data();
      Lines<T> taken = parts;
      table.take_along(source, count, dim, factors.data(), taken.data(), stride);
      for (std::int64_t n = 0; n < count; ++n) {
        double along = 0, size = 0;
        for (std::int64_t d = 0; d < dim; ++d) {
          const double term = rows.get(index[at(n)], d) * double{parts[at(n * stride + d)]};
          along += term;
          size += std::fabs(term);
        }
        for (std::int64_t d = 0; d < stride; ++d) {
          const T was = parts[at(n * stride + d)], is = taken[at(n * stride + d)];
          if (d >= dim || n == untouched) {
            ASSERT_EQ(is, was);
            continue;
          }
          const double direction = double{factors[at(n)]} * rows.get(index[at(n)], d);
          ASSERT_NEAR(is, double{was} - along * direction,
                      8 * step * (std::fabs(double{was}) + size * std::fabs(direction)));
        }
      }

      if (rows.dtype != kDTypeOf<T>) return;
      const Rows before = rows;
      base::RowTarget target = rows.target();
      target.index = index.data();
      table.add_rows(target, count, dim, parts.data(), stride, factors.data());
      for (std::int64_t n = 0; n < 3 + count; ++n) {
        for (std::int64_t d = 0; d < dim; ++d) {
          const double was = before.get(index[at(n)], d), is = rows.get(index[at(n)], d);
          if (n >= count || n == untouched) {
            ASSERT_TRUE(same(is, was));  // behind the others, and a row of NaN
            continue;
          }
          const double part = double{factors[at(n)]} * double{parts[at(n * stride + d)]};
          ASSERT_NEAR(is, was + part, 2 * step * (std::fabs(was) + std::fabs(part)));
        }
      }
    });
  });
}

// A part of packed keys is as good as keys packed alone, bit for bit.
TEST(KernelRows, PartsOfPackedKeys) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    Random random(22);
    const OperandFormat& format = table.format;
    for (const std::int64_t first : {32, 64, 96}) {
      Panel<T> panel(table, vectors, 33, 17, random);
      Panel<T> other = panel;
      const KeyBlock<T> all(panel, 111, random, {.gap = 3});
      Lines<std::byte> key = spoilt(format.rows_bytes(all.keys, 33));
      Lines<std::byte> value = spoilt(format.rows_bytes(17, all.keys));
      const Stored<T> keys(table, all.key.data(), all.key.size());
      const Stored<T> values(table, all.value.data(), all.value.size());
      const base::RowSource key_rows = keys.rows(all.key_stride, 1);
      const base::RowSource value_rows = values.rows(all.value_stride, 1);
      KeyBlock<T> part = all;
      part.keys -= first;
      panel.meet(part, table.pack_keys(key_rows, 0, all.keys, 33, key.data()),
                 table.pack_values(value_rows, 0, all.keys, 17, value.data()), first);
      Lines<std::byte> part_key = spoilt(format.rows_bytes(part.keys, 33));
      Lines<std::byte> part_value = spoilt(format.rows_bytes(17, part.keys));
      other.meet(part, table.pack_keys(key_rows, first, part.keys, 33, part_key.data()),
                 table.pack_values(value_rows, first, part.keys, 17, part_value.data()));
      ASSERT_TRUE(panel.same_state(other)) << first;
    }
  });
}

}  // namespace
}  // namespace longspan::kernel
