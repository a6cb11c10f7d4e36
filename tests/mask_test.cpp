// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Every mask term drawn as a small picture, on the engine's masks and on their reference; extreme
// numbers; hulls.
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "mask/bound_mask.h"
#include "reference/mask_reference.h"
#include "support/call.h"

namespace longspan::test {
namespace {

using mask::BoundMask;
using mask::CallShape;
using mask::Coverage;
using mask::Range;
using Picture = std::vector<std::string>;  // one string a query, '#' = may see the key

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kLeast = std::numeric_limits<std::int64_t>::min();

Picture drawn(const Mask& mask, const QueryOffset& offset, const CallShape& shape,
              std::int64_t batch) {
  std::vector<std::uint64_t> words(shape.seqlen_k);
  BoundMask(mask, offset, shape)
      .fill_bits(batch, 0, {0, shape.seqlen_q}, {0, shape.seqlen_k}, words);
  Picture picture(shape.seqlen_q, std::string(shape.seqlen_k, '.'));
  for (std::int64_t i = 0; i < shape.seqlen_q; ++i) {
    for (std::int64_t j = 0; j < shape.seqlen_k; ++j) {
      if ((words[j] >> i & 1) != 0) picture[i][j] = '#';
    }
  }
  return picture;
}

Picture drawn_by_reference(const Mask& mask, const QueryOffset& offset, const CallShape& shape,
                           std::int64_t batch) {
  Picture picture(shape.seqlen_q, std::string(shape.seqlen_k, '.'));
  for (std::int64_t i = 0; i < shape.seqlen_q; ++i) {
    for (std::int64_t j = 0; j < shape.seqlen_k; ++j) {
      if (reference::may_see(mask, offset, shape.seqlen_q, shape.seqlen_k, batch, 0, i, j)) {
        picture[i][j] = '#';
      }
    }
  }
  return picture;
}

void expect_picture(const Picture& expected, const Mask& mask, const QueryOffset& offset = {},
                    std::int64_t batch = 0, std::int64_t batches = 1) {
  const CallShape shape{batches, 1, static_cast<std::int64_t>(expected.size()),
                        static_cast<std::int64_t>(expected[0].size())};
  EXPECT_EQ(drawn(mask, offset, shape, batch), expected);
  EXPECT_EQ(drawn_by_reference(mask, offset, shape, batch), expected) << "the reference";
}

Picture everything(std::size_t queries, std::size_t keys) {
  return Picture(queries, std::string(keys, '#'));
}
Picture nothing(std::size_t queries, std::size_t keys) {
  return Picture(queries, std::string(keys, '.'));
}

TEST(Mask, DefaultShowsEverything) {
  expect_picture(everything(2, 3), Mask());
  EXPECT_TRUE(BoundMask(Mask(), {}, {1, 1, 2, 3}).everything_visible());
}

TEST(Mask, Causal) {
  expect_picture({"#...",  //
                  "##..",  //
                  "###.",  //
                  "####"},
                 causal());
  expect_picture({"#....",  //
                  "##..."},
                 causal(), 0);
  expect_picture({"####.",  //
                  "#####"},
                 causal(), QueryOffset::end());
  expect_picture({".",  //
                  "#",  //
                  "#"},
                 causal(-1));
}

TEST(Mask, OwnOffsetOverridesTheCalls) {
  expect_picture({"##...",  //
                  "###.."},
                 causal(1), QueryOffset::end());
}

TEST(Mask, Window) {
  expect_picture({"##....",  //
                  "###...",  //
                  ".###..",  //
                  "..###."},
                 window(1, 1), 0);
  expect_picture({"#..",  //
                  "##.",  //
                  ".##"},
                 window(1, 0));
  expect_picture({"###",  //
                  ".##",  //
                  "..#"},
                 window(0, -1));
  expect_picture({"##.",  //
                  "###",  //
                  "###"},
                 window(-1, 1));
}

TEST(Mask, OpenWindowComparesNoPositions) { expect_picture(everything(2, 5), window(-1, -1)); }

TEST(Mask, KeyLengths) {
  const Tensor lengths = integers({3, 0});
  expect_picture({"###.", "###."}, key_lengths(lengths), {}, 0, 2);
  expect_picture(nothing(2, 4), key_lengths(lengths), {}, 1, 2);
}

TEST(Mask, KeyRange) {
  expect_picture({".##.", ".##."}, key_range(1, 3));
  expect_picture(nothing(2, 4), key_range(2, 2));
}

TEST(Mask, Prefix) {
  expect_picture({"##..",  //
                  "##..",  //
                  "###.",  //
                  "####"},
                 prefix(2));
  expect_picture({"##...",  //
                  "###.."},
                 prefix(2), 1);
}

TEST(Mask, Documents) {
  const Tensor both = integers({0, 2, 2, 5});
  expect_picture({"##....",  //
                  "##....",  //
                  "..###.",  //
                  "..###.",  //
                  "..###.",  //
                  "......"},
                 documents(both));
  expect_picture({"#.....",  //
                  "##....",  //
                  "..#...",  //
                  "..##..",  //
                  "..###.",  //
                  "......"},
                 documents(both) & causal());
}

TEST(Mask, PositionsAndOffsetsAreLocalToDocuments) {
  const Tensor queries = integers({0, 1, 3}), keys = integers({0, 3, 5}, DType::kInt64);
  const Mask packed = documents(queries, keys);
  expect_picture({"###...",  //
                  "...#..",  //
                  "...##."},
                 packed & causal(), QueryOffset::end());
  expect_picture({"#.....",  //
                  "...#..",  //
                  "...##."},
                 packed & causal(), 0);
  expect_picture({"##....",  //
                  "...##.",  //
                  "...##."},
                 packed & prefix(2), 0);
}

TEST(Mask, SharedBoundariesNeedNoOffsetWhateverFollowsThem) {
  const Tensor both = integers({0, 2});
  expect_picture({"#...",  //
                  "##..",  //
                  "...."},
                 documents(both) & causal());
}

TEST(Mask, Dense) {
  Tensor visible(DType::kBool, {2, 3});
  visible.fill_values({0, 1, 1, 1, 0, 0});
  expect_picture({".##",  //
                  "#.."},
                 dense(visible));
  Tensor keys(DType::kBool, {2, 1, 1, 3});
  keys.fill_values({1, 1, 1, 0, 1, 0});
  expect_picture({".#.", ".#."}, dense(keys), {}, 1, 2);
}

TEST(Mask, Predicate) {
  expect_picture(
      {"#.#.",  //
       ".#.#"},
      predicate([](auto, auto, auto query, auto key) { return (query + key) % 2 == 0; }));
}

TEST(Mask, AndHidesWhatAnyTermHides) {
  expect_picture({"......",  //
                  ".#....",  //
                  ".##...",  //
                  ".###..",  //
                  "..##..",  //
                  "...#.."},
                 causal() & window(2, -1) & key_range(1, 4));
  const Mask twice = causal() & window(1, -1);
  EXPECT_EQ((twice & twice).terms().size(), 4u);
}

// Two prefixes are a staircase with two flat steps: the AND of interval terms that needs more than
// one diagonal.
TEST(Mask, AndOfPrefixes) {
  expect_picture({"#....",  //
                  "#....",  //
                  "##...",  //
                  "###..",  //
                  "###.."},
                 prefix(1, -1) & prefix(3, -5), 0);
}

// The left edge of the window runs along the diagonal of the prefix: rows past the flat step see
// nothing.
TEST(Mask, EdgesThatTouch) {
  const Mask touching = window(0, -1, 1) & prefix(3, 0);
  expect_picture({".##.",  //
                  "..#.",  //
                  "....",  //
                  "...."},
                 touching);
  const BoundMask bound(touching, {}, {1, 1, 4, 4});
  EXPECT_TRUE(bound.visible_keys(0, {2, 4}).empty());
  EXPECT_EQ(bound.coverage(0, 0, {2, 4}, {0, 4}), Coverage::kNone);
}

TEST(Mask, AllLanesOfAWord) {
  std::vector<std::uint64_t> words(2);
  const BoundMask bound(causal(1), {}, {1, 1, 65, 65});
  bound.fill_bits(0, 0, {0, 64}, {1, 3}, words);
  EXPECT_EQ(words[0], ~std::uint64_t{0});
  EXPECT_EQ(words[1], ~std::uint64_t{1});
}

TEST(Mask, OffsetsPerBatchEntry) {
  std::vector<std::int64_t> numbers = {2, 99, -1, 99};  // every other one is an offset
  ConstTensorView offsets = tensor(numbers.data(), DType::kInt64, {2});
  offsets.strides[0] = 2;
  expect_picture({"###.", "####"}, causal(), QueryOffset::for_batch(offsets), 0, 2);
  expect_picture({"....", "#..."}, causal(), QueryOffset::for_batch(offsets), 1, 2);
}

TEST(Mask, ExtremeNumbersDoNotOverflow) {
  for (const std::int64_t n : {kMost, kMost - 1, std::int64_t{1} << 62}) {
    SCOPED_TRACE(n);
    expect_picture(everything(3, 4), causal(n));
    expect_picture(nothing(3, 4), causal(-n));
    expect_picture(everything(3, 4), window(n, n), 0);
    expect_picture(nothing(3, 4), window(0, -1, n));
    expect_picture(everything(3, 4), window(0, -1, -n));
    expect_picture(everything(3, 4), prefix(n), 0);
    expect_picture({"##..", "##..", "##.."}, prefix(2, -n));
    // Each is huge, their sum is not.
    expect_picture({"####", ".###", "..##"}, window(n, -1, n));
    expect_picture({"#...", "##..", "###."}, window(-1, n, -n));
  }
  expect_picture(nothing(3, 4), causal(kLeast));
  const Tensor packed = integers({0, 1, 3});
  expect_picture({"#..", ".##", ".##"}, documents(packed) & prefix(kMost));
  expect_picture({"#..", ".##", ".##"}, documents(packed) & causal(kMost));
  expect_picture({"....", "#...", "##.."}, window(-1, kMost, kLeast));
  expect_picture({"####", "####", ".###"}, window(kMost, kMost, kMost - 1));
}

// Nothing in a bound mask grows with the sequence.
TEST(Mask, LongSequences) {
  constexpr std::int64_t kLength = std::int64_t{1} << 40;
  const BoundMask bound(window(1000, 0), QueryOffset::end(), {1, 1, kLength, 2 * kLength});
  const Range keys = bound.visible_keys(0, {kLength - 32, kLength});
  EXPECT_EQ(keys.begin, 2 * kLength - 32 - 1000);
  EXPECT_EQ(keys.end, 2 * kLength);
  EXPECT_EQ(bound.coverage(0, 0, {0, 32}, {kLength - 32, kLength + 32}), Coverage::kPartial);
  EXPECT_EQ(bound.coverage(0, 0, {0, 32}, {kLength - 128, kLength}), Coverage::kFull);
  EXPECT_EQ(bound.coverage(0, 0, {0, 32}, {kLength + 32, kLength + 96}), Coverage::kNone);
}

TEST(Mask, MasksThatHideNothingAreSeenThrough) {
  EXPECT_TRUE(BoundMask(causal(), QueryOffset::end(), {3, 1, 1, 9}).everything_visible());
  EXPECT_FALSE(BoundMask(causal(), QueryOffset::end(), {3, 1, 2, 9}).everything_visible());
  EXPECT_TRUE(BoundMask(causal(), 0, {1, 1, 0, 9}).everything_visible());
  const Tensor lengths = integers({9, 9, 8});
  EXPECT_FALSE(BoundMask(key_lengths(lengths), {}, {3, 1, 2, 9}).everything_visible());
}

TEST(Mask, HullOfSeveralDocumentsIsTheirUnion) {
  const Tensor both = integers({0, 3, 6, 9});
  const BoundMask bound(documents(both) & causal(), {}, {1, 1, 10, 10});
  const Range keys = bound.visible_keys(0, {1, 5});
  EXPECT_EQ(keys.begin, 0);
  EXPECT_EQ(keys.end, 5);
  EXPECT_TRUE(bound.visible_keys(0, {9, 10}).empty());
}

TEST(Mask, PositionsForAlibi) {
  const BoundMask plain(Mask(), 5, {1, 1, 2, 9}, true);
  EXPECT_EQ(plain.query_position(0, 1), 6);
  EXPECT_EQ(plain.key_position(7), 7);
  const Tensor queries = integers({0, 1, 3}), keys = integers({0, 3, 5});
  const BoundMask packed(documents(queries, keys), QueryOffset::end(), {1, 1, 4, 6}, true);
  EXPECT_EQ(packed.query_position(0, 0), 2);
  EXPECT_EQ(packed.query_position(0, 2), 1);
  EXPECT_EQ(packed.key_position(2), 2);
  EXPECT_EQ(packed.key_position(4), 1);
  const BoundMask extreme(Mask(), kMost, {1, 1, 2, 9}, true);
  EXPECT_GT(extreme.query_position(0, 1), std::int64_t{1} << 60);
}

TEST(Mask, PredicateExceptionsPass) {
  const auto fails = [](auto, auto, auto, auto) -> bool {
    throw 7;  // NOLINT(bugprone-std-exception-baseclass): of any type
  };
  const BoundMask bound(predicate(fails), {}, {1, 1, 2, 2});
  std::vector<std::uint64_t> words(2);
  EXPECT_THROW(bound.fill_bits(0, 0, {0, 2}, {0, 2}, words), int);
}

}  // namespace
}  // namespace longspan::test
