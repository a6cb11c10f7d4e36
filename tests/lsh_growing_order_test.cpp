// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Orders that grow and shrink against those that are sorted at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "lsh/growing_order.h"
#include "support/tensor.h"

namespace longspan::test {
namespace {

using lsh::GrowingOrder;

// What it says of all places, of `rounds` lists of buckets by position.
void expect_sorted(const GrowingOrder& order, const std::vector<std::vector<std::int32_t>>& buckets,
                   std::int32_t num_buckets) {
  const auto length = static_cast<std::int64_t>(buckets.front().size());
  ASSERT_EQ(order.length(), length);
  for (std::size_t r = 0; r < buckets.size(); ++r) {
    const auto round = static_cast<std::int64_t>(r);
    std::vector<std::pair<std::int32_t, std::int32_t>> sorted;
    for (std::int32_t n = 0; n < length; ++n) sorted.emplace_back(buckets[r][n], n);
    std::sort(sorted.begin(), sorted.end());
    std::vector<std::int32_t> expected, found;
    for (const auto& [bucket, position] : sorted) expected.push_back(position);
    order.append_keys(round, {0, length}, found);
    ASSERT_EQ(found, expected);
    for (std::int64_t begin = 0; begin < length; begin += 7) {
      const std::int64_t end = std::min(begin + 5, length);
      found.clear();
      order.append_keys(round, {begin, end}, found);
      ASSERT_TRUE(
          std::equal(found.begin(), found.end(), expected.begin() + begin, expected.begin() + end));
    }
    for (std::int32_t bucket = 0; bucket < num_buckets; ++bucket) {
      const auto below = [&](std::int32_t b, std::int64_t position) {
        return std::count_if(sorted.begin(), sorted.end(), [&](const auto& key) {
          return key.first < b || (key.first == b && key.second <= position);
        });
      };
      for (const std::int64_t position : {std::int64_t{-3}, length / 2, length + 9}) {
        ASSERT_EQ(order.rank(round, bucket, position), below(bucket, position));
      }
      ASSERT_EQ(order.places_of_bucket(round, bucket).begin, below(bucket, -1));
      ASSERT_EQ(order.places_of_bucket(round, bucket).end, below(bucket, length));
    }
    for (std::int64_t n = 0; n < length; ++n) ASSERT_EQ(order.buckets_of(n)[r], buckets[r][n]);
  }
}

TEST(LshGrowingOrder, IsTheSortedOneWhateverCameAndWent) {
  Random random(1);
  for (const std::int32_t num_buckets : {1, 2, 5, 8, 31}) {
    constexpr std::int64_t kRounds = 3;
    GrowingOrder order(kRounds, num_buckets);
    std::vector<std::vector<std::int32_t>> buckets(kRounds);
    const std::int32_t used = std::max(1, num_buckets / 2);  // the others stay empty
    for (int step = 0; step < 40; ++step) {
      const bool shrinks = random.chance(0.3);
      for (std::int64_t n = random.between(0, 12); n > 0; --n) {
        if (shrinks && order.length() > 0) {
          order.pop();
          for (auto& round : buckets) round.pop_back();
        } else if (!shrinks) {
          std::vector<std::int32_t> key;
          for (auto& round : buckets) {
            key.push_back(static_cast<std::int32_t>(num_buckets - 1 -
                                                    random.between(0, used - 1) *
                                                        random.between(1, 2) % num_buckets));
            round.push_back(key.back());
          }
          order.push(key);
        }
      }
      ASSERT_NO_FATAL_FAILURE(expect_sorted(order, buckets, num_buckets));
    }
  }
}

}  // namespace
}  // namespace longspan::test
