// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The bits of dropout of every kernel that runs here against the scalar definition, pair by pair.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "base/philox.h"
#include "kernel_testing.h"
#include "kernels/dropout.h"
#include "kernels/kernel_table.h"
#include "support/tensor.h"

namespace longspan::kernel {
namespace {

using test::Random;

bool is_kept(const DropoutTile& tile, std::int64_t query, std::int64_t key) {
  const auto word = [](std::int64_t index) { return static_cast<std::uint32_t>(index); };
  const base::PhiloxBlock block = base::philox(
      {word(key / 4), word(query), word(tile.head), word(tile.batch)}, base::philox_key(tile.seed));
  return block[static_cast<std::size_t>(key % 4)] >= tile.threshold;
}

template <class T>
testing::AssertionResult follows_the_definition(const KernelTable<T>& table,
                                                const DropoutTile& tile) {
  constexpr std::uint64_t kUntouched = 0xA5A5A5A5A5A5A5A5;
  std::vector<std::uint64_t> kept(static_cast<std::size_t>(tile.keys + 2), kUntouched);
  table.fill_kept(tile, kept.data() + 1);
  if (kept.front() != kUntouched || kept.back() != kUntouched) {
    return testing::AssertionFailure() << "wrote outside of its keys";
  }
  for (std::int64_t k = 0; k < tile.keys; ++k) {
    for (std::int64_t l = 0; l < 64; ++l) {
      const bool bit = (kept[static_cast<std::size_t>(k + 1)] >> l & 1) != 0;
      const bool expected =
          l < tile.queries && is_kept(tile, tile.first_query + l, tile.first_key + k);
      if (bit != expected) {
        return testing::AssertionFailure()
               << "query " << tile.first_query << " + " << l << " of " << tile.queries << ", key "
               << tile.first_key << " + " << k << " of " << tile.keys << ": " << bit;
      }
    }
  }
  return testing::AssertionSuccess();
}

TEST(KernelDropout, EveryAwkwardRange) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int) {
    for (const std::int64_t queries : {0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 48, 63, 64}) {
      for (const std::int64_t first_key : {0, 1, 2, 3, 4, 127, 4098}) {
        for (const std::int64_t keys : {0, 1, 2, 3, 4, 5, 8, 11, 32, 129}) {
          const DropoutTile tile{0x9E3779B97F4A7C15, 0x40000000, 2, 5, 977, queries,
                                 first_key,          keys};
          ASSERT_TRUE(follows_the_definition(table, tile));
        }
      }
    }
  });
}

TEST(KernelDropout, EveryWordOfTheCounterAndOfTheKey) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int) {
    Random random(21);
    const auto draw = [&] {
      return random.between(0, 0xFFFFFFFF) >> random.choose({0, 8, 16, 31});
    };
    for (int n = 0; n < 500; ++n) {
      const DropoutTile tile{random_bits(random),
                             static_cast<std::uint64_t>(random.between(1, 0x100000000)),
                             draw(),
                             draw(),
                             draw(),
                             random.between(1, 64),
                             4 * draw() + random.between(0, 3),
                             random.between(1, 9)};
      ASSERT_TRUE(follows_the_definition(table, tile)) << "number " << n;
    }
  });
}

TEST(KernelDropout, ThresholdsAtTheirEnds) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int) {
    DropoutTile tile{7, 1, 0, 0, 0, 64, 0, 64};
    // The words of two pairs themselves: such a pair is kept at its word, and not one above it.
    const base::PhiloxBlock block = base::philox({3, 5, 0, 0}, base::philox_key(tile.seed));
    for (const std::uint64_t threshold :
         {std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{0x7FFFFFFF}, std::uint64_t{0x80000000},
          std::uint64_t{0x80000001}, std::uint64_t{0xFFFFFFFF}, std::uint64_t{block[0]},
          std::uint64_t{block[0]} + 1, std::uint64_t{block[3]}, std::uint64_t{block[3]} + 1}) {
      tile.threshold = threshold;
      ASSERT_TRUE(follows_the_definition(table, tile)) << threshold;
    }
    tile.threshold = 0x100000000;
    std::vector<std::uint64_t> kept(64, ~std::uint64_t{0});
    table.fill_kept(tile, kept.data());
    EXPECT_EQ(kept, std::vector<std::uint64_t>(64, 0)) << "probability 1 drops everything";
  });
}

TEST(KernelDropout, ThresholdOfAProbability) {
  EXPECT_EQ(dropout_threshold(0), 0u);
  EXPECT_EQ(dropout_threshold(0.5), 0x80000000u);
  EXPECT_EQ(dropout_threshold(0.25), 0x40000000u);
  EXPECT_EQ(dropout_threshold(1), 0x100000000u);
  // word >= p 2^32 where that is no whole number: the next one.
  EXPECT_EQ(dropout_threshold(0x1p-33), 1u);
  EXPECT_EQ(dropout_threshold(5e-324), 1u);
  EXPECT_EQ(dropout_threshold(0x1.8p-32), 2u);
  EXPECT_EQ(dropout_threshold(0.1), 429496730u);  // of 429496729.6
  EXPECT_EQ(dropout_threshold(1 - 0x1p-53), 0x100000000u);
}

}  // namespace
}  // namespace longspan::kernel
