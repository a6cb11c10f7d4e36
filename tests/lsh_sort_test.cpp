// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Sorting by bucket and its inverse, over awkward sizes; the lab's numbers.
#include <gtest/gtest.h>

#include <numeric>

#include "longspan/lsh_attention.h"
#include "reference/attention_reference.h"
#include "reference/lsh_reference.h"
#include "support/call.h"
#include "support/golden.h"
#include "support/tensor.h"

namespace longspan::test {
namespace {

std::vector<std::int64_t> integers_of(const Tensor& tensor) {
  std::vector<std::int64_t> integers;
  for (const double x : tensor.values()) integers.push_back(static_cast<std::int64_t>(x));
  return integers;
}

// Buckets of any number, among them more than there are positions and past 32 bits.
struct BucketKind {
  const char* name;
  std::int64_t most;  // largest bucket
  DType dtype;
};
constexpr BucketKind kKinds[] = {
    {"one bucket", 0, DType::kInt32},
    {"two", 1, DType::kInt32},
    {"64", 63, DType::kInt64},
    {"2048, one digit", 2047, DType::kInt32},
    {"2049, two digits", 2048, DType::kInt32},
    {"most of int32", 0x7FFFFFFF, DType::kInt32},
    {"past 32 bits", (std::int64_t{1} << 52) + 1, DType::kInt64},
};

TEST(LshSort, IsStableAndGoesBack) {
  Random random(31);
  for (const BucketKind& kind : kKinds) {
    for (const std::int64_t seqlen : {0, 1, 2, 3, 63, 64, 65, 127, 1009}) {
      for (const Layout layout : {Layout::kRowMajor, Layout::kSwapped, Layout::kReversed}) {
        SCOPED_TRACE(testing::Message()
                     << kind.name << ", seqlen " << seqlen << ", " << name_of(layout));
        const std::vector<std::int64_t> shape = {2, 3, 2, seqlen};
        Tensor buckets(kind.dtype, shape, layout);
        for (std::int64_t n = 0; n < buckets.size(); ++n) {
          buckets.set(n, static_cast<double>(random.chance(0.2) ? kind.most
                                                                : random.between(0, kind.most)));
        }
        Tensor positions(seqlen % 2 == 0 ? DType::kInt32 : DType::kInt64, shape, layout, 12);
        Tensor places(DType::kInt32, shape, Layout::kGaps);
        sort_by_bucket(buckets, positions);
        undo_sort(positions, places);
        ASSERT_TRUE(positions.surroundings_untouched() && places.surroundings_untouched());
        const std::vector<std::int64_t> all = integers_of(buckets), order = integers_of(positions),
                                        undo = integers_of(places);
        for (std::int64_t row = 0; row < 12 && seqlen > 0; ++row) {
          const auto begin = static_cast<std::ptrdiff_t>(row * seqlen);
          const std::vector<std::int64_t> one(all.begin() + begin, all.begin() + begin + seqlen);
          const std::vector<std::int64_t> sorted(order.begin() + begin,
                                                 order.begin() + begin + seqlen);
          ASSERT_EQ(sorted, reference::sorted_by_bucket(one));
          for (std::int64_t n = 0; n < seqlen; ++n) {
            ASSERT_EQ(undo[static_cast<std::size_t>(row * seqlen + sorted[n])], n);
          }
        }
      }
    }
  }
}

TEST(LshSort, ThreadsChangeNothing) {
  Random random(32);
  Tensor buckets(DType::kInt32, {3, 5, 2, 500});
  for (std::int64_t n = 0; n < buckets.size(); ++n) {
    buckets.set(n, static_cast<double>(random.between(0, 5000)));
  }
  Tensor one(DType::kInt32, buckets.shape()), many(DType::kInt32, buckets.shape());
  Execution execution;
  execution.threads = 1;
  sort_by_bucket(buckets, one, execution);
  execution.threads = 7;
  sort_by_bucket(buckets, many, execution);
  EXPECT_TRUE(same_bits(one, many));
}

// Part 3.3: sticker, undo_sort and st. The lab counts the buckets of round 1 on from those of
// round 0, and sorts both rounds at once.
TEST(LshSort, TheLabsNumbers) {
  for (const char* name : {"lab_3_4_softmax", "lab_3_4_passthrough"}) {
    SCOPED_TRACE(name);
    const GoldenCase golden = load_golden("lsh", name);
    Tensor positions(DType::kInt32, {16}), places(DType::kInt32, {16});
    sort_by_bucket(golden.find("buckets"), positions);
    undo_sort(positions, places);
    EXPECT_EQ(positions.values(), reference::read_all(golden.find("sticker")));
    EXPECT_EQ(places.values(), reference::read_all(golden.find("undo_sort")));
    ConstTensorView rounds = golden.find("buckets");
    rounds.rank = 2;
    rounds.shape = {2, 8, 0, 0};
    rounds.strides = {8, 1, 0, 0};
    Tensor by_round(DType::kInt64, {2, 8});
    sort_by_bucket(rounds, by_round);
    EXPECT_EQ(by_round.values(), reference::read_all(golden.find("st")));
  }
}

TEST(LshSort, WhatIsRefused) {
  const auto sort_refused = [](const Tensor& buckets, const Tensor& positions,
                               std::initializer_list<std::string> words) {
    return throws_error(
        [&] {
          Tensor out = positions;
          sort_by_bucket(buckets, out);
        },
        ErrorCode::kInvalidArgument, words);
  };
  const Tensor good = Tensor(DType::kInt32, {2, 3}).fill(1);
  EXPECT_TRUE(sort_refused(Tensor(DType::kFloat32, {2, 3}), good, {"buckets", "int32", "float32"}));
  EXPECT_TRUE(sort_refused(good, Tensor(DType::kInt32, {3, 2}), {"[2, 3]", "[3, 2]"}));
  EXPECT_TRUE(sort_refused(good, good, {"overlap"}));
  EXPECT_TRUE(sort_refused(Tensor(DType::kInt32, {}), good, {"buckets", "rank 0"}));
  Tensor negative = Tensor(DType::kInt32, {2, 3}).fill(1);
  negative.set({1, 2}, -5);
  EXPECT_TRUE(sort_refused(negative, Tensor(DType::kInt32, {2, 3}), {"negative", "-5", "row 1"}));
  ConstTensorView huge = good;
  huge.shape = {1, std::int64_t{1} << 32, 0, 0};
  huge.strides = {0, 0, 0, 0};
  TensorView narrow = Tensor(DType::kInt32, {1, 1}).view();
  narrow.shape = huge.shape;
  EXPECT_TRUE(throws_error([&] { sort_by_bucket(huge, narrow); }, ErrorCode::kInvalidArgument,
                           {"int64", "int32"}));
  Tensor out(DType::kInt32, {3});
  for (const std::vector<std::int64_t>& wrong :
       {std::vector<std::int64_t>{0, 1, 3}, {0, -1, 2}, {0, 2, 2}}) {
    EXPECT_TRUE(throws_error([&] { undo_sort(integers(wrong), out); }, ErrorCode::kInvalidArgument,
                             {"sorted_positions", "once"}));
  }
  Execution execution;
  execution.threads = -2;
  EXPECT_TRUE(throws_error(
      [&] {
        undo_sort(integers({0, 1, 2}), out, execution);
      },
      ErrorCode::kInvalidArgument, {"threads", "-2"}));
}

}  // namespace
}  // namespace longspan::test
