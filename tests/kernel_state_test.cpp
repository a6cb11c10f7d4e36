// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What every kernel that runs here does to finished states: merge_state against the literal rule,
// and all_finite.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernel_testing.h"
#include "kernels/kernel_table.h"
#include "support/tensor.h"

namespace longspan::kernel {
namespace {

using test::Random;

// The literal rule: common reference m, weights 2^(reference - m), 0 where the reference is -inf.
template <class T>
void expect_merged(const State<T>& into, const State<T>& part, const State<T>& merged,
                   std::int64_t dim) {
  const auto width = static_cast<std::int64_t>(into.sum.size());
  const double epsilon = static_cast<double>(std::numeric_limits<T>::epsilon());
  for (std::int64_t lane = 0; lane < width; ++lane) {
    const auto a = static_cast<double>(into.reference[at(lane)]);
    const auto b = static_cast<double>(part.reference[at(lane)]);
    const double common = std::isnan(a) || std::isnan(b) ? kNan : std::max(a, b);
    const double wa = a == -kInf ? 0 : std::exp2(a - common);
    const double wb = b == -kInf ? 0 : std::exp2(b - common);
    const auto near = [&](T actual, T x, T y) {
      const double left = wa * static_cast<double>(x), right = wb * static_cast<double>(y);
      const double truth = left + right, error = static_cast<double>(actual) - truth;
      // 2^x of numbers apart by up to 126 has a rounded argument.
      const double allowed = 64 * epsilon * (std::abs(left) + std::abs(right));
      return std::isnan(truth) ? std::isnan(actual) : std::abs(error) <= allowed;
    };
    ASSERT_TRUE(near(merged.sum[at(lane)], into.sum[at(lane)], part.sum[at(lane)]))
        << "lane " << lane << ": " << a << " with " << b;
    ASSERT_TRUE(std::isnan(common) || merged.reference[at(lane)] == common);
    for (std::int64_t d = 0; d < dim; ++d) {
      const std::size_t n = at(d * width + lane);
      ASSERT_TRUE(near(merged.numerator[n], into.numerator[n], part.numerator[n]))
          << "lane " << lane << ", component " << d << ": " << a << " with " << b;
    }
  }
}

template <class T>
State<T> random_state(std::int64_t width, std::int64_t dim, Random& random) {
  State<T> state(width, dim);
  for (std::int64_t lane = 0; lane < width; ++lane) {
    if (random.chance(0.2)) continue;  // the identity
    state.reference[at(lane)] = static_cast<T>(random.normal() * random.choose({1.0, 30.0, 300.0}));
    state.sum[at(lane)] = static_cast<T>(1 + std::abs(random.normal()));
    for (std::int64_t d = 0; d < dim; ++d) {
      state.numerator[at(d * width + lane)] = static_cast<T>(random.normal());
    }
  }
  return state;
}

TEST(KernelMerge, FollowsTheRule) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    const std::int64_t width = std::int64_t{table.lanes} * vectors;
    Random random(11);
    for (const std::int64_t dim : {1, 2, 7, 64, 65}) {
      for (int n = 0; n < 20; ++n) {
        State<T> into = random_state<T>(width, dim, random);
        State<T> part = random_state<T>(width, dim, random);
        const State<T> before = into;
        table.merge_state(into.view(), part.view(), width, dim);
        expect_merged(before, part, into, dim);
      }
    }
  });
}

template <class T>
bool same_bits(const State<T>& a, const State<T>& b) {
  const auto same = [](const Lines<T>& x, const Lines<T>& y) {
    return std::memcmp(x.data(), y.data(), x.size() * sizeof(T)) == 0;
  };
  return same(a.reference, b.reference) && same(a.sum, b.sum) && same(a.numerator, b.numerator);
}

TEST(KernelMerge, TheIdentityChangesNoBit) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    const std::int64_t width = std::int64_t{table.lanes} * vectors;
    Random random(12);
    State<T> part = random_state<T>(width, 9, random);
    State<T> identity(width, 9);
    State<T> into = part;
    table.merge_state(into.view(), identity.view(), width, 9);
    EXPECT_TRUE(same_bits(into, part)) << "from the right";
    into = identity;
    table.merge_state(into.view(), part.view(), width, 9);
    EXPECT_TRUE(same_bits(into, part)) << "from the left";
    into = identity;
    table.merge_state(into.view(), identity.view(), width, 9);
    EXPECT_TRUE(same_bits(into, identity)) << "with itself";
  });
}

TEST(KernelMerge, NanAndInfiniteReferencesPoisonTheirLanesAlone) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    const std::int64_t width = std::int64_t{table.lanes} * vectors;
    for (const double bad : {kNan, kInf}) {
      for (const bool in_part : {false, true}) {
        for (const double other : {1.0, kInf, -kInf}) {
          Random random(13);
          State<T> into = random_state<T>(width, 5, random), part = into;
          const std::int64_t lane = random.between(0, width - 1);
          State<T>& poisoned = in_part ? part : into;
          poisoned.sum[at(lane)] = 1;
          poisoned.reference[at(lane)] = static_cast<T>(bad);
          State<T>& beside = in_part ? into : part;
          beside.reference[at(lane)] = static_cast<T>(other);
          beside.sum[at(lane)] = other == -kInf ? T{0} : T{1};
          const State<T> before = into;
          table.merge_state(into.view(), part.view(), width, 5);
          expect_merged(before, part, into, 5);
          EXPECT_TRUE(std::isnan(into.sum[at(lane)])) << bad << " with " << other;
        }
      }
    }
  });
}

TEST(KernelAllFinite, FindsAnyElementThatIsNot) {
  for_each_panel([]<class T>(const KernelTable<T>& table, int vectors) {
    using Limits = std::numeric_limits<T>;
    const std::int64_t count = std::int64_t{table.lanes} * vectors * 3;
    EXPECT_TRUE(table.all_finite(nullptr, 0));
    Lines<T> values(at(count));
    for (const T good : {T{0}, Limits::max(), Limits::lowest(), Limits::denorm_min()}) {
      std::fill(values.begin(), values.end(), good);
      EXPECT_TRUE(table.all_finite(values.data(), count)) << good;
      for (std::int64_t n = 0; n < count; ++n) {
        for (const T bad : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()}) {
          values[at(n)] = bad;
          ASSERT_FALSE(table.all_finite(values.data(), count)) << bad << " at " << n;
          values[at(n)] = good;
        }
      }
    }
  });
}

}  // namespace
}  // namespace longspan::kernel
