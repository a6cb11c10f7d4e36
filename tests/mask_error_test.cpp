// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Every way in which a mask can be wrong for its call: the code, and both values in the message.
#include <gtest/gtest.h>

#include <string>

#include "mask/bound_mask.h"
#include "support/call.h"

namespace longspan::test {
namespace {

using mask::BoundMask;
using mask::CallShape;

constexpr CallShape kSquare{2, 4, 26, 26};
constexpr CallShape kUnequal{2, 4, 9, 26};
constexpr CallShape kPacked{1, 4, 26, 26};

testing::AssertionResult refused(const Mask& mask, const CallShape& shape,
                                 std::initializer_list<std::string> words,
                                 const QueryOffset& offset = {}) {
  return throws_error([&] { BoundMask(mask, offset, shape); }, ErrorCode::kInvalidArgument, words);
}

TEST(MaskError, OffsetMustBeSaid) {
  const auto choices = {std::string("9"), std::string("26"), std::string("query_offset = 0"),
                        std::string("end")};
  EXPECT_TRUE(refused(causal(), kUnequal, choices));
  EXPECT_TRUE(refused(window(3, -1), kUnequal, choices));
  EXPECT_TRUE(refused(prefix(3), kUnequal, choices));
  EXPECT_TRUE(refused(causal(), kUnequal,
                      {"attention: causal needs query_offset when seqlen_q != "
                       "seqlen_k; query has 9, key has 26"}));
  EXPECT_TRUE(throws_error([] { BoundMask(Mask(), {}, kUnequal, true); },
                           ErrorCode::kInvalidArgument,
                           {"alibi needs query_offset", "9", "26", "query_offset = 0", "end"}));
  EXPECT_NO_THROW(BoundMask(causal(), 0, kUnequal));
  EXPECT_NO_THROW(BoundMask(causal(QueryOffset::end()), {}, kUnequal));
  EXPECT_NO_THROW(BoundMask(key_range(0, 5), {}, kUnequal));
}

TEST(MaskError, OffsetMustBeSaidForDocumentsOfDifferentLengths) {
  const Tensor queries = integers({0, 2, 5}), keys = integers({0, 2, 9});
  EXPECT_TRUE(refused(documents(queries, keys) & causal(), kPacked,
                      {"causal needs query_offset", "document 1 has 3 queries, 7 keys",
                       "query_offset = 0", "end"}));
  EXPECT_NO_THROW(BoundMask(documents(queries, keys), {}, kPacked));
  EXPECT_NO_THROW(BoundMask(documents(queries) & causal(), {}, {1, 1, 9, 26}));
}

TEST(MaskError, OffsetsPerBatch) {
  const Tensor three = integers({0, 1, 2});
  EXPECT_TRUE(refused(causal(QueryOffset::for_batch(three)), kSquare, {"causal", "[2]", "[3]"}));
  // The call's own offset is checked even where nothing uses it.
  EXPECT_TRUE(
      refused(Mask(), kSquare, {"query_offset", "[2]", "[3]"}, QueryOffset::for_batch(three)));
  const Tensor floats(DType::kFloat32, {2});
  EXPECT_TRUE(
      refused(causal(QueryOffset::for_batch(floats)), kSquare, {"int32 or int64", "float32"}));
  const Tensor matrix(DType::kInt32, {2, 1});
  EXPECT_TRUE(refused(causal(QueryOffset::for_batch(matrix)), kSquare, {"rank 1", "rank 2"}));
  EXPECT_TRUE(refused(causal(QueryOffset::for_batch({})), kSquare, {"int32 or int64", "none"}));
  QueryOffset unknown;
  unknown.kind = static_cast<QueryOffset::Kind>(9);
  EXPECT_TRUE(refused(causal(unknown), kSquare, {"per batch", "kind 9"}));
}

TEST(MaskError, Window) {
  EXPECT_TRUE(refused(window(-2, 0), kSquare, {"window", ">= 0, or -1", "left -2, right 0"}));
  EXPECT_TRUE(refused(window(5, -7), kSquare, {"window", ">= 0, or -1", "left 5, right -7"}));
}

TEST(MaskError, Prefix) {
  EXPECT_TRUE(refused(prefix(-1), kSquare, {"prefix length must be >= 0", "found -1"}));
}

TEST(MaskError, KeyRange) {
  EXPECT_TRUE(refused(key_range(-1, 4), kSquare, {"first -1", "last 4", "seqlen_k 26"}));
  EXPECT_TRUE(refused(key_range(5, 4), kSquare, {"first 5", "last 4", "seqlen_k 26"}));
  EXPECT_TRUE(refused(key_range(5, 27), kSquare, {"first 5", "last 27", "seqlen_k 26"}));
}

TEST(MaskError, KeyLengths) {
  EXPECT_TRUE(
      refused(key_lengths(integers({3, 27})), kSquare, {"key_lengths[1]", "0..26", "found 27"}));
  EXPECT_TRUE(refused(key_lengths(integers({-1, 2}, DType::kInt64)), kSquare,
                      {"key_lengths[0]", "0..26", "found -1"}));
  EXPECT_TRUE(refused(key_lengths(integers({3})), kSquare, {"key_lengths", "[2]", "[1]"}));
  EXPECT_TRUE(refused(key_lengths(Tensor(DType::kBool, {2})), kSquare, {"int32 or int64", "bool"}));
  EXPECT_TRUE(refused(key_lengths({}), kSquare, {"key_lengths", "int32 or int64", "none"}));
  ConstTensorView no_data = integers({1, 2});
  no_data.data = nullptr;
  EXPECT_TRUE(refused(key_lengths(no_data), kSquare, {"key_lengths", "[2]", "no data"}));
}

TEST(MaskError, Documents) {
  const Tensor good = integers({0, 26});
  EXPECT_TRUE(refused(documents(good), kSquare, {"batch 1", "batch 2"}));
  EXPECT_TRUE(refused(documents(good) & documents(good), kPacked, {"at most one", "found 2"}));
  EXPECT_TRUE(refused(documents(integers({3, 26})), kPacked, {"cu_seqlens_q", "at 0", "found 3"}));
  EXPECT_TRUE(refused(documents(integers({0, 5, 4})), kPacked,
                      {"cu_seqlens_q must not decrease", "entry 1 is 5", "entry 2 is 4"}));
  EXPECT_TRUE(refused(documents(integers({0, 27})), kPacked,
                      {"cu_seqlens_q", "boundary is 27", "seqlen_q is 26"}));
  EXPECT_TRUE(refused(documents(integers({})), kPacked, {"[documents + 1]", "[0]"}));
  EXPECT_TRUE(refused(documents({}), kPacked, {"cu_seqlens_q", "int32 or int64", "none"}));
  EXPECT_TRUE(refused(documents(Tensor(DType::kInt32, {1, 2})), kPacked, {"rank 1", "rank 2"}));
  EXPECT_TRUE(refused(documents(good, integers({1, 26})), kPacked,
                      {"cu_seqlens_k must start at 0", "found 1"}));
  EXPECT_TRUE(refused(documents(good, integers({0, 20, 27})), kPacked,
                      {"the same length", "cu_seqlens_q has 2", "cu_seqlens_k has 3"}));
  EXPECT_TRUE(refused(documents(good, integers({0, 27})), kPacked,
                      {"cu_seqlens_k", "boundary is 27", "seqlen_k is 26"}));
  EXPECT_TRUE(refused(documents(good), {1, 1, 26, 9},
                      {"cu_seqlens_q (serving the keys)", "boundary is 26", "seqlen_k is 9"}));
}

TEST(MaskError, Dense) {
  EXPECT_TRUE(refused(dense(Tensor(DType::kBool, {9, 27})), kUnequal,
                      {"broadcastable", "[2, 4, 9, 26]", "[9, 27]"}));
  EXPECT_TRUE(refused(dense(Tensor(DType::kBool, {3, 1, 9, 26})), kUnequal,
                      {"broadcastable", "[2, 4, 9, 26]", "[3, 1, 9, 26]"}));
  EXPECT_TRUE(refused(dense(Tensor(DType::kFloat32, {9, 26})), kUnequal, {"bool", "float32"}));
  EXPECT_TRUE(refused(dense({}), kUnequal, {"bool", "none"}));
  ConstTensorView view = Tensor(DType::kBool, {9, 26});
  view.data = nullptr;
  EXPECT_TRUE(refused(dense(view), kUnequal, {"[9, 26]", "no data"}));
  view.rank = 5;
  EXPECT_TRUE(refused(dense(view), kUnequal, {"rank 0 to 4", "rank 5"}));
}

TEST(MaskError, Predicate) {
  EXPECT_TRUE(refused(predicate(MaskPredicate()), kSquare, {"predicate", "none"}));
}

TEST(MaskError, UnknownKind) {
  MaskTerm term;
  term.kind = static_cast<MaskKind>(200);
  EXPECT_TRUE(refused(Mask(term), kSquare, {"0..7", "200"}));
}

}  // namespace
}  // namespace longspan::test
