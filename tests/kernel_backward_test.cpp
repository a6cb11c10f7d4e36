// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Every kernel that runs here, backward: what one tile adds to the gradients against a literal
// float64 computation, with scratch that holds NaN, and NaN behind hidden pairs.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/round.h"
#include "kernel_testing.h"
#include "kernels/backward_block.h"
#include "support/compare.h"
#include "support/tensor.h"

namespace longspan::kernel {
namespace {

using test::Random;

template <class T>
std::vector<T> normal(std::int64_t count, Random& random) {
  std::vector<T> numbers(at(count));
  for (T& x : numbers) x = static_cast<T>(random.normal());
  return numbers;
}

struct Gradients {
  std::vector<double> query, key, value;  // [lane or key][component]
};

template <class T>
struct BackwardTile {
  BackwardTile(const KernelTable<T>& kernel_table, int vectors_, std::int64_t keys_,
               std::int64_t dim, std::int64_t dim_v, Random& random)
      : table(&kernel_table),
        vectors(vectors_),
        width(std::int64_t{kernel_table.lanes} * vectors_),
        keys(keys_),
        head_dim(dim),
        head_dim_v(dim_v),
        query(normal<T>(width * dim, random)),
        doutput(normal<T>(width * dim_v, random)),
        key(normal<T>(keys * dim, random)),
        value(normal<T>(keys * dim_v, random)),
        delta(at(width)),
        lse(at(width)) {
    for (T& x : delta) x = static_cast<T>(random.normal());
    for (T& x : lse) x = static_cast<T>(3 + random.normal());
  }

  bool sees(std::int64_t k, std::int64_t lane) const {
    return words.empty() || (words[at(k)] >> lane & 1) != 0;
  }
  bool keeps(std::int64_t k, std::int64_t lane) const {
    return kept.empty() || (kept[at(k)] >> lane & 1) != 0;
  }

  Lines<std::byte> lanes_of(const std::vector<T>& rows, std::int64_t dim) const {
    Lines<std::byte> panel = spoilt(table->format.panel_bytes(dim, width));
    table->pack_query(Stored<T>(*table, rows.data(), rows.size()).rows(dim, 1), 0, width, dim,
                      width, panel.data());
    return panel;
  }
  Lines<std::byte> rows_of(const std::vector<T>& numbers, std::int64_t count, std::int64_t rows,
                           std::int64_t dim, std::int64_t stride) const {
    const Stored<T> stored(*table, numbers.data(), numbers.size());
    Lines<std::byte> packed = spoilt(table->format.panel_bytes(rows, stride));
    if (table->format.reads_rows) {
      table->pack_padded(stored.rows(dim, 1), 0, count, dim, rows, stride, packed.data());
    } else {
      table->pack_right_rows(stored.rows(dim, 1), 0, count, dim, stride, packed.data());
    }
    return packed;
  }

  // What the kernel adds to gradients of 0.
  Gradients run(bool skip_hidden = false) const {
    const OperandFormat& format = table->format;
    const std::int64_t stride = base::round_up(format.rows(head_dim), table->lanes);
    const std::int64_t stride_v = base::round_up(format.rows(head_dim_v), table->lanes);
    const std::int64_t rows = format.rows(format.depth(keys));
    const Lines<std::byte> query_lanes = lanes_of(query, head_dim);
    const Lines<std::byte> doutput_lanes = lanes_of(doutput, head_dim_v);
    const Lines<std::byte> query_rows = rows_of(query, width, width, head_dim, stride);
    const Lines<std::byte> doutput_rows = rows_of(doutput, width, width, head_dim_v, stride_v);
    Lines<std::byte> key_rows, value_rows, key_columns;
    BackwardBlock<T> b;
    if (format.reads_rows) {
      key_rows = rows_of(key, keys, rows, head_dim, stride);
      value_rows = rows_of(value, keys, rows, head_dim_v, stride_v);
      b.key = b.key_components = {key_rows.data(), stride, format.row_multiple};
      b.value = {value_rows.data(), stride_v, format.row_multiple};
    } else {
      key_rows = spoilt(format.rows_bytes(keys, head_dim));
      value_rows = spoilt(format.rows_bytes(keys, head_dim_v));
      key_columns = spoilt(format.rows_bytes(head_dim, keys));
      const Stored<T> k(*table, key.data(), key.size()), v(*table, value.data(), value.size());
      b.key = table->pack_keys(k.rows(head_dim, 1), 0, keys, head_dim, key_rows.data());
      b.value = table->pack_keys(v.rows(head_dim_v, 1), 0, keys, head_dim_v, value_rows.data());
      b.key_components =
          table->pack_values(k.rows(head_dim, 1), 0, keys, head_dim, key_columns.data());
    }
    constexpr T kNone = std::numeric_limits<T>::quiet_NaN();
    Lines<T> weights(at(rows * width), kNone);
    Lines<std::byte> operand_rows = spoilt(format.rows_bytes(rows, width));
    Lines<std::byte> operand_lanes = spoilt(format.panel_bytes(rows, width));
    Lines<T> dquery(at(format.rows(head_dim) * width)), dkey(at(rows * stride)),
        dvalue(at(rows * stride_v));
    const Lines<T> lane_lse(lse.begin(), lse.end()), lane_delta(delta.begin(), delta.end());
    b.query_lanes = query_lanes.data();
    b.doutput_lanes = doutput_lanes.data();
    b.query_rows = query_rows.data();
    b.doutput_rows = doutput_rows.data();
    b.lse = lane_lse.data();
    b.delta = lane_delta.data();
    b.keys = keys;
    b.head_dim = head_dim;
    b.head_dim_v = head_dim_v;
    b.stride = stride;
    b.stride_v = stride_v;
    b.exponent_scale = kScale;
    b.visible = words.empty() ? nullptr : words.data();
    b.kept = kept.empty() ? nullptr : kept.data();
    b.keep_scale = kKeepScale;
    b.skip_hidden = skip_hidden;
    b.weights = weights.data();
    b.operand_rows = operand_rows.data();
    b.operand_lanes = operand_lanes.data();
    if (format.reads_rows) {
      if (kept.empty()) b.operand_rows = weights.data();
      b.operand_lanes = b.operand_rows;
    }
    b.dquery_lanes = dquery.data();
    b.dkey = dkey.data();
    b.dvalue = dvalue.data();
    visited = table->backward_block[vectors - 1](b);
    Gradients sums;
    for (std::int64_t lane = 0; lane < width; ++lane) {
      for (std::int64_t c = 0; c < head_dim; ++c) {
        sums.query.push_back(static_cast<double>(dquery[at(c * width + lane)]));
      }
    }
    for (std::int64_t k = 0; k < keys; ++k) {
      for (std::int64_t c = 0; c < head_dim; ++c) {
        sums.key.push_back(static_cast<double>(dkey[at(k * stride + c)]));
      }
      for (std::int64_t c = 0; c < head_dim_v; ++c) {
        sums.value.push_back(static_cast<double>(dvalue[at(k * stride_v + c)]));
      }
    }
    return sums;
  }

  Gradients truth() const {
    const auto number = [&](const std::vector<T>& rows, std::int64_t n) {
      return operand(*table, rows[at(n)]);
    };
    const auto dot = [&](const std::vector<T>& a, std::int64_t i, const std::vector<T>& b,
                         std::int64_t j, std::int64_t dim) {
      double sum = 0;
      for (std::int64_t c = 0; c < dim; ++c) sum += number(a, i * dim + c) * number(b, j * dim + c);
      return sum;
    };
    Gradients sums{std::vector<double>(query.size()), std::vector<double>(key.size()),
                   std::vector<double>(value.size())};
    for (std::int64_t k = 0; k < keys; ++k) {
      for (std::int64_t lane = 0; lane < width; ++lane) {
        if (!sees(k, lane)) continue;
        const double p =
            std::exp2(dot(key, k, query, lane, head_dim) * static_cast<double>(kScale) -
                      static_cast<double>(lse[at(lane)]));
        const double dp = keeps(k, lane) ? dot(value, k, doutput, lane, head_dim_v) *
                                               (kept.empty() ? 1 : static_cast<double>(kKeepScale))
                                         : 0;
        const double ds = p * (dp - static_cast<double>(delta[at(lane)]));
        for (std::int64_t c = 0; c < head_dim; ++c) {
          sums.query[at(lane * head_dim + c)] += ds * number(key, k * head_dim + c);
          sums.key[at(k * head_dim + c)] += ds * number(query, lane * head_dim + c);
        }
        for (std::int64_t c = 0; c < head_dim_v && keeps(k, lane); ++c) {
          sums.value[at(k * head_dim_v + c)] += p * number(doutput, lane * head_dim_v + c);
        }
      }
    }
    return sums;
  }

  static constexpr T kScale = T{0.25};
  static constexpr T kKeepScale = T{2};
  const KernelTable<T>* table;
  int vectors;
  std::int64_t width, keys, head_dim, head_dim_v;
  std::vector<T> query, doutput, key, value, delta, lse;
  std::vector<std::uint64_t> words, kept;  // empty: all
  mutable bool visited = false;
};

template <class T>
double allowed(const KernelTable<T>& table) {
  return table.format.dtype == DType::kBFloat16 ? 1e-2 : sizeof(T) == 4 ? 1e-5 : 1e-13;
}

constexpr std::int64_t kKeyCounts[] = {1, 7, 8, 33, 120, 128};

TEST(KernelBackward, AddsTheGradientsOfATile) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    Random random(80);
    for (const std::int64_t keys : kKeyCounts) {
      for (int kind = 0; kind < 6; ++kind) {
        BackwardTile<T> tile(table, vectors, keys, keys == 33 ? 65 : 19, keys == 8 ? 64 : 5,
                             random);
        if (kind == 1) tile.words.assign(at(keys), ~std::uint64_t{0});
        if (kind >= 2) tile.words.resize(at(keys));
        for (std::int64_t k = 0; kind >= 2 && k < keys; ++k) {
          // Everywhere; in the middle, between groups that nobody sees; and nowhere.
          const bool some = kind < 4 || (kind == 4 && k >= keys / 3 && k < keys - keys / 3);
          tile.words[at(k)] = some ? random_bits(random) : 0;
        }
        if (kind == 3) {
          for (std::int64_t k = 0; k < keys; ++k) tile.kept.push_back(random_bits(random));
        }
        const Gradients sums = tile.run(), truth = tile.truth();
        const auto agree = [&](const std::vector<double>& x, const std::vector<double>& y) {
          return test::within_rel_l2(x, y, allowed(table));
        };
        ASSERT_TRUE(agree(sums.query, truth.query)) << keys << " keys, kind " << kind;
        ASSERT_TRUE(agree(sums.key, truth.key)) << keys << " keys, kind " << kind;
        ASSERT_TRUE(agree(sums.value, truth.value)) << keys << " keys, kind " << kind;
        ASSERT_TRUE(kind != 5 || !tile.visited);
      }
    }
  });
}

// One key and one query hold NaN. What sees them becomes NaN, all else keeps its bits.
TEST(KernelBackward, HiddenNanChangesNoBit) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    Random random(81);
    constexpr std::int64_t kKeys = 75, kDim = 19, kBadKey = 41;
    BackwardTile<T> clean(table, vectors, kKeys, kDim, 9, random);
    const std::int64_t bad_lane = clean.width - 1;
    for (std::int64_t k = 0; k < kKeys; ++k) clean.words.push_back(random_bits(random));
    BackwardTile<T> spoilt_tile = clean;
    for (std::int64_t c = 0; c < kDim; ++c) {
      spoilt_tile.key[at(kBadKey * kDim + c)] = std::numeric_limits<T>::quiet_NaN();
      spoilt_tile.query[at(bad_lane * kDim + c)] = std::numeric_limits<T>::infinity();
    }
    const Gradients before = clean.run(), after = spoilt_tile.run(/*skip_hidden=*/true);
    const Gradients skipped = clean.run(/*skip_hidden=*/true);
    EXPECT_EQ(before.query, skipped.query);
    EXPECT_EQ(before.key, skipped.key);
    EXPECT_EQ(before.value, skipped.value);
    for (std::int64_t lane = 0; lane < clean.width; ++lane) {
      for (std::int64_t c = 0; c < kDim; ++c) {
        const std::size_t n = at(lane * kDim + c);
        if (clean.sees(kBadKey, lane)) {
          ASSERT_TRUE(std::isnan(after.query[n])) << lane;
        } else if (lane != bad_lane) {
          ASSERT_EQ(after.query[n], before.query[n]) << lane;
        }
      }
    }
    for (std::int64_t k = 0; k < kKeys; ++k) {
      for (std::int64_t c = 0; c < kDim; ++c) {
        const std::size_t n = at(k * kDim + c);
        if (clean.sees(k, bad_lane)) {
          ASSERT_FALSE(std::isfinite(after.key[n])) << k;
        } else if (k != kBadKey) {
          ASSERT_EQ(after.key[n], before.key[n]) << k;
        }
      }
    }
  });
}

}  // namespace
}  // namespace longspan::kernel
