// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Decoding with hashed keys: every step and every option, what it refuses, what it leaves as it
// was.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "lsh_cache_testing.h"

namespace longspan::test {
namespace {

constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16};

TEST(LshCache, EveryStepIsTheLastRowOfAPrefill) {
  for (const bool shared : {false, true}) {
    for (const DType dtype : kTypes) {
      for (const std::int64_t chunk_len : {1, 7, 16}) {
        LshInputs in = inputs_of(shared, dtype, 70, 3);
        in.lsh.chunk_len = chunk_len;
        in.lsh.dedup = dtype == DType::kFloat64 ? Dedup::kNone : Dedup::kExact;
        LshCache cache = cache_for(in);
        for (std::int64_t n = 0; n < 70; ++n) {
          append(cache, in, n, n + 1);
          ASSERT_EQ(cache.length(), n + 1);
          ASSERT_TRUE(is_prefill(cache, in, 1))
              << longspan::name_of(dtype) << ", chunks of " << chunk_len << ", token " << n
              << ", shared " << shared;
        }
        EXPECT_TRUE(is_prefill(cache, in, 3));
      }
    }
  }
}

TEST(LshCache, EveryOptionIsThatOfLshAttention) {
  for (const bool shared : {false, true}) {
    for (const Dedup dedup : {Dedup::kExact, Dedup::kLogCount, Dedup::kNone}) {
      for (const Wrap wrap : {Wrap::kNone, Wrap::kRound, Wrap::kAll}) {
        if (!shared && wrap != Wrap::kNone) continue;
        for (int variant = 0; variant < 6; ++variant) {
          LshInputs in = inputs_of(shared, DType::kFloat32, 100, 4);
          in.lsh.dedup = dedup;
          in.lsh.wrap = wrap;
          in.lsh.chunk_len = 9;
          if (variant == 1) in.lsh.chunks_after = 2;
          if (variant == 2) in.lsh.chunks_before = 13;  // more than there are
          if (variant == 3) in.lsh.local_window = {{12, 0}};
          if (variant == 4 && wrap == Wrap::kNone) in.lsh.whole_buckets = true;
          if (variant == 5) {
            in.lsh.self_rule = SelfRule::kAssigned;
            in.lsh.self_score = 0.5;
            in.lsh.key_norm = KeyNorm::kL2;
          }
          LshCache cache = cache_for(in);
          append(cache, in, 0, 100);
          EXPECT_TRUE(is_prefill(cache, in, 4))
              << "shared " << shared << ", dedup " << static_cast<int>(dedup) << ", wrap "
              << static_cast<int>(wrap) << ", variant " << variant;
        }
      }
    }
  }
}

TEST(LshCache, MasksAndScoreTermsAreThoseOfLshAttention) {
  for (const bool shared : {false, true}) {
    LshInputs in = inputs_of(shared, DType::kFloat32, 150, 5);
    in.lsh.chunk_len = 8;
    const std::int64_t heads = in.query.shape()[2];
    Random random(6);
    Tensor slopes(DType::kFloat32, {heads}), sinks(DType::kFloat32, {heads});
    in.options.alibi_slopes = slopes.fill_normal(random).view();
    in.options.sinks = sinks.fill_normal(random).view();
    in.options.softcap = 3;
    if (!shared) in.options.scale = -0.3;
    in.lsh.self_score = 0.5;  // who hides a row from itself shows
    LshCache cache = cache_for(in);
    append(cache, in, 0, 150);
    for (const Mask& mask : {Mask(), causal(), window(40, 0), window(40, 0) & prefix(9),
                             causal() & key_range(3, 146)}) {
      in.options.mask = mask;
      EXPECT_TRUE(is_prefill(cache, in, 2));
    }
  }
}

TEST(LshCache, AQueryOffsetMovesTheWindows) {
  LshInputs in = inputs_of(/*shared=*/false, DType::kFloat32, 90, 7);
  LshCache cache = cache_for(in);
  append(cache, in, 0, 90);
  for (const std::int64_t offset : {-3, 0, 41, 89, 200}) {
    in.options.query_offset = offset;
    const ConstTensorView query = tokens(in.query, 0, 2);
    Output expected = results_for(query, 17, DType::kFloat32);
    lsh_attention(query, in.key, in.value, {expected.output, expected.lse}, in.lsh, in.options);
    Output found = results_for(query, 17, DType::kFloat32);
    cache.attend(query, {found.output, found.lse}, in.options);
    EXPECT_TRUE(agrees(found, expected, DType::kFloat32)) << offset;
  }
}

TEST(LshCache, DocumentsAndPredicatesAreThoseOfLshAttention) {
  LshInputs in = entry_of(inputs_of(/*shared=*/false, DType::kFloat32, 90, 18), 0);
  in.lsh.chunk_len = 7;
  const Tensor queries = integers({0, 1, 3}), keys = integers({0, 50, 90});
  const Mask packed = documents(queries.view(), keys.view());
  const Mask odd = predicate([](std::int64_t, std::int64_t head, std::int64_t i, std::int64_t j) {
    return (i + j + head) % 3 != 0;
  });
  Tensor some(DType::kBool, {3, 90});
  for (std::int64_t n = 0; n < some.size(); ++n) some.set(n, n % 7 < 4 ? 1 : 0);
  for (const Mask& mask : {packed, packed & causal(), odd & causal(), dense(some.view())}) {
    for (const bool local : {false, true}) {
      in.lsh.local_window.reset();
      if (local) in.lsh.local_window = {{5, 1}};
      LshCache cache = cache_for(in);
      append(cache, in, 0, 90);
      in.options.mask = mask;
      EXPECT_TRUE(is_prefill(cache, in, 3)) << local;
    }
  }
}

TEST(LshCache, WithOneBucketItIsExactAttention) {
  LshInputs in = inputs_of(/*shared=*/false, DType::kFloat32, 200, 8);
  in.lsh.whole_buckets = true;
  in.lsh.num_buckets = {2};
  in.lsh.num_hashes = 1;
  Tensor rotations(DType::kFloat32, {2, 24, 1, 1});
  in.lsh.rotations = rotations.fill(0);  // a tie, which the first bucket wins
  LshCache cache = cache_for(in);
  append(cache, in, 0, 200);
  KVCache exact({2, 2, 24, 17}, DType::kFloat32);
  exact.append(in.key, in.value);
  const ConstTensorView query = tokens(in.query, 197, 200);
  Output expected = results_for(query, 17, DType::kFloat32);
  exact.attend(query, {expected.output, expected.lse}, in.options);
  EXPECT_TRUE(agrees(decode(cache, in, 3), expected, DType::kFloat32));
}

TEST(LshCache, ThousandsOfTokens) {
  for (const bool shared : {false, true}) {
    LshInputs in = inputs_of(shared, DType::kFloat32, 5003, 9);
    in.lsh.chunk_len = 64;
    in.lsh.num_buckets = {};
    LshCache cache = cache_for(in, 4096);
    EXPECT_EQ(cache.options().num_buckets, choose_num_buckets(4096, 64));
    in.lsh.num_buckets = cache.options().num_buckets;
    append(cache, in, 0, 5000);
    EXPECT_TRUE(is_prefill(cache, in, 1));
    for (std::int64_t n = 5000; n < 5003; ++n) append(cache, in, n, n + 1);
    EXPECT_TRUE(is_prefill(cache, in, 3));
  }
}

TEST(LshCache, GivenRotationsAreThoseOfTheSeed) {
  LshInputs in = inputs_of(/*shared=*/true, DType::kFloat32, 90, 10);
  LshCache drawn = cache_for(in);
  append(drawn, in, 0, 90);
  {
    Tensor rotations(DType::kFloat64, {2, 20, in.lsh.num_hashes, 3});
    draw_rotations(rotations, in.lsh.seed);
    LshInputs other = in;
    other.lsh.seed = 77;
    other.lsh.rotations = rotations.view();
    LshCache given = cache_for(other);
    rotations.fill(0);  // they are copied
    append(given, in, 0, 90);
    EXPECT_TRUE(same_bits(decode(given, in, 2), decode(drawn, in, 2)));
  }
  LshInputs other = in;
  other.lsh.seed = 77;
  LshCache elsewhere = cache_for(other);
  append(elsewhere, in, 0, 90);
  EXPECT_FALSE(same_bits(decode(elsewhere, in, 2), decode(drawn, in, 2)));
}

TEST(LshCache, BitsHangOnNothingButTheTokens) {
  for (const bool shared : {false, true}) {
    for (const DType dtype : kTypes) {
      const LshInputs in = inputs_of(shared, dtype, 300, 11);
      LshCache cache = cache_for(in, 300);
      append(cache, in, 0, 300);
      const Output one = decode(cache, in, 3, on("", 1), dtype);
      for (const int threads : {2, 3}) {
        EXPECT_TRUE(same_bits(decode(cache, in, 3, on("", threads), dtype), one)) << threads;
      }
      LshCache pieces = cache_for(in);
      for (const auto& [first, last] : {std::pair<std::int64_t, std::int64_t>{0, 17},
                                        {17, 18},
                                        {18, 18},
                                        {18, 290},
                                        {290, 300}}) {
        append(pieces, in, first, last);
      }
      EXPECT_TRUE(same_bits(decode(pieces, in, 3, on("", 2), dtype), one));
      pieces.truncate(203);
      append(pieces, in, 203, 300);
      EXPECT_TRUE(same_bits(decode(pieces, in, 3, {}, dtype), one));
      const std::vector<std::int64_t> last = {1};
      cache.reorder(last);
      const LshInputs entry = entry_of(in, 1);
      const Output alone = decode(cache, entry, 3, {}, dtype);
      EXPECT_TRUE(same_bits(alone.output, entry_of(one.output, 1)));
      EXPECT_TRUE(same_bits(alone.lse, entry_of(one.lse, 1)));
    }
  }
}

TEST(LshCache, HiddenKeysLeakNothing) {
  for (const bool shared : {false, true}) {
    LshInputs in = inputs_of(shared, DType::kFloat32, 120, 12);
    in.options.mask = window(30, 0);
    LshCache clean = cache_for(in);
    append(clean, in, 0, 120);
    const Output expected = decode(clean, in, 2);
    for (const double poison : {std::nan(""), std::numeric_limits<double>::infinity()}) {
      LshInputs bad = in;
      bad.value = Tensor(DType::kFloat32, in.value.shape()).fill_values(in.value.values());
      for (std::int64_t n = 0; n < 80; ++n) {
        for (std::int64_t b = 0; b < 2; ++b) bad.value.set({b, n, 1, 5}, poison);
      }
      LshCache cache = cache_for(bad);
      append(cache, bad, 0, 120);
      EXPECT_TRUE(same_bits(decode(cache, bad, 2), expected));
      // Keys that are not finite are hashed somewhere else.
      Tensor& keys = shared ? bad.query : bad.key;
      keys = Tensor(DType::kFloat32, keys.shape()).fill_values(keys_of(in).values());
      for (std::int64_t n = 0; n < 80; ++n) keys.set({1, n, 0, 3}, poison);
      LshCache second = cache_for(bad);
      append(second, bad, 0, 120);
      const Output found = decode(second, bad, 2);
      for (const double x : found.output.values()) ASSERT_TRUE(std::isfinite(x));
      EXPECT_TRUE(agrees(found, prefill(bad, 120, 2), DType::kFloat32));
      // Seen, they are NaN.
      bad.options.mask = causal();
      EXPECT_TRUE(agrees(decode(second, bad, 2), prefill(bad, 120, 2), DType::kFloat32));
    }
  }
}

TEST(LshCache, AnEmptyCacheGivesTheIdentity) {
  const LshInputs in = inputs_of(/*shared=*/false, DType::kFloat32, 5, 13);
  const LshCache cache = cache_for(in);
  EXPECT_EQ(cache.length(), 0);
  EXPECT_EQ(cache.capacity(), 0);
  Output result = results_for(in.query, 17, DType::kFloat32);
  cache.attend(in.query, {result.output, result.lse}, in.options);
  for (const double x : result.output.values()) EXPECT_EQ(x, 0);
  for (const double x : result.lse.values()) EXPECT_EQ(x, -std::numeric_limits<double>::infinity());
}

TEST(LshCache, MemoryIsSaidAndMoves) {
  const LshInputs in = inputs_of(/*shared=*/true, DType::kFloat32, 100, 14);
  LshCache first = cache_for(in);
  const std::size_t empty = first.bytes();
  EXPECT_GT(empty, 0U);  // rotations and buckets
  append(first, in, 0, 100);
  EXPECT_GT(first.bytes(), empty + std::size_t{2} * 2 * 100 * (40 * 4 + 4 * 8 + 4));
  LshCache second = std::move(first);
  EXPECT_TRUE(is_prefill(second, in, 1));
  EXPECT_EQ(second.query_key(), QueryKey::kShared);
  EXPECT_EQ(second.shape().num_heads_kv, 2);
  first = cache_for(in);
  EXPECT_EQ(first.length(), 0);
  second.truncate(0);
  append(second, in, 0, 100);
  EXPECT_TRUE(is_prefill(second, in, 1));
}

TEST(LshCache, ErrorsSayWhatWasFound) {
  const auto refuses = [](const auto& call, std::initializer_list<std::string> words) {
    EXPECT_TRUE(throws_error(call, ErrorCode::kInvalidArgument, words));
  };
  const auto make = [](const LshOptions& options, std::int64_t capacity = 0,
                       QueryKey query_key = QueryKey::kSeparate) {
    LshCache({1, 1, 8}, DType::kFloat32, query_key, options, capacity);
  };
  LshOptions options;
  refuses([&] { make(options); }, {"lsh_cache", "num_buckets", "capacity"});
  options.num_buckets = {3};
  refuses([&] { make(options); }, {"lsh_cache", "even", "3"});
  options.num_buckets = {1 << 13, 1 << 13};
  refuses([&] { make(options); }, {"num_buckets", "16777216", "67108864"});
  options.num_buckets = {4};
  options.wrap = Wrap::kAll;
  refuses([&] { make(options); }, {"wrap none"});
  make(options, 0, QueryKey::kShared);
  options.wrap = Wrap::kNone;
  options.num_hashes = 0;
  refuses([&] { make(options); }, {"num_hashes", "0"});
  options.num_hashes = 2;
  const Tensor rotations(DType::kFloat32, {1, 8, 2, 3}), buckets(DType::kInt32, {1, 1, 2, 5});
  options.rotations = rotations.view();
  refuses([&] { make(options); }, {"rotations", "[1, 8, 2, 2]", "[1, 8, 2, 3]"});
  options.rotations = {};
  options.buckets = buckets.view();
  refuses([&] { make(options, 0, QueryKey::kShared); }, {"hashed here", "buckets"});
  options.buckets = {};
  refuses(
      [&] {
        LshCache({1, 0, 8}, DType::kFloat32, QueryKey::kShared, options);
      },
      {"lsh_cache", "num_heads_kv", "0"});

  LshInputs in = inputs_of(/*shared=*/true, DType::kFloat32, 40, 15);
  LshCache cache = cache_for(in);
  append(cache, in, 0, 40);
  const Output before = decode(cache, in, 2);
  const Tensor half(DType::kFloat16, {2, 1, 2, 20});
  refuses([&] { cache.append(half, half); }, {"lsh_cache: append: query_key", "float16"});
  refuses([&] { append(cache, inputs_of(false, DType::kFloat32, 3, 1), 0, 3); },
          {"[2, n, 2, 20]", "[2, 3, 2, 24]"});
  refuses([&] { cache.append(in.query, in.value, on("", -1)); }, {"threads", "-1"});
  refuses([&] { cache.truncate(41); }, {"lsh_cache: truncate", "40", "41"});
  const std::vector<std::int64_t> beyond = {0, 2};
  refuses([&] { cache.reorder(beyond); }, {"lsh_cache: reorder", "index 1", "2"});

  const auto attend = [&](const ConstTensorView& query) {
    Output result = results_for(query, 20, DType::kFloat32);
    cache.attend(query, {result.output, result.lse}, in.options);
  };
  refuses([&] { attend(tokens(in.query, 37, 39)); }, {"newest", "query [0, 0, 0]", "row 38"});
  const Tensor narrow(DType::kFloat32, {2, 1, 1, 20}), many(DType::kFloat32, {2, 41, 2, 20});
  refuses([&] { attend(narrow); }, {"num_heads", "1", "2"});
  refuses([&] { attend(many); }, {"newest of 40", "41"});
  const ConstTensorView query = tokens(in.query, 39, 40);
  in.options.scale = 2;
  refuses([&] { attend(query); }, {"lsh_cache: attend", "scale", "2"});
  in.options = {};
  in.options.dropout.probability = 0.5;
  refuses([&] { attend(query); }, {"dropout", "0.5"});
  in.options = {};
  const Tensor bias(DType::kFloat32, {1, 40}), visible(DType::kBool, {1, 40});
  const Tensor lengths = integers({40, 3});
  in.options.bias = bias.view();
  refuses([&] { attend(query); }, {"bias"});
  in.options = {};
  for (const Mask& mask : {key_lengths(lengths.view()), causal() & dense(visible.view())}) {
    in.options.mask = mask;
    refuses([&] { attend(query); }, {"padding", "causal"});
  }
  in.options = {};
  in.options.mask = causal();
  EXPECT_EQ(cache.length(), 40);
  EXPECT_TRUE(same_bits(decode(cache, in, 2), before));
}

TEST(LshCache, KeepsTheMemoryLimitAndCountsItsWork) {
  const LshInputs in = inputs_of(/*shared=*/false, DType::kFloat32, 400, 17);
  LshCache cache = cache_for(in);
  append(cache, in, 0, 400);
  Execution execution = on("", 2);
  execution.memory_limit = 1000;
  EXPECT_TRUE(throws_error([&] { decode(cache, in, 2, execution); }, ErrorCode::kOutOfMemory,
                           {"lsh_cache: attend", "memory_limit", "1000"}));
  execution.memory_limit = 0;
  Progress progress;
  execution.progress = &progress;
  decode(cache, in, 2, execution);
  EXPECT_GE(progress.total, 2 * 4 * 2);
  EXPECT_EQ(progress.done, progress.total);
}

TEST(LshCache, AFailedAllocationLeavesItAsItWas) {
  const LshInputs in = inputs_of(/*shared=*/true, DType::kFloat32, 40, 16);
  LshCache cache = cache_for(in);
  append(cache, in, 0, 40);
  const Output before = decode(cache, in, 2);
  ConstTensorView endless = tokens(in.query, 0, 1);  // 2^50 tokens that are one row
  endless.shape[1] = std::int64_t{1} << 50;
  endless.strides[1] = 0;
  EXPECT_TRUE(throws_error([&] { cache.append(endless, endless); }, ErrorCode::kOutOfMemory,
                           {"allocation"}));
  Execution stopped;
  std::stop_source source;
  source.request_stop();
  stopped.stop = source.get_token();
  EXPECT_TRUE(throws_error([&] { cache.append(in.query, in.value, stopped); },
                           ErrorCode::kCancelled, {"stopped"}));
  EXPECT_EQ(cache.length(), 40);
  EXPECT_TRUE(same_bits(decode(cache, in, 2), before));
  EXPECT_TRUE(is_prefill(cache, in, 2));
}

}  // namespace
}  // namespace longspan::test
