// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The cache against attention over whole tensors, and against a plain list of rows through random
// sequences of its operations.
#include "longspan/kv_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "support/call.h"
#include "support/compare.h"

namespace longspan::test {
namespace {

constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16};

// Tokens first .. last of [batch, seqlen, heads, dim].
ConstTensorView tokens(const Tensor& tensor, std::int64_t first, std::int64_t last) {
  ConstTensorView view = tensor;
  view.data = static_cast<const std::byte*>(view.data) +
              first * view.strides[1] * static_cast<std::int64_t>(size_of(view.dtype));
  view.shape[1] = last - first;
  return view;
}

double element(const ConstTensorView& view, std::int64_t b, std::int64_t n, std::int64_t h,
               std::int64_t d) {
  Tensor copy(view.dtype, {1});
  const std::int64_t offset =
      b * view.strides[0] + n * view.strides[1] + h * view.strides[2] + d * view.strides[3];
  const auto size = static_cast<std::int64_t>(size_of(view.dtype));
  std::memcpy(copy.view().data, static_cast<const std::byte*>(view.data) + offset * size,
              static_cast<std::size_t>(size));
  return copy.get(0);
}

KVCache cache_for(const Inputs& in, std::int64_t capacity = 0) {
  const ConstTensorView key = in.key, value = in.value;
  return {{key.shape[0], key.shape[2], key.shape[3], value.shape[3]}, key.dtype, capacity};
}

Output attend(const KVCache& cache, const Inputs& in, const Execution& execution = {}) {
  Output result = make_output(in, in.query.view().dtype);
  cache.attend(in.query, {result.output, result.lse}, in.options, execution);
  return result;
}

// What the cache holds is rows first .. of the tensors, for the given entries.
void expect_holds(const KVCache& cache, const Inputs& in,
                  const std::vector<std::int64_t>& entries) {
  const ConstTensorView key = cache.key(), value = cache.value();
  ASSERT_EQ(key.shape[0], static_cast<std::int64_t>(entries.size()));
  ASSERT_EQ(key.shape[1], cache.length());
  for (std::size_t b = 0; b < entries.size(); ++b) {
    for (std::int64_t n = 0; n < cache.length(); ++n) {
      for (std::int64_t h = 0; h < key.shape[2]; ++h) {
        const auto at = static_cast<std::int64_t>(b);
        for (std::int64_t d = 0; d < key.shape[3]; ++d) {
          ASSERT_EQ(element(key, at, n, h, d), in.key.get({entries[b], n, h, d}));
        }
        for (std::int64_t d = 0; d < value.shape[3]; ++d) {
          ASSERT_EQ(element(value, at, n, h, d), in.value.get({entries[b], n, h, d}));
        }
      }
    }
  }
}

TEST(KVCache, StepsEqualTheWhole) {
  for (const DType dtype : kTypes) {
    for (const std::int64_t queries : {1, 3}) {
      Inputs in = normal_inputs({.batch = 2,
                                 .seqlen_q = queries,
                                 .seqlen_k = 67,
                                 .heads = 6,
                                 .heads_kv = 2,
                                 .head_dim = 20,
                                 .head_dim_v = 12},
                                dtype, 3);
      in.options.mask = causal();
      KVCache cache = cache_for(in);
      for (std::int64_t n = 0; n < 67; ++n) {
        cache.append(tokens(in.key, n, n + 1), tokens(in.value, n, n + 1));
        ASSERT_EQ(cache.length(), n + 1);
        ASSERT_GE(cache.capacity(), n + 1);
      }
      expect_holds(cache, in, {0, 1});
      const Output result = attend(cache, in);
      in.options.query_offset = QueryOffset::end();
      EXPECT_TRUE(matches_reference(result, in)) << longspan::name_of(dtype);
      in.options.query_offset = 30;  // said by the caller
      EXPECT_TRUE(matches_reference(attend(cache, in), in));
    }
  }
}

TEST(KVCache, MasksAndScoreTermsAreThoseOfAttention) {
  Inputs in = normal_inputs({.batch = 2,
                             .seqlen_q = 2,
                             .seqlen_k = 150,
                             .heads = 4,
                             .heads_kv = 2,
                             .head_dim = 16,
                             .head_dim_v = 16},
                            DType::kFloat32, 4);
  KVCache cache = cache_for(in, 150);
  cache.append(in.key, in.value);
  in.options.query_offset = QueryOffset::end();
  const Tensor lengths = in.keep(integers({150, 77}));
  Tensor slopes(DType::kFloat32, {4});
  Random random(5);
  slopes.fill_normal(random);
  for (const Mask& mask : {Mask(), window(20, 0), key_lengths(lengths.view()) & causal()}) {
    in.options.mask = mask;
    in.options.softcap = 3;
    in.options.alibi_slopes = slopes.view();
    EXPECT_TRUE(matches_reference(attend(cache, in), in));
  }
}

TEST(KVCache, PrefillInPiecesEqualsOnePrefill) {
  constexpr std::int64_t kTokens = 97;
  const Inputs whole = normal_inputs({.seqlen_q = kTokens,
                                      .seqlen_k = kTokens,
                                      .heads = 4,
                                      .heads_kv = 2,
                                      .head_dim = 24,
                                      .head_dim_v = 24},
                                     DType::kFloat32, 6);
  AttentionOptions options;
  options.mask = causal();
  Output expected = make_output(whole, DType::kFloat32);
  attention(whole.query, whole.key, whole.value, {expected.output, expected.lse}, options);

  KVCache cache = cache_for(whole);
  std::vector<double> rows;
  for (const auto& [first, last] : {std::pair<std::int64_t, std::int64_t>{0, 40},
                                    {40, 41},
                                    {41, 41},
                                    {41, 57},
                                    {57, kTokens}}) {
    cache.append(tokens(whole.key, first, last), tokens(whole.value, first, last));
    Tensor output(DType::kFloat32, {1, last - first, 4, 24});
    cache.attend(tokens(whole.query, first, last), {output, {}}, options);
    const std::vector<double> piece = output.values();
    rows.insert(rows.end(), piece.begin(), piece.end());
  }
  EXPECT_TRUE(within_rel_l2(rows, expected.output.values(), 2e-6));
}

TEST(KVCache, AnEmptyCacheGivesTheIdentity) {
  const Inputs in =
      normal_inputs({.seqlen_q = 2, .heads = 2, .heads_kv = 1, .head_dim = 8, .head_dim_v = 4},
                    DType::kFloat32, 7);
  const KVCache cache({1, 1, 8, 4}, DType::kFloat32);
  EXPECT_EQ(cache.length(), 0);
  EXPECT_EQ(cache.bytes(), 0u);
  const Output result = attend(cache, in);
  for (const double x : result.output.values()) EXPECT_EQ(x, 0);
  for (const double x : result.lse.values()) EXPECT_EQ(x, -std::numeric_limits<double>::infinity());
}

TEST(KVCache, GrowsByDoublingAndKeepsWhatItHolds) {
  const Inputs in =
      normal_inputs({.seqlen_q = 1, .seqlen_k = 200, .heads = 1, .head_dim = 3, .head_dim_v = 5},
                    DType::kBFloat16, 8);
  KVCache cache = cache_for(in, 5);
  EXPECT_EQ(cache.capacity(), 5);
  EXPECT_EQ(cache.bytes(), 5u * (3 + 5) * 2);
  cache.append(tokens(in.key, 0, 5), tokens(in.value, 0, 5));
  EXPECT_EQ(cache.capacity(), 5);
  cache.append(tokens(in.key, 5, 5), tokens(in.value, 5, 5));
  EXPECT_EQ(cache.capacity(), 5) << "nothing was appended";
  cache.append(tokens(in.key, 5, 20), tokens(in.value, 5, 20));
  EXPECT_EQ(cache.capacity(), 20);
  cache.append(tokens(in.key, 20, 21), tokens(in.value, 20, 21));
  EXPECT_EQ(cache.capacity(), 40);
  expect_holds(cache, in, {0});
}

TEST(KVCache, TakesAnyStridesAndViewsOfItself) {
  Random random(9);
  for (const Layout layout : {Layout::kSwapped, Layout::kReversed, Layout::kGaps,
                              Layout::kPaddedRow, Layout::kBroadcast}) {
    Inputs in;
    in.key = Tensor(DType::kFloat32, {2, 9, 2, 7}, layout).fill_normal(random);
    in.value = Tensor(DType::kFloat32, {2, 9, 2, 4}, layout).fill_normal(random);
    KVCache cache({2, 2, 7, 4}, DType::kFloat32, 9);
    cache.append(in.key, in.value);
    expect_holds(cache, in, {0, 1});
    cache.append(cache.key(), cache.value());  // grows
    ASSERT_EQ(cache.length(), 18);
    EXPECT_EQ(element(cache.key(), 1, 17, 1, 6), in.key.get({1, 8, 1, 6}));
    cache.truncate(9);
    cache.append(cache.key(), cache.value());  // does not
    EXPECT_EQ(element(cache.value(), 1, 12, 0, 3), in.value.get({1, 3, 0, 3}));
  }
}

TEST(KVCache, TruncateForgets) {
  const Inputs in =
      normal_inputs({.seqlen_q = 1, .seqlen_k = 30, .heads = 2, .head_dim = 8, .head_dim_v = 8},
                    DType::kFloat32, 10);
  KVCache cache({1, 1, 8}, DType::kFloat32);
  cache.append(in.key, in.value);
  cache.truncate(11);
  EXPECT_EQ(cache.length(), 11);
  expect_holds(cache, in, {0});
  cache.append(tokens(in.key, 11, 30), tokens(in.value, 11, 30));
  expect_holds(cache, in, {0});
  cache.truncate(0);
  EXPECT_EQ(cache.length(), 0);
  EXPECT_GE(cache.capacity(), 30);
}

TEST(KVCache, ReorderPicksEntries) {
  const Inputs in = normal_inputs({.batch = 3,
                                   .seqlen_q = 1,
                                   .seqlen_k = 6,
                                   .heads = 2,
                                   .heads_kv = 2,
                                   .head_dim = 4,
                                   .head_dim_v = 4},
                                  DType::kFloat32, 11);
  for (const std::vector<std::int64_t>& indices :
       {std::vector<std::int64_t>{2, 0, 0}, {1}, {0, 1, 2, 2, 1}, {}}) {
    KVCache cache = cache_for(in, 8);
    cache.append(in.key, in.value);
    cache.reorder(indices);
    EXPECT_EQ(cache.shape().batch, static_cast<std::int64_t>(indices.size()));
    EXPECT_EQ(cache.length(), 6);
    EXPECT_EQ(cache.capacity(), 8);
    expect_holds(cache, in, indices);
  }
}

TEST(KVCache, AnEntryAloneHasTheSameBits) {
  Inputs in = normal_inputs({.batch = 3,
                             .seqlen_q = 1,
                             .seqlen_k = 301,
                             .heads = 4,
                             .heads_kv = 2,
                             .head_dim = 32,
                             .head_dim_v = 32},
                            DType::kBFloat16, 12);
  KVCache cache = cache_for(in);
  cache.append(in.key, in.value);
  const Output all = attend(cache, in);
  const std::vector<std::int64_t> last = {2};
  cache.reorder(last);
  Tensor query(DType::kBFloat16, {1, 1, 4, 32});
  for (std::int64_t n = 0; n < query.size(); ++n) query.set(n, in.query.get(2 * 4 * 32 + n));
  Tensor output(DType::kBFloat16, {1, 1, 4, 32});
  cache.attend(query, {output, {}});
  for (std::int64_t n = 0; n < output.size(); ++n) {
    ASSERT_EQ(output.get(n), all.output.get(2 * 4 * 32 + n));
  }
}

TEST(KVCache, ErrorsSayWhatWasFound) {
  const auto refuses = [](const auto& call, std::initializer_list<std::string> words) {
    EXPECT_TRUE(throws_error(call, ErrorCode::kInvalidArgument, words));
  };
  refuses([] { KVCache({1, 0, 8}, DType::kFloat32); }, {"num_heads_kv", "0"});
  refuses([] { KVCache({-1, 1, 8}, DType::kFloat32); }, {"batch", "-1"});
  refuses([] { KVCache({1, 1, 0}, DType::kFloat32); }, {"head_dim", "0"});
  refuses([] { KVCache({1, 1, 8, -2}, DType::kFloat32); }, {"head_dim_v", "-2"});
  refuses([] { KVCache({1, 1, 8}, DType::kInt32); }, {"dtype", "int32"});
  refuses([] { KVCache({1, 1, 8}, DType::kFloat32, -1); }, {"capacity", "-1"});
  refuses([] { KVCache({1, 1, 8}, DType::kFloat32, std::int64_t{1} << 57); }, {"2^60"});

  const Inputs in = normal_inputs({.batch = 2,
                                   .seqlen_q = 1,
                                   .seqlen_k = 4,
                                   .heads = 2,
                                   .heads_kv = 2,
                                   .head_dim = 8,
                                   .head_dim_v = 6},
                                  DType::kFloat32, 13);
  KVCache cache = cache_for(in);
  cache.append(in.key, in.value);
  const Tensor half(DType::kFloat16, {2, 1, 2, 8}), flat(DType::kFloat32, {1, 2, 8});
  const Tensor narrow(DType::kFloat32, {2, 1, 2, 7});
  const ConstTensorView key = tokens(in.key, 0, 1), value = tokens(in.value, 0, 1);
  refuses([&] { cache.append(half, value); }, {"key", "float16", "float32"});
  refuses([&] { cache.append(flat, value); }, {"key", "[2, n, 2, 8]", "[1, 2, 8]"});
  refuses([&] { cache.append(key, narrow); }, {"value", "[2, n, 2, 6]", "[2, 1, 2, 7]"});
  refuses([&] { cache.append(key, in.value); }, {"key has 1", "value has 4"});
  ConstTensorView null = key;
  null.data = nullptr;
  refuses([&] { cache.append(null, value); }, {"key", "null"});
  refuses([&] { cache.truncate(5); }, {"4", "5"});
  refuses([&] { cache.truncate(-1); }, {"-1"});
  const std::vector<std::int64_t> beyond = {0, 2};
  refuses([&] { cache.reorder(beyond); }, {"index 1", "2"});
  EXPECT_EQ(cache.length(), 4);
  expect_holds(cache, in, {0, 1});
}

TEST(KVCache, AFailedAllocationLeavesItAsItWas) {
  const Inputs in =
      normal_inputs({.seqlen_q = 1, .seqlen_k = 4, .heads = 1, .head_dim = 8, .head_dim_v = 8},
                    DType::kFloat32, 14);
  KVCache cache = cache_for(in);
  cache.append(in.key, in.value);
  const std::int64_t capacity = cache.capacity();
  // 2^50 tokens that all are one row: 2^55 bytes of keys, more than any address space.
  ConstTensorView endless = tokens(in.key, 0, 1);
  endless.shape[1] = std::int64_t{1} << 50;
  endless.strides[1] = 0;
  EXPECT_TRUE(throws_error([&] { cache.append(endless, endless); }, ErrorCode::kOutOfMemory,
                           {"allocation"}));
  EXPECT_EQ(cache.length(), 4);
  EXPECT_EQ(cache.capacity(), capacity);
  expect_holds(cache, in, {0});
}

TEST(KVCache, Moves) {
  const Inputs in =
      normal_inputs({.seqlen_q = 1, .seqlen_k = 4, .heads = 1, .head_dim = 8, .head_dim_v = 8},
                    DType::kFloat32, 15);
  KVCache first = cache_for(in);
  first.append(in.key, in.value);
  KVCache second = std::move(first);
  expect_holds(second, in, {0});
  first = KVCache({1, 1, 2}, DType::kFloat64);
  EXPECT_EQ(first.dtype(), DType::kFloat64);
}

}  // namespace
}  // namespace longspan::test
