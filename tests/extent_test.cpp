// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The bytes that views reach, and which views name an element twice: by hand, and against counting
// the elements one by one.
#include "base/extent.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "support/tensor.h"

namespace longspan::base {
namespace {

alignas(64) std::byte memory[1 << 16];
constexpr std::int64_t kMiddle = 1 << 15;

ConstTensorView view_of(const std::vector<std::int64_t>& shape,
                        const std::vector<std::int64_t>& strides, DType dtype = DType::kFloat32,
                        std::int64_t at = kMiddle) {
  ConstTensorView view{memory + at, dtype, static_cast<int>(shape.size()), {}, {}};
  std::copy(shape.begin(), shape.end(), view.shape.begin());
  std::copy(strides.begin(), strides.end(), view.strides.begin());
  return view;
}

// Offsets of all elements, in elements.
std::vector<std::int64_t> offsets_of(const ConstTensorView& view) {
  std::vector<std::int64_t> offsets = {0};
  for (int axis = 0; axis < view.rank; ++axis) {
    std::vector<std::int64_t> longer;
    for (const std::int64_t offset : offsets) {
      for (std::int64_t n = 0; n < view.shape[axis]; ++n) {
        longer.push_back(offset + n * view.strides[axis]);
      }
    }
    offsets = longer;
  }
  return offsets;
}

void expect_extent(const ConstTensorView& view, std::int64_t first, std::int64_t last) {
  const Extent extent = extent_of(view);
  EXPECT_EQ(extent.begin - memory, first);
  EXPECT_EQ(extent.end - memory, last);
}

TEST(Extent, FromTheLowestToTheHighestByte) {
  expect_extent(view_of({2, 3}, {3, 1}), kMiddle, kMiddle + 24);
  expect_extent(view_of({2, 3}, {1, 2}), kMiddle, kMiddle + 24);
  expect_extent(view_of({2, 3}, {100, 7}), kMiddle, kMiddle + 4 * (100 + 14 + 1));
  expect_extent(view_of({2, 3}, {-3, 1}), kMiddle - 12, kMiddle + 12);
  expect_extent(view_of({2, 3}, {-3, -1}, DType::kFloat64), kMiddle - 40, kMiddle + 8);
  expect_extent(view_of({1000, 3}, {0, 1}, DType::kFloat16), kMiddle, kMiddle + 6);
  expect_extent(view_of({1, 3}, {-1'000'000, 1}), kMiddle, kMiddle + 12);
  expect_extent(view_of({}, {}, DType::kBool), kMiddle, kMiddle + 1);
}

TEST(Extent, ViewsWithoutElementsReachNothing) {
  const ConstTensorView all = view_of({1 << 14}, {1}, DType::kFloat32, 0);
  for (const ConstTensorView& empty : {view_of({0}, {1}), view_of({3, 0, 2}, {-5, 1, 1}),
                                       view_of({2, 0}, {1, 1}), ConstTensorView{}}) {
    const Extent extent = extent_of(empty);
    EXPECT_EQ(extent.begin, extent.end);
    EXPECT_FALSE(extent.meets(extent_of(all)));
    EXPECT_FALSE(extent_of(all).meets(extent));
    EXPECT_FALSE(extent.meets(extent));
  }
}

TEST(Extent, NeighboursDoNotMeet) {
  const Extent first = extent_of(view_of({4}, {1}, DType::kFloat32, 64));
  EXPECT_FALSE(first.meets(extent_of(view_of({4}, {1}, DType::kFloat32, 80))));
  EXPECT_FALSE(first.meets(extent_of(view_of({4}, {1}, DType::kFloat32, 48))));
  EXPECT_TRUE(first.meets(extent_of(view_of({4}, {1}, DType::kFloat32, 79))));
  EXPECT_TRUE(first.meets(extent_of(view_of({4}, {1}, DType::kFloat32, 49))));
  EXPECT_TRUE(first.meets(extent_of(view_of({4}, {-1}, DType::kFloat32, 80))));
  EXPECT_TRUE(first.meets(extent_of(view_of({1}, {1}, DType::kBool, 70))));  // inside
  EXPECT_TRUE(first.meets(first));
}

TEST(OverlapsItself, ByHand) {
  EXPECT_FALSE(overlaps_itself(view_of({2, 3, 4, 5}, {60, 20, 5, 1})));
  EXPECT_FALSE(overlaps_itself(view_of({2, 3, 4, 5}, {60, 5, 15, 1})));  // transposed
  EXPECT_FALSE(overlaps_itself(view_of({5, 4, 3, 2}, {1, 5, 20, 60})));  // Fortran order
  EXPECT_FALSE(overlaps_itself(view_of({2, 3}, {-3, -1})));              // reversed
  EXPECT_FALSE(overlaps_itself(view_of({2, 3}, {3, -1})));
  EXPECT_TRUE(overlaps_itself(view_of({2, 3}, {-2, 1})));
  EXPECT_TRUE(overlaps_itself(view_of({2, 3}, {0, 1})));  // broadcast
  EXPECT_TRUE(overlaps_itself(view_of({2, 3}, {1, 0})));
  EXPECT_TRUE(overlaps_itself(view_of({2, 2}, {1, 1})));
  EXPECT_TRUE(overlaps_itself(view_of({8, 4}, {1, 1})));        // sliding windows
  EXPECT_TRUE(overlaps_itself(view_of({2, 2, 2}, {3, 2, 1})));  // 3 = 2 + 1
  EXPECT_FALSE(overlaps_itself(view_of({2, 2, 2}, {4, 2, 1})));
  EXPECT_FALSE(overlaps_itself(view_of({1, 3}, {0, 1})));  // one index, any stride
  EXPECT_FALSE(overlaps_itself(view_of({3, 1}, {1, 1})));
  EXPECT_FALSE(overlaps_itself(view_of({1, 1, 1}, {0, 0, 0})));
  EXPECT_FALSE(overlaps_itself(view_of({}, {})));
  EXPECT_FALSE(overlaps_itself(view_of({0, 5}, {0, 0})));  // no element at all
  EXPECT_FALSE(overlaps_itself(view_of({5, 0}, {0, 1})));
}

// "May": a view that does overlap is always found; packed and padded ones in any order of axes and
// any direction are never suspected.
TEST(OverlapsItself, AgainstCounting) {
  test::Random random(1);
  int overlapping = 0;
  for (int n = 0; n < 20'000; ++n) {
    const auto rank = static_cast<std::size_t>(random.between(1, 4));
    std::vector<std::int64_t> shape(rank), strides(rank);
    for (std::size_t axis = 0; axis < rank; ++axis) {
      shape[axis] = random.between(0, 4);
      strides[axis] = random.between(-12, 12);
    }
    const ConstTensorView view = view_of(shape, strides);
    const std::vector<std::int64_t> offsets = offsets_of(view);
    const bool twice = std::set(offsets.begin(), offsets.end()).size() < offsets.size();
    overlapping += twice ? 1 : 0;
    ASSERT_TRUE(!twice || overlaps_itself(view)) << testing::PrintToString(strides);
    if (!offsets.empty()) {
      const auto [low, high] = std::minmax_element(offsets.begin(), offsets.end());
      expect_extent(view, kMiddle + 4 * *low, kMiddle + 4 * (*high + 1));
    }
  }
  EXPECT_GT(overlapping, 1000);

  for (int n = 0; n < 2000; ++n) {
    const auto rank = static_cast<std::size_t>(random.between(1, 4));
    std::vector<std::size_t> order(rank);
    for (std::size_t axis = 0; axis < rank; ++axis) order[axis] = axis;
    for (std::size_t axis = rank - 1; axis > 0; --axis) {
      std::swap(
          order[axis],
          order[static_cast<std::size_t>(random.between(0, static_cast<std::int64_t>(axis)))]);
    }
    std::vector<std::int64_t> shape(rank), strides(rank);
    std::int64_t step = random.between(1, 2);
    for (const std::size_t axis : order) {
      shape[axis] = random.between(1, 4);
      strides[axis] = random.chance(0.5) ? step : -step;
      step *= shape[axis] + random.between(0, 2);
    }
    ASSERT_FALSE(overlaps_itself(view_of(shape, strides)))
        << testing::PrintToString(shape) << testing::PrintToString(strides);
  }
}

}  // namespace
}  // namespace longspan::base
