// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Hashing: golden buckets and a literal float64 reference for every kernel, and what must not
// change a bucket.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "longspan/lsh_attention.h"
#include "reference/attention_reference.h"
#include "reference/lsh_reference.h"
#include "support/call.h"
#include "support/golden.h"
#include "support/tensor.h"

namespace longspan::test {
namespace {

std::vector<std::int64_t> shape_of_buckets(const ConstTensorView& x, std::int64_t num_hashes) {
  if (x.rank == 4) return {x.shape[0], x.shape[2], num_hashes, x.shape[1]};
  if (x.rank == 3) return {x.shape[1], num_hashes, x.shape[0]};
  return {num_hashes, x.shape[0]};
}

Tensor hashed(const ConstTensorView& query_key, const LshOptions& options, const Mask& mask = {},
              const Execution& execution = {}) {
  Tensor buckets(DType::kInt32, shape_of_buckets(query_key, options.num_hashes));
  hash_vectors(query_key, buckets.fill(-1), options, mask, execution);
  return buckets;
}

Tensor random_vectors(DType dtype, const std::vector<std::int64_t>& shape, std::uint64_t seed,
                      Layout layout = Layout::kRowMajor) {
  Random random(seed);
  return Tensor(dtype, shape, layout).fill_normal(random);
}

// Options under which sequences are hashed however short they are.
LshOptions hashing(std::vector<std::int64_t> num_buckets, std::int64_t num_hashes = 4) {
  LshOptions options;
  options.num_buckets = std::move(num_buckets);
  options.num_hashes = num_hashes;
  options.chunk_len = 1;
  options.seed = 99;
  return options;
}

class LshHashGolden : public testing::TestWithParam<std::string> {};

std::vector<std::string> hashed_names() {
  std::vector<std::string> names = golden_names("lsh");
  std::erase_if(names, [](const std::string& name) {
    const GoldenCase golden = load_golden("lsh", name);
    return !is_given(golden.find("rotations")) || !is_given(golden.find("expected_buckets"));
  });
  return names;
}

TEST_P(LshHashGolden, EveryKernel) {
  const GoldenCase golden = load_golden("lsh", GetParam());
  LshOptions options = hashing({4}, 3);  // those of the lab's part 3.2, which has none in its file
  options.rotations = golden.find("rotations");
  Mask mask;
  if (golden.metadata.count("options") != 0) {
    GoldenOptions parsed = parse_options(golden);
    options = parsed.lsh;
    mask = parsed.attention.mask;
  }
  options.chunk_len = 1;
  const std::vector<double> expected = reference::read_all(golden.find("expected_buckets"));
  for (const std::string& kernel : usable_kernels()) {
    SCOPED_TRACE(kernel);
    const Tensor buckets = hashed(golden.find("query_key"), options, mask, on(kernel));
    EXPECT_EQ(buckets.values(), expected);
    // Buckets that are given are copied.
    LshOptions given = options;
    given.rotations = {};
    given.buckets = buckets;
    EXPECT_EQ(hashed(golden.find("query_key"), given, mask, on(kernel)).values(), expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Files, LshHashGolden, testing::ValuesIn(hashed_names()),
                         [](const auto& one) { return one.param; });

TEST(LshHashGoldenFiles, AreAllThere) { EXPECT_EQ(hashed_names().size(), 35u); }

// float64 rounds at 1e-16 and float32 at 1e-7 of products as long as their vectors.
TEST(LshHash, IsTheDefinitionForEveryKernelAndType) {
  const std::vector<std::vector<std::int64_t>> all_factors = {
      {2}, {4}, {6, 2}, {32}, {8, 16, 16}, {10, 2, 14}, {130}};
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    const double closest = dtype == DType::kFloat64 ? 1e-13 : 1e-5;
    for (const std::vector<std::int64_t>& factors : all_factors) {
      for (const std::int64_t head_dim : {1, 3, 16, 65}) {
        const LshOptions options = hashing(factors, 3);
        const auto layout = static_cast<Layout>(head_dim % kLayouts);
        const Tensor x = random_vectors(dtype, {2, 53, 3, head_dim},
                                        static_cast<std::uint64_t>(head_dim), layout);
        std::int64_t columns = 0;
        for (const std::int64_t factor : factors) columns += factor / 2;
        Tensor rotations(dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32,
                         {3, head_dim, 3, columns});
        draw_rotations(rotations, options.seed);
        const reference::Hashed truth = reference::hash_buckets(x, rotations, factors);
        Tensor first;
        for (const std::string& kernel : usable_kernels()) {
          SCOPED_TRACE(testing::Message() << kernel << ", " << name_of(dtype) << ", head_dim "
                                          << head_dim << ", " << factors.size() << " factors");
          const Tensor buckets = hashed(x, options, {}, on(kernel));
          std::int64_t ties = 0;
          for (std::int64_t n = 0; n < buckets.size(); ++n) {
            if (truth.gaps[static_cast<std::size_t>(n)] < closest) {
              ++ties;
              continue;
            }
            ASSERT_EQ(buckets.get(n),
                      static_cast<double>(truth.buckets[static_cast<std::size_t>(n)]));
          }
          EXPECT_LE(ties, buckets.size() / 50);
          // Kernels round alike, so ties fall alike.
          if (first.size() == 0) first = buckets;
          EXPECT_TRUE(same_bits(buckets, first));
          LshOptions given = options;
          given.rotations = rotations;
          EXPECT_TRUE(same_bits(hashed(x, given, {}, on(kernel)), first)) << "drawn by the call";
        }
      }
    }
  }
}

// Many near ties: directions differ in their last bits.
TEST(LshHash, KernelsAgreeOnTies) {
  Random random(7);
  Tensor rotations(DType::kFloat32, {1, 64, 2, 8});
  for (std::int64_t n = 0; n < rotations.size(); ++n) {
    const std::int64_t column = n % 8;
    rotations.set(n, column == 0 ? random.normal()
                                 : rotations.get(n - column) * (1 + 0x1p-23 * random.normal()));
  }
  LshOptions options = hashing({16}, 2);
  options.rotations = rotations;
  const Tensor x = random_vectors(DType::kFloat32, {1, 2000, 1, 64}, 8);
  const Tensor first = hashed(x, options, {}, on(usable_kernels().front()));
  for (const std::string& kernel : usable_kernels()) {
    EXPECT_TRUE(same_bits(hashed(x, options, {}, on(kernel)), first)) << kernel;
  }
}

TEST(LshHash, FirstMaximumWins) {
  LshOptions options = hashing({8}, 1);
  const auto bucket = [&](const std::vector<double>& products) {
    const Tensor rotations = Tensor(DType::kFloat32, {1, 1, 1, 4}).fill_values(products);
    options.rotations = rotations;
    const Tensor x = Tensor(DType::kFloat32, {2, 1}).fill(1);
    return hashed(x, options).get(1);
  };
  EXPECT_EQ(bucket({1, 3, 2, 3}), 1);
  EXPECT_EQ(bucket({1, -3, 2, -3}), 5);
  EXPECT_EQ(bucket({1, -3, 3, 3}), 2) << "the positive half stands first";
  EXPECT_EQ(bucket({-1, -1, -1, -1}), 4);
  EXPECT_EQ(bucket({0, 0, 0, 0}), 0);
  EXPECT_EQ(bucket({-2, -4, 1, -1}), 5);
}

TEST(LshHash, RowsThatAreNotFinite) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInf = std::numeric_limits<double>::infinity();
  for (const std::string& kernel : usable_kernels()) {
    for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
      Tensor x = random_vectors(dtype, {1, 40, 1, 5}, 3);
      const LshOptions options = hashing({8, 4}, 2);
      const Tensor clean = hashed(x, options, {}, on(kernel));
      x.set({0, 7, 0, 2}, kNan);
      x.set({0, 20, 0, 0}, kInf);
      x.set({0, 20, 0, 1}, -kInf);
      for (std::int64_t d = 0; d < 5; ++d) x.set({0, 30, 0, d}, 0);
      const Tensor buckets = hashed(x, options, {}, on(kernel));
      for (std::int64_t r = 0; r < 2; ++r) {
        for (std::int64_t n = 0; n < 40; ++n) {
          const double bucket = buckets.get({0, 0, r, n});
          if (n == 7 || n == 30) {
            EXPECT_EQ(bucket, 0);
          } else if (n == 20) {
            EXPECT_TRUE(bucket >= 0 && bucket < 32);
          } else {
            EXPECT_EQ(bucket, clean.get({0, 0, r, n}));
          }
        }
      }
    }
  }
}

// Threads, batches, and how much of a tensor is looked at decide nothing.
TEST(LshHash, APartIsHashedLikeTheWhole) {
  const Tensor x = random_vectors(DType::kFloat32, {3, 1100, 4, 24}, 12);
  const LshOptions options = hashing({8, 16}, 5);
  Execution execution;
  execution.threads = 1;
  const Tensor whole = hashed(x, options, {}, execution);
  execution.threads = 5;
  EXPECT_TRUE(same_bits(hashed(x, options, {}, execution), whole));
  for (std::int64_t b = 0; b < 3; ++b) {
    ConstTensorView entry = x;
    entry.data = static_cast<const float*>(entry.data) + b * entry.strides[0];
    entry.shape[0] = 1;
    entry.shape[1] -= b * 37;  // fewer positions, too
    entry.shape[2] -= b;       // and heads
    const Tensor part = hashed(entry, options);
    for (std::int64_t h = 0; h < entry.shape[2]; ++h) {
      for (std::int64_t r = 0; r < 5; ++r) {
        for (std::int64_t n = 0; n < entry.shape[1]; ++n) {
          ASSERT_EQ(part.get({0, h, r, n}), whole.get({b, h, r, n}));
        }
      }
    }
  }
  LshOptions fewer = options;
  fewer.num_hashes = 2;
  const Tensor two = hashed(x, fewer);
  fewer.num_hashes = 5;
  fewer.seed += 1;
  const Tensor other = hashed(x, fewer);
  std::int64_t moved = 0;
  for (std::int64_t n = 0; n < 1100; ++n) {
    ASSERT_EQ(two.get({1, 2, 1, n}), whole.get({1, 2, 1, n}));
    moved += other.get({1, 2, 1, n}) != whole.get({1, 2, 1, n}) ? 1 : 0;
  }
  EXPECT_GT(moved, 1000) << "another seed, other buckets";
}

TEST(LshHash, LowerRanks) {
  const Tensor x = random_vectors(DType::kFloat32, {1, 70, 3, 8}, 13);
  const LshOptions options = hashing({8}, 2);
  const std::vector<double> expected = hashed(x, options).values();
  ConstTensorView three = x;
  three.rank = 3;
  three.shape = {70, 3, 8, 0};
  three.strides = {24, 8, 1, 0};
  EXPECT_EQ(hashed(three, options).values(), expected);
  ConstTensorView two = three;
  two.rank = 2;
  two.shape = {70, 8, 0, 0};
  two.strides = {24, 1, 0, 0};
  EXPECT_EQ(hashed(two, options).values(),
            std::vector<double>(expected.begin(), expected.begin() + 140));
}

TEST(LshHash, OneChunkIsNotDivided) {
  const Tensor x = random_vectors(DType::kFloat32, {2, 64, 2, 8}, 14);
  LshOptions options = hashing({}, 3);
  options.chunk_len = 64;
  EXPECT_EQ(hashed(x, options, key_lengths(integers({3, 64}))).values(),
            std::vector<double>(768, 0.0));
  options.chunk_len = 63;
  EXPECT_NE(hashed(x, options).values(), std::vector<double>(768, 0.0));
  for (const std::vector<std::int64_t>& shape :
       {std::vector<std::int64_t>{0, 64, 2, 8}, {2, 0, 2, 8}, {2, 64, 0, 8}}) {
    EXPECT_EQ(hashed(Tensor(DType::kFloat32, shape), options).size(), 0);
  }
}

TEST(LshHash, PaddingGetsTheLastBucket) {
  Random random(15);
  const Tensor x = random_vectors(DType::kFloat32, {2, 600, 2, 8}, 15);
  LshOptions options = hashing({4, 4}, 2);
  const Tensor plain = hashed(x, options);
  Tensor by_head(DType::kBool, {2, 2, 1, 600}), by_key(DType::kBool, {600});
  for (Tensor* mask : {&by_head, &by_key}) {
    for (std::int64_t n = 0; n < mask->size(); ++n) mask->set(n, random.chance(0.7) ? 1 : 0);
  }
  const Tensor lengths = integers({600, 123}), square = Tensor(DType::kBool, {600, 600}).fill(0);
  const Mask mask = key_lengths(lengths) & dense(by_head) & dense(by_key) & causal() &
                    dense(square) & window(1, 1);
  LshOptions given = options;
  given.buckets = plain;
  for (const Tensor& buckets : {hashed(x, options, mask), hashed(x, given, mask)}) {
    for (std::int64_t n = 0; n < buckets.size(); ++n) {
      const std::int64_t b = n / 2400, h = n / 1200 % 2, p = n % 600;
      const bool padding = static_cast<double>(p) >= lengths.get(b) ||
                           by_head.get({b, h, 0, p}) == 0 || by_key.get(p) == 0;
      ASSERT_EQ(buckets.get(n), padding ? 16 : plain.get(n));
    }
  }
}

TEST(LshHash, SeparateQueriesAndKeys) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16}) {
    const Tensor query = random_vectors(dtype, {2, 77, 6, 9}, 16);
    const Tensor key = random_vectors(dtype, {2, 130, 2, 9}, 17);
    const LshOptions options = hashing({8, 4}, 3);
    Tensor query_buckets(DType::kInt64, {2, 6, 3, 77}), key_buckets(DType::kInt32, {2, 2, 3, 130});
    const Tensor lengths = integers({130, 60});
    Tensor by_head = Tensor(DType::kBool, {6, 1, 130}).fill(1);
    for (std::int64_t h = 0; h < 6; ++h) by_head.set({h, 0, 5}, 0);  // hidden from all
    by_head.set({1, 0, 6}, 0);                                       // from one of three
    hash_vectors(query, key, query_buckets, key_buckets, options,
                 key_lengths(lengths) & dense(by_head));
    const Tensor keys = hashed(key, options);
    for (std::int64_t n = 0; n < keys.size(); ++n) {
      const std::int64_t b = n / 780, p = n % 130;
      const bool padding = static_cast<double>(p) >= lengths.get(b) || p == 5;
      ASSERT_EQ(key_buckets.get(n), padding ? 32 : keys.get(n));
    }
    // Queries of head h are hashed as keys of head h / 3 are.
    for (std::int64_t h = 0; h < 6; ++h) {
      ConstTensorView two = query;  // two heads, this one where its key head stands
      two.data = static_cast<const std::byte*>(two.data) +
                 static_cast<std::int64_t>(size_of(dtype)) * two.strides[2] * h;
      two.shape[2] = 2;
      two.strides[2] = 0;
      const Tensor expected = hashed(two, options);
      for (std::int64_t b = 0; b < 2; ++b) {
        for (std::int64_t n = 0; n < 3 * 77; ++n) {
          ASSERT_EQ(query_buckets.get({b, h, n / 77, n % 77}),
                    expected.get({b, h / 3, n / 77, n % 77}));
        }
      }
    }
    LshOptions given = options;
    given.query_buckets = query_buckets;
    given.key_buckets = keys;
    Tensor q(DType::kInt32, {2, 6, 3, 77}), k(DType::kInt32, {2, 2, 3, 130});
    hash_vectors(query, key, q, k, given, key_lengths(lengths) & dense(by_head));
    EXPECT_EQ(q.values(), query_buckets.values());
    EXPECT_EQ(k.values(), key_buckets.values());
  }
}

}  // namespace
}  // namespace longspan::test
