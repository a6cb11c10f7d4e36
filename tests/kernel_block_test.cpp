// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Every kernel that runs here, panel by panel: what a sequence of key blocks leaves in the state
// against a literal float64 computation, the slow path, and the bits of rows beside wild ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernel_testing.h"
#include "kernels/kernel_table.h"
#include "support/tensor.h"

namespace longspan::kernel {
namespace {

using test::Random;

TEST(KernelBlock, ThereIsAKernel) {
  int panels = 0;
  for_each_panel([&]<class T>(const KernelTable<T>& table, int vectors) {
    ++panels;
    EXPECT_NE(table.forward_block[vectors - 1], nullptr);
    EXPECT_LE(vectors * table.lanes, kMaxWidth);
    EXPECT_GT(table.key_block, 0);
  });
  EXPECT_GE(panels, 2);
}

constexpr std::int64_t kKeyCounts[] = {1, 3, 7, 8, 9, 63, 127, 128};
struct Dims {
  std::int64_t head_dim, head_dim_v;
};
constexpr Dims kDims[] = {{1, 64}, {2, 1}, {5, 65}, {64, 2}, {65, 5}, {64, 64}, {65, 65}};

enum class Visible : std::uint8_t { kNoWords, kAll, kNone, kRandom, kSomeLanes, kLate };
constexpr Visible kVisible[] = {Visible::kNoWords, Visible::kAll,       Visible::kNone,
                                Visible::kRandom,  Visible::kSomeLanes, Visible::kLate};

template <class T>
void hide(KeyBlock<T>& block, Visible visible, Random& random) {
  if (visible == Visible::kNoWords) return;
  block.words.resize(static_cast<std::size_t>(block.keys));
  const std::uint64_t lanes = random_bits(random);
  std::int64_t key = 0;
  for (std::uint64_t& word : block.words) {
    word = visible == Visible::kAll         ? ~std::uint64_t{0}
           : visible == Visible::kNone      ? 0
           : visible == Visible::kSomeLanes ? lanes
           : visible == Visible::kRandom    ? random_bits(random)
           : key < 9                        ? 0  // what a reference is first taken from is hidden
                                            : random_bits(random);
    ++key;
  }
}

TEST(KernelBlock, OneBlockOfEveryAwkwardSize) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    Random random(1);
    for (const auto& [head_dim, head_dim_v] : kDims) {
      for (const std::int64_t keys : kKeyCounts) {
        for (const Visible visible : kVisible) {
          Panel<T> panel(table, vectors, head_dim, head_dim_v, random);
          KeyBlock<T> block(panel, keys, random, {.gap = random.between(0, 3)});
          hide(block, visible, random);
          panel.meet(block);
          ASSERT_TRUE(panel.agrees_with({&block, 1}))
              << keys << " keys, dims " << head_dim << " and " << head_dim_v << ", visibility "
              << static_cast<int>(visible);
        }
      }
    }
  });
}

TEST(KernelBlock, BlocksInSequence) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    for (const std::uint64_t seed : {1u, 2u, 3u, 4u, 5u, 6u}) {
      Random random(seed);
      Panel<T> panel(table, vectors, 33, 17, random);
      std::vector<KeyBlock<T>> blocks;
      for (int n = 0; n < 7; ++n) {
        // Scores in the hundreds in the middle, after and before tame ones.
        const double gain = n == 2 || n == 4 ? 100.0 * n : 1.0;
        blocks.emplace_back(panel, kKeyCounts[random.between(0, 7)], random,
                            KeyOptions{.gap = random.between(0, 2), .gain = gain});
        hide(blocks.back(), kVisible[random.between(0, 5)], random);
        panel.meet(blocks.back());
        ASSERT_TRUE(panel.agrees_with(blocks)) << "seed " << seed << ", block " << n;
      }
    }
  });
}

// The counter that shows that other tests of this file do enter the slow path.
TEST(KernelBlock, OnlyWildScoresTakeTheSlowPath) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    Random random(2);
    Panel<T> panel(table, vectors, 64, 8, random);
    std::vector<KeyBlock<T>> blocks;
    const auto slow = [&](std::int64_t keys, double gain) {
      blocks.emplace_back(panel, keys, random, KeyOptions{.gain = gain});
      return panel.meet(blocks.back());
    };
    EXPECT_FALSE(slow(128, 1)) << "fresh";
    EXPECT_FALSE(slow(128, 1));
    EXPECT_FALSE(slow(3, 1));
    EXPECT_TRUE(slow(64, 300));
    EXPECT_FALSE(slow(128, 1)) << "the reference is high enough";
    EXPECT_TRUE(slow(64, 900));
    EXPECT_TRUE(panel.agrees_with(blocks));

    panel.reset();
    EXPECT_TRUE(slow(1, 1)) << "too few keys to find a reference before the scores";
  });
}

TEST(KernelBlock, HiddenWildScoresDoNotTakeTheSlowPath) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    Random random(3);
    for (const double bad : {1e4, kInf, -kInf, kNan}) {
      Panel<T> panel(table, vectors, 16, 8, random);
      KeyBlock<T> block(panel, 64, random);
      block.words.assign(64, ~std::uint64_t{0});
      block.words[3] = block.words[40] = 0;
      KeyBlock<T> tame = block;
      for (const std::int64_t key : {3, 40}) block.fill_key(key, bad);
      EXPECT_FALSE(panel.meet(block));
      Panel<T> other = panel;
      other.reset();
      EXPECT_FALSE(other.meet(tame));
      EXPECT_TRUE(panel.same_state(other)) << bad;
    }
  });
}

TEST(KernelBlock, ABlockThatNobodySeesLeavesTheState) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    Random random(4);
    for (const bool exact : {false, true}) {
      Panel<T> panel(table, vectors, 16, 9, random);
      panel.exact_reference = exact;
      KeyBlock<T> hidden(panel, 63, random, {.gain = 500});
      hide(hidden, Visible::kNone, random);
      const Panel<T> empty = panel;
      panel.meet(hidden);
      EXPECT_TRUE(panel.same_state(empty)) << "the identity";
      panel.meet(KeyBlock<T>(panel, 63, random));
      const Panel<T> before = panel;
      panel.meet(hidden);
      EXPECT_TRUE(panel.same_state(before));
    }
  });
}

TEST(KernelBlock, ARowsBitsDoNotDependOnItsNeighbours) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    for (const double wild : {300.0, kInf, kNan}) {
      for (const bool masked : {false, true}) {
        Random random(5);
        Panel<T> tame(table, vectors, 24, 11, random);
        Panel<T> disturbed = tame;
        const std::int64_t lane = random.between(0, tame.width - 1);
        for (std::int64_t d = 0; d < 24; ++d) {
          T& x = disturbed.query[static_cast<std::size_t>(d * tame.width + lane)];
          x = static_cast<T>(static_cast<double>(x) * wild);
        }
        bool slow = false;
        for (const std::int64_t keys : {128, 9, 127}) {
          KeyBlock<T> block(tame, keys, random);
          if (masked) hide(block, Visible::kRandom, random);
          slow = disturbed.meet(block) || slow;
          tame.meet(block);
          EXPECT_FALSE(tame.same_state(disturbed));
          ASSERT_TRUE(tame.same_state(disturbed, lane)) << wild << ", " << keys << " keys";
        }
        EXPECT_TRUE(slow) << wild;
        EXPECT_EQ(std::isnan(disturbed.lse2(lane)), !std::isfinite(wild)) << wild;
      }
    }
  });
}

// Finite scores of any size are scores: where all are equal, the output is the mean of the values.
// The product and the reference must be rounded alike, or their difference, half a unit in the last
// place of the score, is itself too large for 2^x.
TEST(KernelBlock, HugeEqualScoresAverageTheValues) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    for (const double size : {1e3, 1e6, 1e9, 1e11, 1e20, 1e30}) {
      for (const std::int64_t keys : {1, 9, 128}) {
        Random random(14);
        Panel<T> panel(table, vectors, 5, 2, random);
        KeyBlock<T> block(panel, keys, random);
        std::fill(block.key.begin(), block.key.end(), T{1});
        std::fill(block.value.begin(), block.value.end(), T{3});
        for (T& x : panel.query) x = static_cast<T>(size * (1 + std::abs(random.normal())));
        panel.meet(block);
        for (std::int64_t lane = 0; lane < panel.width; ++lane) {
          ASSERT_NEAR(panel.output(lane, 1), 3, 1e-5 + 3 * probability_rounding(table))
              << size << ", " << keys << " keys";
          const double truth = panel.truth({&block, 1}, lane).maximum;
          ASSERT_NEAR(panel.lse2(lane) / truth, 1, 1e-6 + 10 / size) << size;
        }
      }
    }
  });
}

// A visible score of +inf or NaN makes its row NaN, whichever block it stands in.
TEST(KernelBlock, InfiniteAndNanScoresMakeTheirRowsNan) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    for (const double bad : {kInf, kNan}) {
      for (int where = 0; where < 3; ++where) {
        Random random(6);
        Panel<T> panel(table, vectors, 5, 3, random);
        for (T& x : panel.query) x = std::abs(x) + T{1};  // inf stays +inf in the product
        const std::uint64_t seers = random_bits(random);
        for (int n = 0; n < 3; ++n) {
          KeyBlock<T> block(panel, 63, random);
          block.words.assign(63, ~std::uint64_t{0});
          if (n == where) {
            block.words[17] = seers;
            block.fill_key(17, bad);
          }
          panel.meet(block);
        }
        for (std::int64_t lane = 0; lane < panel.width; ++lane) {
          const bool sees = (seers >> lane & 1) != 0;
          ASSERT_EQ(std::isnan(panel.lse2(lane)), sees) << bad << " in block " << where;
          for (std::int64_t d = 0; d < 3; ++d) {
            ASSERT_EQ(std::isnan(panel.output(lane, d)), sees) << bad << " in block " << where;
          }
        }
      }
    }
  });
}

TEST(KernelBlock, ExactReferenceIsTheTrueMaximum) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    Random random(7);
    Panel<T> panel(table, vectors, 5, 6, random);
    panel.exact_reference = true;
    panel.exponent_scale = T{0.25};
    for (T& x : panel.query) x = static_cast<T>(random.between(-8, 8));
    std::vector<KeyBlock<T>> blocks;
    for (const std::int64_t keys : {3, 128, 9, 64, 63}) {
      KeyBlock<T> block(panel, keys, random);
      for (T& x : block.key) x = static_cast<T>(random.between(-9, 9));  // scores without rounding
      hide(block, keys == 64 ? Visible::kSomeLanes : Visible::kRandom, random);
      blocks.push_back(block);
      panel.meet(block);
      for (std::int64_t lane = 0; lane < panel.width; ++lane) {
        ASSERT_EQ(panel.state.reference[static_cast<std::size_t>(lane)],
                  panel.truth(blocks, lane).maximum);
      }
      ASSERT_TRUE(panel.agrees_with(blocks));
    }
  });
}

TEST(KernelBlock, EqualScoresCountTheKeysExactly) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    for (const bool zero_query : {true, false}) {
      Random random(8);
      Panel<T> panel(table, vectors, 7, 2, random);
      // Scores of 0 at any scale, and scores that are no sums of rounded products.
      for (T& x : panel.query) x = zero_query ? T{0} : static_cast<T>(random.between(-5, 5));
      if (!zero_query) panel.exponent_scale = T{0.125};
      T total = 0;
      std::vector<T> row(7);
      for (T& x : row) x = static_cast<T>(random.between(-5, 5));
      for (const std::int64_t keys : {1, 8, 9, 127, 128}) {
        KeyBlock<T> block(panel, keys, random);
        for (std::int64_t k = 0; k < keys; ++k) {
          std::copy(row.begin(), row.end(), block.key.begin() + k * block.key_stride);
        }
        std::fill(block.value.begin(), block.value.end(), T{3});
        panel.meet(block);
        total += static_cast<T>(keys);
        for (const T sum : panel.state.sum) ASSERT_EQ(sum, total);
        for (const T x : panel.state.numerator) ASSERT_EQ(x, 3 * total);
      }
    }
  });
}

TEST(KernelBlock, SkippingHiddenValuesChangesNoBitOfFiniteOnes) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    Random random(9);
    for (const std::int64_t keys : kKeyCounts) {
      for (const Visible visible : kVisible) {
        Panel<T> plain(table, vectors, 9, 13, random);
        Panel<T> skipping = plain;
        skipping.skip_hidden_values = true;
        for (const double gain : {1.0, 300.0}) {
          KeyBlock<T> block(plain, keys, random, {.gap = 1, .gain = gain});
          hide(block, visible, random);
          plain.meet(block);
          skipping.meet(block);
          ASSERT_TRUE(plain.same_state(skipping)) << keys << " keys";
        }
      }
    }
  });
}

TEST(KernelBlock, SkippedHiddenValuesMayBeAnything) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    for (const double bad : {kNan, kInf, -kInf}) {
      Random random(10);
      Panel<T> clean(table, vectors, 9, 13, random);
      Panel<T> redone = clean, spoilt = clean;
      redone.skip_hidden_values = true;
      const std::uint64_t seers = random_bits(random);
      for (int n = 0; n < 3; ++n) {
        KeyBlock<T> block(clean, 63, random);
        hide(block, Visible::kRandom, random);
        if (n == 1) block.words[20] = seers;
        clean.meet(block);
        if (n == 1) block.fill_value(20, bad);
        redone.meet(block);
        spoilt.meet(block);
      }
      EXPECT_FALSE(table.all_finite(spoilt.state.numerator.data(), 13 * clean.width));
      for (std::int64_t lane = 0; lane < clean.width; ++lane) {
        if ((seers >> lane & 1) == 0) {
          ASSERT_TRUE(clean.same_lane(redone, lane)) << bad;
          ASSERT_TRUE(std::isnan(spoilt.output(lane, 4))) << "0 * inf is NaN";
        } else {
          for (std::int64_t d = 0; d < 13; ++d) ASSERT_FALSE(std::isfinite(redone.output(lane, d)));
        }
      }
    }
  });
}

TEST(KernelBlock, TermsOfTheScore) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    for (int which = 1; which < 8; ++which) {  // softcap, bias, ALiBi: alone and together
      for (const std::int64_t keys : {1, 9, 128}) {
        Random random(static_cast<std::uint64_t>(which));
        Panel<T> panel(table, vectors, 33, 10, random);
        panel.set_terms({.softcap = (which & 1) != 0 ? 2.5 : 0.0,
                         .has_bias = (which & 2) != 0,
                         .alibi_slope = (which & 4) != 0 ? 0.0625 : 0.0});
        std::vector<KeyBlock<T>> blocks;
        for (const double gain : {1.0, 40.0, 1.0}) {
          blocks.emplace_back(panel, keys, random, KeyOptions{.gap = 1, .gain = gain});
          hide(blocks.back(), gain > 1 ? Visible::kRandom : Visible::kNoWords, random);
          panel.meet(blocks.back());
          ASSERT_TRUE(panel.agrees_with(blocks)) << "terms " << which << ", " << keys << " keys";
        }
      }
    }
  });
}

}  // namespace
}  // namespace longspan::kernel
