// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Every kernel that runs here: what a sequence of decode blocks leaves in the state, against a
// literal float64 computation.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/round.h"
#include "kernel_testing.h"
#include "kernels/decode_block.h"
#include "support/compare.h"

namespace longspan::kernel {
namespace {

using test::Random;
using test::Tensor;

template <class Test>
void for_each_table(const Test& test) {
  for (const Kernel& kernel : all_kernels()) {
    if (!kernel.usable()) continue;
    SCOPED_TRACE(kernel.name);
    for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
      SCOPED_TRACE(longspan::name_of(dtype));
      test(kernel.table<float>(dtype), dtype);
    }
    test(kernel.float64, DType::kFloat64);
  }
}

// Rows, the keys and values of all blocks, and the state.
template <class T>
struct Decoded {
  Decoded(const KernelTable<T>& of, DType dtype, std::int64_t row_count, std::int64_t key_count,
          std::int64_t dim, std::int64_t dim_v, Random& random)
      : table(of),
        rows(row_count),
        stride(base::round_up(dim, of.lanes)),
        stride_v(base::round_up(dim_v, of.lanes)),
        key(dtype, {key_count, dim}, test::Layout::kPaddedRow, 2),
        value(dtype, {key_count, dim_v}, test::Layout::kPaddedRow, 2),
        query(at(rows * stride), T{0}),
        reference(at(rows), -std::numeric_limits<T>::infinity()),
        sum(at(rows), T{0}),
        numerator(at(rows * stride_v), T{0}) {
    key.fill_normal(random);
    value.fill_normal(random);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t d = 0; d < dim; ++d) {
        query[at(r * stride + d)] = static_cast<T>(random.normal());
      }
    }
  }

  static base::RowSource source(const Tensor& tensor) {
    const ConstTensorView view = tensor;
    return {view.data, view.dtype, view.strides[0], view.strides[1]};
  }

  void meet(std::int64_t first, std::int64_t keys, const std::uint64_t* visible = nullptr,
            bool skip_hidden_values = false) {
    DecodeBlock<T> b;
    b.query = query.data();
    b.key = source(key);
    b.value = source(value);
    b.first_key = first;
    b.keys = keys;
    b.rows = rows;
    b.head_dim = key.shape()[1];
    b.head_dim_v = value.shape()[1];
    b.stride = stride;
    b.stride_v = stride_v;
    b.exponent_scale = static_cast<T>(kScale * std::numbers::log2e);
    b.visible = visible;
    b.skip_hidden_values = skip_hidden_values;
    b.reference = reference.data();
    b.sum = sum.data();
    b.numerator = numerator.data();
    table.decode_block(b);
  }

  // sees(row, key): which pairs were met. Infinite when the state is not finite.
  template <class Sees>
  testing::AssertionResult agrees(const Sees& sees) const {
    const std::int64_t dim = key.shape()[1], dim_v = value.shape()[1];
    std::vector<double> actual, expected;
    for (std::int64_t r = 0; r < rows; ++r) {
      double total = 0;
      std::vector<double> output(at(dim_v), 0.0);
      for (std::int64_t k = 0; k < key.shape()[0]; ++k) {
        if (!sees(r, k)) continue;
        double score = 0;
        for (std::int64_t d = 0; d < dim; ++d) {
          score += static_cast<double>(query[at(r * stride + d)]) * key.get({k, d});
        }
        const double weight = std::exp(kScale * score);
        total += weight;
        for (std::int64_t d = 0; d < dim_v; ++d) output[at(d)] += weight * value.get({k, d});
      }
      const double unit = std::exp2(static_cast<double>(reference[at(r)]));  // 0 for -inf
      actual.push_back(unit * static_cast<double>(sum[at(r)]));
      expected.push_back(total);
      for (std::int64_t d = 0; d < dim_v; ++d) {
        actual.push_back(unit * static_cast<double>(numerator[at(r * stride_v + d)]));
        expected.push_back(output[at(d)]);
      }
    }
    return test::within_rel_l2(actual, expected, sizeof(T) == 8 ? 1e-13 : 1e-5);
  }

  static constexpr double kScale = 0.2;
  const KernelTable<T>& table;
  std::int64_t rows, stride, stride_v;
  Tensor key, value;
  Lines<T> query, reference, sum, numerator;
};

TEST(KernelDecode, BlocksOfEveryAwkwardSize) {
  for_each_table([]<class T>(const KernelTable<T>& table, DType dtype) {
    Random random(1);
    for (const std::int64_t rows : {1, 2, 3, 4, 5, 7, 8, 16}) {
      for (const std::int64_t keys : {1, 7, 16, 17, 31, 63, 64}) {
        for (const auto& [dim, dim_v] : {std::pair{1, 65}, {33, 2}, {64, 64}, {130, 9}}) {
          Decoded<T> decoded(table, dtype, rows, keys + 5, dim, dim_v, random);
          decoded.meet(0, keys);
          decoded.meet(keys, 5);
          ASSERT_TRUE(decoded.agrees([](std::int64_t, std::int64_t) { return true; }))
              << rows << " rows, " << keys << " keys, dims " << dim << " and " << dim_v;
        }
      }
    }
  });
}

TEST(KernelDecode, HiddenPairsCountForNothing) {
  for_each_table([]<class T>(const KernelTable<T>& table, DType dtype) {
    Random random(2);
    for (const std::int64_t keys : {5, 16, 50, 64}) {
      Decoded<T> decoded(table, dtype, 6, keys, 24, 20, random);
      std::vector<std::uint64_t> words(6);
      for (std::uint64_t& word : words) word = random_bits(random) & random_bits(random);
      words[2] = 0;
      words[3] = ~std::uint64_t{0};
      const auto sees = [&](std::int64_t r, std::int64_t k) {
        return (words[at(r)] >> k & 1) != 0;
      };
      decoded.meet(0, keys, words.data());
      ASSERT_TRUE(decoded.agrees(sees)) << keys;
      EXPECT_EQ(decoded.sum[2], 0);
    }
  });
}

TEST(KernelDecode, HiddenValuesAreLeftOutOnRequest) {
  for_each_table([]<class T>(const KernelTable<T>& table, DType dtype) {
    Random random(3);
    Decoded<T> decoded(table, dtype, 5, 40, 16, 19, random);
    std::vector<std::uint64_t> words(5, ~(std::uint64_t{1} << 33));
    Decoded<T> clean = decoded;
    clean.meet(0, 40, words.data());
    for (std::int64_t d = 0; d < 19; ++d) decoded.value.set({33, d}, kNan);
    decoded.meet(0, 40, words.data(), /*skip_hidden_values=*/true);
    EXPECT_EQ(decoded.numerator, clean.numerator);
    EXPECT_EQ(decoded.sum, clean.sum);

    words[4] = ~std::uint64_t{0};  // sees it
    Decoded<T> seen = decoded;
    seen.reference.assign(5, -std::numeric_limits<T>::infinity());
    seen.sum.assign(5, T{0});
    seen.numerator.assign(seen.numerator.size(), T{0});
    seen.meet(0, 40, words.data(), /*skip_hidden_values=*/true);
    for (std::int64_t r = 0; r < 5; ++r) {
      EXPECT_EQ(std::isnan(seen.numerator[at(r * seen.stride_v + 7)]), r == 4);
    }
  });
}

// A row has the same bits alone and beside others, also beside rows whose reference moves.
TEST(KernelDecode, RowsDoNotMeet) {
  for_each_table([]<class T>(const KernelTable<T>& table, DType dtype) {
    Random random(4);
    Decoded<T> many(table, dtype, 7, 64, 40, 24, random);
    for (std::int64_t d = 0; d < 40; ++d) many.query[at(3 * many.stride + d)] *= T{100};
    many.meet(0, 64);
    for (std::int64_t r = 0; r < 7; ++r) {
      Random any(5);
      Decoded<T> one(table, dtype, 1, 64, 40, 24, any);
      one.key = many.key;
      one.value = many.value;
      std::copy_n(many.query.begin() + r * many.stride, many.stride, one.query.begin());
      one.meet(0, 64);
      EXPECT_EQ(one.sum[0], many.sum[at(r)]);
      for (std::int64_t d = 0; d < 24; ++d) {
        ASSERT_EQ(one.numerator[at(d)], many.numerator[at(r * many.stride_v + d)]) << r;
      }
    }
  });
}

}  // namespace
}  // namespace longspan::kernel
