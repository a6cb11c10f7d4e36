// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Random sequences of what a cache of hashed keys can do, each answer against LSH attention over
// everything. LONGSPAN_TEST_SEED and LONGSPAN_TEST_COUNT repeat one, or run more.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "lsh_cache_testing.h"

namespace longspan::test {
namespace {

// A cache and the entries and tokens that it ought to hold, through random operations.
class RandomLife {
 public:
  explicit RandomLife(std::uint64_t seed) : random_(seed) {
    in_.shared = random_.chance(0.5);
    dtype_ = random_.choose({DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16});
    const std::int64_t heads_kv = random_.between(1, 2), dim = random_.choose({3, 8, 20});
    const std::int64_t heads = in_.shared ? heads_kv : heads_kv * random_.between(1, 3);
    in_.query = Tensor(dtype_, {2, kTokens, heads, dim}).fill_normal(random_);
    if (!in_.shared) in_.key = Tensor(dtype_, {2, kTokens, heads_kv, dim}).fill_normal(random_);
    in_.value =
        Tensor(dtype_, {2, kTokens, heads_kv, random_.choose({5, 16})}).fill_normal(random_);
    LshOptions& lsh = in_.lsh;
    lsh.seed = seed;
    lsh.num_hashes = random_.between(1, 4);
    lsh.num_buckets = {random_.choose<std::int64_t>({2, 6, 32}), 2};
    lsh.chunk_len = random_.choose<std::int64_t>({1, 5, 16, 64});
    lsh.chunks_before = random_.between(0, 3);
    lsh.chunks_after = random_.between(0, 2);
    lsh.dedup = random_.choose({Dedup::kExact, Dedup::kLogCount, Dedup::kNone});
    if (in_.shared) lsh.wrap = random_.choose({Wrap::kNone, Wrap::kRound, Wrap::kAll});
    if (lsh.wrap == Wrap::kNone) lsh.whole_buckets = random_.chance(0.2);
    lsh.key_norm = random_.choose({KeyNorm::kRms, KeyNorm::kL2});
    lsh.self_score = random_.choose({-1e5, -1.0});
    if (random_.chance(0.3)) lsh.local_window = {{random_.between(-1, 20), random_.between(-1, 5)}};
    if (random_.chance(0.7)) in_.options.mask = causal();
    if (random_.chance(0.2)) in_.options.mask = in_.options.mask & window(50, -1);
    if (random_.chance(0.2)) in_.options.softcap = 2;
  }

  void run() {
    LshCache cache = cache_for(in_);
    std::int64_t length = 0;
    for (int n = 0; n < 12; ++n) {
      const std::int64_t choice = random_.between(0, 9);
      if (choice == 0) {
        length = random_.between(0, length);
        cache.truncate(length);
      } else if (choice == 1 && cache.shape().batch == 2) {
        const std::vector<std::int64_t> swapped = {1, 0};
        cache.reorder(swapped);
        cache.reorder(swapped);
      } else {
        const std::int64_t end =
            std::min(kTokens, length + random_.choose<std::int64_t>({0, 1, 1, 2, 17, 60}));
        append(cache, in_, length, end);
        length = end;
      }
      ASSERT_EQ(cache.length(), length);
      const std::int64_t queries = std::min(length, random_.between(0, 3));
      const std::vector<std::string> kernels = kernels_for(dtype_);
      const Execution execution =
          on(kernels[random_.between(0, static_cast<std::int64_t>(kernels.size()) - 1)],
             static_cast<int>(random_.between(1, 2)));
      ASSERT_TRUE(is_prefill(cache, in_, queries, execution))
          << "operation " << n << ", " << length << " tokens, " << queries << " queries, shared "
          << in_.shared << ", " << longspan::name_of(dtype_) << ", kernel " << execution.kernel;
    }
  }

 private:
  static constexpr std::int64_t kTokens = 160;
  Random random_;
  LshInputs in_;
  DType dtype_;
};

TEST(LshCacheRandom, ItIsThePrefillWhateverHappened) {
  const std::uint64_t first = number_from_environment("LONGSPAN_TEST_SEED", 1);
  const std::uint64_t count = number_from_environment("LONGSPAN_TEST_COUNT", 100);
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    SCOPED_TRACE("LONGSPAN_TEST_SEED=" + std::to_string(seed) + " LONGSPAN_TEST_COUNT=1");
    ASSERT_NO_FATAL_FAILURE(RandomLife(seed).run());
  }
}

}  // namespace
}  // namespace longspan::test
