// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Visibility by interval tests, of every kernel that runs here, pair by pair.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "kernels/interval_tests.h"
#include "kernels/registry.h"
#include "support/tensor.h"

namespace longspan::kernel {
namespace {

using test::Random;

struct Drawn {
  std::vector<std::int32_t> numbers, first, count;  // as kernels read them
  std::vector<std::int64_t> begin, size;            // as they are meant
  bool hides_inside = false;                        // else what is outside

  Drawn(Random& random, std::int64_t keys, std::int64_t lanes) : hides_inside(random.chance(0.5)) {
    const std::int64_t largest = random.choose<std::int64_t>({4, 100, INT32_MAX});
    for (std::int64_t k = 0; k < keys; ++k) {
      numbers.push_back(static_cast<std::int32_t>(random.between(0, largest)));
    }
    // What stands past the lanes must not matter.
    for (std::int64_t l = 0; l < lanes + 2 * kIntervalLanes; ++l) {
      begin.push_back(random.between(0, largest));
      size.push_back(random.choose<std::int64_t>({0, 1, largest / 2, largest + 1}));
      const Interval outside = interval_outside(begin.back(), begin.back() + size.back());
      first.push_back(hides_inside ? interval_first(begin.back()) : outside.first);
      count.push_back(hides_inside ? interval_count(size.back()) : outside.count);
    }
  }
  bool hides(std::int64_t key, std::int64_t lane) const {
    const std::int64_t number = numbers[key];
    const bool inside = begin[lane] <= number && number < begin[lane] + size[lane];
    return inside == hides_inside;
  }
};

template <class T>
void expect_the_definition(const KernelTable<T>& table, const std::vector<Drawn>& drawn,
                           std::int64_t keys, std::int64_t lanes) {
  std::vector<IntervalTest> tests;
  for (const Drawn& one : drawn) {
    tests.push_back({one.numbers.data(), one.first.data(), one.count.data()});
  }
  constexpr std::uint64_t kUntouched = 0xA5A5A5A5A5A5A5A5;
  std::vector<std::uint64_t> words(static_cast<std::size_t>(keys + 1), kUntouched);
  table.fill_intervals({tests.data(), static_cast<std::int64_t>(tests.size()), keys, lanes},
                       words.data());
  EXPECT_EQ(words.back(), kUntouched);
  for (std::int64_t k = 0; k < keys; ++k) {
    for (std::int64_t l = 0; l < 64; ++l) {
      bool visible = l < lanes;
      for (const Drawn& one : drawn) visible = visible && !one.hides(k, l);
      ASSERT_EQ((words[k] >> l & 1) != 0, visible) << "key " << k << ", lane " << l;
    }
  }
}

TEST(KernelIntervals, AreTheDefinition) {
  Random random(3);
  for (const std::int64_t lanes : {1, 3, 8, 17, 24, 47, 48, 64}) {
    for (const std::int64_t keys : {0, 1, 5, 64, 129}) {
      std::vector<Drawn> drawn;
      const std::int64_t tests = random.between(0, 9);
      for (std::int64_t t = 0; t < tests; ++t) drawn.emplace_back(random, keys, 64);
      for (const Kernel& kernel : all_kernels()) {
        if (!kernel.usable()) continue;
        SCOPED_TRACE(testing::Message() << kernel.name << ", " << lanes << " lanes, " << keys);
        expect_the_definition(kernel.float32, drawn, keys, lanes);
        expect_the_definition(kernel.bfloat16, drawn, keys, lanes);
        expect_the_definition(kernel.float64, drawn, keys, lanes);
      }
    }
  }
}

}  // namespace
}  // namespace longspan::kernel
