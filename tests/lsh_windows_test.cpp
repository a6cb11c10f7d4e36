// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Windows of chunks against a literal enumeration, ranks and windows of separate queries against
// the definition.
#include <gtest/gtest.h>

#include "longspan/lsh_attention.h"
#include "reference/lsh_reference.h"
#include "support/call.h"
#include "support/tensor.h"

namespace longspan::test {
namespace {

std::vector<ChunkPlace> listed(const ChunkWindow& window) {
  std::vector<ChunkPlace> places;
  for (std::int64_t n = 0; n < window.size(); ++n) places.push_back(window[n]);
  return places;
}

TEST(LshWindows, AreThoseOfTheDefinition) {
  for (const Wrap wrap : {Wrap::kNone, Wrap::kRound, Wrap::kAll}) {
    for (const std::int64_t rounds : {1, 2, 5}) {
      for (const std::int64_t chunks : {1, 2, 3, 7}) {
        for (const std::int64_t before : {0, 1, 2, 3, 20}) {
          for (const std::int64_t after : {0, 1, 2, 20}) {
            LshOptions options;
            options.num_hashes = rounds;
            options.wrap = wrap;
            options.chunks_before = before;
            options.chunks_after = after;
            for (std::int64_t round = 0; round < rounds; ++round) {
              for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
                ASSERT_EQ(listed(ChunkWindow(options, chunks, {round, chunk})),
                          reference::window_of_chunk(options, chunks, {round, chunk}))
                    << rounds << " rounds of " << chunks << ", chunk " << chunk << " of " << round
                    << ", " << before << " before, " << after << " after";
              }
            }
          }
        }
      }
    }
  }
}

TEST(LshWindows, ByHand) {
  using Places = std::vector<ChunkPlace>;
  LshOptions options;
  options.num_hashes = 3;
  options.chunks_after = 1;
  EXPECT_EQ(listed({options, 4, {1, 0}}), (Places{{1, 0}, {1, 1}}));
  EXPECT_EQ(listed({options, 4, {1, 3}}), (Places{{1, 2}, {1, 3}}));
  options.wrap = Wrap::kRound;
  EXPECT_EQ(listed({options, 4, {1, 0}}), (Places{{1, 3}, {1, 0}, {1, 1}}));
  options.wrap = Wrap::kAll;
  EXPECT_EQ(listed({options, 4, {1, 0}}), (Places{{0, 3}, {1, 0}, {1, 1}}));
  EXPECT_EQ(listed({options, 4, {0, 0}}), (Places{{2, 3}, {0, 0}, {0, 1}}));
  EXPECT_EQ(listed({options, 4, {2, 3}}), (Places{{2, 2}, {2, 3}, {0, 0}}));
  options.num_hashes = 1;
  EXPECT_EQ(listed({options, 2, {0, 0}}), (Places{{0, 1}, {0, 0}, {0, 1}})) << "listed again";
}

TEST(LshWindows, Chunks) {
  EXPECT_EQ(count_chunks(0, 64), 0);
  EXPECT_EQ(count_chunks(1, 64), 1);
  EXPECT_EQ(count_chunks(64, 64), 1);
  EXPECT_EQ(count_chunks(65, 64), 2);
  EXPECT_EQ(count_chunks(INT64_MAX, INT64_MAX - 1), 2);
}

// Keys are counted one by one.
TEST(LshWindows, RanksOfQueries) {
  Random random(41);
  for (const std::int64_t seqlen_k : {0, 1, 5, 97}) {
    const std::int64_t seqlen_q = 31;
    Tensor query_buckets(DType::kInt32, {2, 4, 3, seqlen_q}, Layout::kSwapped);
    Tensor key_buckets(DType::kInt64, {2, 2, 3, seqlen_k}, Layout::kReversed);
    Tensor order(DType::kInt32, {2, 2, 3, seqlen_k});
    Tensor positions(DType::kInt64, {2, seqlen_q});
    for (Tensor* tensor : {&query_buckets, &key_buckets}) {
      for (std::int64_t n = 0; n < tensor->size(); ++n) {
        tensor->set(n, static_cast<double>(random.between(0, 6)));
      }
    }
    for (std::int64_t n = 0; n < positions.size(); ++n) {
      positions.set(n, static_cast<double>(random.between(-5, seqlen_k + 5)));
    }
    sort_by_bucket(key_buckets, order);
    Tensor ranks(DType::kInt32, {2, 4, 3, seqlen_q}, Layout::kGaps);
    Tensor in_place(DType::kInt32, {2, 4, 3, seqlen_q});
    rank_queries(query_buckets, key_buckets, order, positions, ranks);
    rank_queries(query_buckets, key_buckets, order, {}, in_place);
    for (std::int64_t b = 0; b < 2; ++b) {
      for (std::int64_t h = 0; h < 4; ++h) {
        for (std::int64_t r = 0; r < 3; ++r) {
          for (std::int64_t i = 0; i < seqlen_q; ++i) {
            std::int64_t rank = 0, rank_in_place = 0;
            const double bucket = query_buckets.get({b, h, r, i});
            for (std::int64_t j = 0; j < seqlen_k; ++j) {
              const double key = key_buckets.get({b, h / 2, r, j});
              const auto p = static_cast<double>(j);
              rank += key < bucket || (key == bucket && p <= positions.get({b, i})) ? 1 : 0;
              rank_in_place += key < bucket || (key == bucket && j <= i) ? 1 : 0;
            }
            ASSERT_EQ(ranks.get({b, h, r, i}), static_cast<double>(rank));
            ASSERT_EQ(in_place.get({b, h, r, i}), static_cast<double>(rank_in_place));
          }
        }
      }
    }
  }
}

TEST(LshWindows, ChunksOfARank) {
  LshOptions options;
  options.chunk_len = 4;
  const auto range = [&](std::int64_t seqlen, std::int64_t rank) {
    return chunks_of_rank(options, seqlen, rank);
  };
  EXPECT_EQ(range(0, 0), (ChunkRange{0, 0}));
  EXPECT_EQ(range(11, 0), (ChunkRange{0, 1}));
  EXPECT_EQ(range(11, 1), (ChunkRange{0, 1}));
  EXPECT_EQ(range(11, 4), (ChunkRange{0, 1}));
  EXPECT_EQ(range(11, 5), (ChunkRange{0, 2}));
  EXPECT_EQ(range(11, 11), (ChunkRange{1, 3}));
  options.chunks_before = 0;
  options.chunks_after = 5;
  EXPECT_EQ(range(11, 0), (ChunkRange{0, 3}));
  EXPECT_EQ(range(40, 5), (ChunkRange{1, 7}));
}

TEST(LshWindows, WhatIsRefused) {
  LshOptions options;
  const auto refused = [&](const std::function<void()>& call,
                           std::initializer_list<std::string> words) {
    return throws_error(call, ErrorCode::kInvalidArgument, words);
  };
  EXPECT_TRUE(refused([&] { ChunkWindow(options, 4, {4, 0}); }, {"round 4", "4 rounds of 4"}));
  EXPECT_TRUE(refused([&] { ChunkWindow(options, 4, {0, 4}); }, {"chunk 4"}));
  EXPECT_TRUE(refused([&] { ChunkWindow(options, 0, {0, 0}); }, {"rounds of 0"}));
  EXPECT_TRUE(refused([&] { chunks_of_rank(options, 8, 9); }, {"rank", "0..8", "9"}));
  EXPECT_TRUE(refused([&] { count_chunks(8, 0); }, {"chunk_len", "0"}));
  options.wrap = Wrap::kRound;
  EXPECT_TRUE(refused([&] { chunks_of_rank(options, 8, 8); }, {"separate", "wrap none"}));

  const Tensor buckets = Tensor(DType::kInt32, {1, 2, 1, 4}).fill(0);
  Tensor order(DType::kInt32, {1, 2, 1, 4}), ranks(DType::kInt32, {1, 2, 1, 4});
  sort_by_bucket(buckets, order);
  const auto rank = [&](const Tensor& query, const Tensor& key, const Tensor& sorted,
                        const Tensor& positions) {
    return
        [&, query, key, sorted, positions] { rank_queries(query, key, sorted, positions, ranks); };
  };
  EXPECT_NO_THROW(rank(buckets, buckets, order, {})());
  const Tensor three = Tensor(DType::kInt32, {1, 3, 1, 4}).fill(0);
  EXPECT_TRUE(refused(rank(buckets, three, three, {}), {"num_heads", "[1, 2, 1, 4]"}));
  EXPECT_TRUE(refused(rank(three, buckets, order, {}), {"ranks", "[1, 3, 1, 4]"}));
  EXPECT_TRUE(refused(rank(buckets, buckets, three, {}), {"sorted_positions"}));
  EXPECT_TRUE(refused(rank(buckets, buckets, order, Tensor(DType::kInt32, {5}).fill(0)),
                      {"query_positions", "[5]"}));
  EXPECT_TRUE(refused(rank(buckets, buckets, Tensor(DType::kInt32, {1, 2, 1, 4}).fill(4), {}),
                      {"sorted_positions", "4"}));
  EXPECT_TRUE(refused(rank(ranks, buckets, order, {}), {"ranks", "overlap", "query_buckets"}));
}

}  // namespace
}  // namespace longspan::test
