// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The automatic number of buckets, key norms, and what hashing refuses in which words.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "longspan/lsh_attention.h"
#include "lsh/checked_options.h"
#include "reference/lsh_reference.h"
#include "support/call.h"
#include "support/compare.h"
#include "support/tensor.h"

namespace longspan::test {
namespace {

using Factors = std::vector<std::int64_t>;

TEST(LshBuckets, Table) {
  struct Entry {
    std::int64_t seqlen, chunk_len;
    Factors factors;
  };
  const Entry table[] = {{0, 64, {2}},
                         {1, 64, {2}},
                         {127, 64, {2}},
                         {128, 64, {4}},
                         {255, 64, {4}},
                         {256, 64, {8}},
                         {1023, 64, {16}},
                         {1024, 64, {32}},
                         {2047, 64, {32}},
                         {2048, 64, {8, 8}},
                         {4096, 64, {8, 16}},
                         {8192, 64, {16, 16}},
                         {16384, 64, {16, 32}},
                         {32768, 64, {32, 32}},
                         {65536, 64, {8, 16, 16}},
                         {1 << 20, 64, {32, 32, 32}},
                         {1 << 21, 64, {16, 16, 16, 16}},
                         {5, 1, {8}},
                         {INT64_MAX, 1, {32, 32, 32, 32, 32, 32}}};
  for (const Entry& entry : table) {
    EXPECT_EQ(choose_num_buckets(entry.seqlen, entry.chunk_len), entry.factors)
        << entry.seqlen << " by " << entry.chunk_len;
  }
}

TEST(LshBuckets, TheRuleItself) {
  for (std::int64_t seqlen = 0; seqlen < 300000; seqlen += 1 + seqlen / 50) {
    for (const std::int64_t chunk_len : {1, 7, 64}) {
      const Factors factors = choose_num_buckets(seqlen, chunk_len);
      std::int64_t product = 1;
      for (const std::int64_t factor : factors) product *= factor;
      const std::int64_t bound = 2 * std::max<std::int64_t>(1, seqlen / chunk_len);
      ASSERT_TRUE(product <= bound && 2 * product > bound) << seqlen;
      ASSERT_TRUE(std::is_sorted(factors.begin(), factors.end()));
      ASSERT_LE(factors.back(), 32);
      ASSERT_LE(factors.back(), 2 * factors.front()) << "as equal as can be";
      const auto fewer = static_cast<double>(factors.size() - 1);
      ASSERT_TRUE(fewer == 0 || static_cast<double>(product) > std::pow(32, fewer)) << "no more";
    }
  }
}

TEST(LshPresets, KeepTheirChoices) {
  EXPECT_EQ(LshOptions().dedup, Dedup::kExact);
  EXPECT_EQ(LshOptions().wrap, Wrap::kNone);
  for (const LshOptions& preset : {hf_reformer(), lucidrains(), lab()}) {
    EXPECT_EQ(preset.dedup, Dedup::kNone);
    EXPECT_EQ(preset.wrap, Wrap::kAll);
    EXPECT_EQ(preset.chunks_before, 1);
    EXPECT_EQ(preset.chunks_after, 0);
    EXPECT_NO_THROW(lsh::check_options("preset", preset, lsh::Vectors::kShared));
  }
  EXPECT_EQ(lucidrains().key_norm, KeyNorm::kL2);
  EXPECT_EQ(lucidrains().self_score, -5e4);
  EXPECT_EQ(hf_reformer().self_rule, SelfRule::kAssigned);
  EXPECT_TRUE(hf_reformer().self_overrides_padding);
  EXPECT_EQ(lab().self_rule, SelfRule::kAdded);
}

TEST(LshKeys, AreTheDefinition) {
  Random random(51);
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    for (const std::int64_t dim : {1, 2, 7, 64}) {
      for (int layout = 0; layout < kOutputLayouts; ++layout) {
        for (const KeyNorm norm : {KeyNorm::kRms, KeyNorm::kL2}) {
          Tensor x(dtype, {2, 301, 3, dim}, static_cast<Layout>(layout));
          x.fill_normal(random, std::exp2(random.between(-10, 10)));
          for (std::int64_t d = 0; d < dim; ++d) {
            x.set({1, 4, 1, d}, 0);
            x.set({1, 5, 1, d}, 1e-4 * static_cast<double>(d));
          }
          Tensor key(dtype, x.shape(), static_cast<Layout>((layout + 2) % kOutputLayouts));
          normalize_keys(x, key, norm);
          EXPECT_TRUE(key.surroundings_untouched());
          const std::vector<double> truth = reference::normalized_rows(x.values(), dim, norm);
          const double step = dtype == DType::kFloat64   ? 1e-15
                              : dtype == DType::kFloat32 ? 6e-8
                              : dtype == DType::kFloat16 ? 4.9e-4
                                                         : 4e-3;
          EXPECT_TRUE(
              within_elementwise(key.values(), truth, dtype == DType::kFloat16 ? 3e-8 : 0, step));
          EXPECT_EQ(key.get({1, 4, 1, dim - 1}), 0) << "a row of zeros";
          Execution execution;
          execution.threads = 3;
          Tensor again(dtype, x.shape());
          normalize_keys(x, again, norm, execution);
          EXPECT_TRUE(same_bits(again, key));
        }
      }
    }
  }
  EXPECT_EQ(score_scale(KeyNorm::kRms, 64), 1);
  EXPECT_EQ(score_scale(KeyNorm::kL2, 64), 0.125);
}

TEST(LshKeys, SquaresDoNotOverflow) {
  const Tensor x = Tensor(DType::kFloat32, {1, 4}).fill(1e30);
  Tensor key(DType::kFloat32, {1, 4});
  normalize_keys(x, key, KeyNorm::kRms);
  EXPECT_TRUE(within_rel_l2(key.values(), std::vector<double>(4, 0.5), 1e-7));
}

class LshErrors : public testing::Test {
 protected:
  testing::AssertionResult refused(std::initializer_list<std::string> words,
                                   ErrorCode code = ErrorCode::kInvalidArgument) {
    return throws_error([&] { call(); }, code, words);
  }
  void call() { hash_vectors(x_, buckets_, options_, mask_, execution_); }
  testing::AssertionResult separate_refused(std::initializer_list<std::string> words) {
    return throws_error([&] { separate(); }, ErrorCode::kInvalidArgument, words);
  }
  void separate() { hash_vectors(query_, x_, query_buckets_, buckets_, options_, mask_); }

  Tensor x_ = Tensor(DType::kFloat32, {2, 130, 2, 8}).fill(1);
  Tensor buckets_ = Tensor(DType::kInt32, {2, 2, 4, 130});
  Tensor query_ = Tensor(DType::kFloat32, {2, 9, 4, 8}).fill(1);
  Tensor query_buckets_ = Tensor(DType::kInt32, {2, 4, 4, 9});
  LshOptions options_;
  Mask mask_;
  Execution execution_;
};

TEST_F(LshErrors, TheFixtureItselfIsAccepted) {
  EXPECT_NO_THROW(call());
  EXPECT_NO_THROW(separate());
}

TEST_F(LshErrors, NumbersOfBuckets) {
  for (const Factors& factors : {Factors{5}, {4, 3}, {0}, {-2}}) {
    options_.num_buckets = factors;
    EXPECT_TRUE(refused({"num_buckets", "even", std::to_string(factors.back())}));
  }
  options_.num_buckets = {1 << 16, 1 << 15};
  EXPECT_TRUE(refused({"product", "65536 x 32768", "2147483646"}));
  options_.num_buckets = {std::int64_t{1} << 62, 4, 4};
  EXPECT_TRUE(refused({"product", "4611686018427387904"}));
  options_.num_buckets = {2, 2};
  EXPECT_NO_THROW(call());
}

TEST_F(LshErrors, CountsOutOfRange) {
  options_.chunk_len = 0;
  EXPECT_TRUE(refused({"chunk_len", "at least 1", "0"}));
  options_ = {};
  options_.num_hashes = 0;
  EXPECT_TRUE(refused({"num_hashes", "0"}));
  options_ = {};
  options_.chunks_before = -1;
  EXPECT_TRUE(refused({"chunks_before", "-1"}));
  options_ = {};
  options_.chunks_after = std::int64_t{1} << 40;
  EXPECT_TRUE(refused({"chunks_after", "1099511627776"}));
  options_ = {};
  options_.self_score = -std::numeric_limits<double>::infinity();
  EXPECT_TRUE(refused({"self_score", "finite"}));
  options_ = {};
  options_.local_window = {{3, -2}};
  EXPECT_TRUE(refused({"local_window", "3", "-2"}));
  options_ = {};
  execution_.threads = -1;
  EXPECT_TRUE(refused({"threads", "-1"}));
}

TEST_F(LshErrors, ChoicesThatDoNotGoTogether) {
  options_.whole_buckets = true;
  options_.wrap = Wrap::kRound;
  EXPECT_TRUE(refused({"whole_buckets", "wrap none"}));
  options_.whole_buckets = false;
  EXPECT_NO_THROW(call());
  EXPECT_TRUE(separate_refused({"separate", "wrap none"}));
}

TEST_F(LshErrors, GivenRotations) {
  options_.num_buckets = {4, 6};
  options_.rotations = Tensor(DType::kFloat32, {2, 8, 4, 4}).view();
  EXPECT_TRUE(refused({"rotations", "[2, 8, 4, 5]", "[2, 8, 4, 4]"}));
  options_.rotations = Tensor(DType::kInt32, {2, 8, 4, 5}).view();
  EXPECT_TRUE(refused({"rotations", "floating", "int32"}));
  options_.rotations.dtype = DType::kFloat32;
  options_.rotations.data = nullptr;
  EXPECT_TRUE(refused({"rotations", "no data"}));
  Tensor both = Tensor(DType::kFloat32, {2, 8, 4, 5}).fill(1);
  options_.rotations = both;
  EXPECT_NO_THROW(call());
  options_.buckets = Tensor(DType::kInt32, {2, 2, 4, 130}).view();
  EXPECT_TRUE(refused({"rotations", "buckets", "both"}));
}

TEST_F(LshErrors, GivenBuckets) {
  options_.num_buckets = {6};
  Tensor given = Tensor(DType::kInt32, {2, 2, 4, 130}).fill(5);
  options_.buckets = given;
  EXPECT_NO_THROW(call());
  given.set({1, 0, 2, 129}, 6);
  EXPECT_TRUE(refused({"options.buckets", "0..5", "6", "[1, 0, 2, 129]"}));
  const Tensor lengths = integers({130, 129});
  mask_ = key_lengths(lengths);
  EXPECT_NO_THROW(call()) << "padding is not read";
  given.set({0, 0, 0, 0}, -1);
  EXPECT_TRUE(refused({"-1", "[0, 0, 0, 0]"}));
  options_.buckets = Tensor(DType::kInt32, {2, 2, 3, 130}).view();
  EXPECT_TRUE(refused({"options.buckets", "[2, 2, 4, 130]", "[2, 2, 3, 130]"}));
  options_.buckets = Tensor(DType::kFloat32, {2, 2, 4, 130}).view();
  EXPECT_TRUE(refused({"options.buckets", "int32", "float32"}));
  options_.buckets = buckets_;
  EXPECT_TRUE(refused({"overlap", "options.buckets"}));
  options_.buckets = {};
  options_.key_buckets = given;
  EXPECT_TRUE(refused({"shared", "key_buckets"}));
  EXPECT_TRUE(separate_refused({"query_buckets", "come together"}));
  options_.buckets = given;
  EXPECT_TRUE(separate_refused({"separate", "found buckets"}));
}

TEST_F(LshErrors, Tensors) {
  buckets_ = Tensor(DType::kInt32, {2, 4, 2, 130});
  EXPECT_TRUE(refused({"buckets", "[2, 2, 4, 130]", "[2, 4, 2, 130]"}));
  buckets_ = Tensor(DType::kFloat32, {2, 2, 4, 130});
  EXPECT_TRUE(refused({"buckets", "int32", "float32"}));
  buckets_ = Tensor(DType::kInt32, {2, 2, 4, 130});
  Tensor x = x_;
  x_ = Tensor(DType::kInt32, {2, 130, 2, 8});
  EXPECT_TRUE(refused({"query_key", "int32"}));
  x_ = Tensor(DType::kFloat32, {130});
  EXPECT_TRUE(refused({"query_key", "rank 1"}));
  x_ = Tensor(DType::kFloat32, {2, 130, 2, 0});
  EXPECT_TRUE(refused({"head_dim", "0"}));
  x_ = Tensor();
  EXPECT_TRUE(refused({"query_key"}));
  x_ = x;
  query_ = Tensor(DType::kFloat32, {2, 9, 3, 8}).fill(1);
  query_buckets_ = Tensor(DType::kInt32, {2, 3, 4, 9});
  EXPECT_TRUE(separate_refused({"num_heads", "[2, 9, 3, 8]", "[2, 130, 2, 8]"}));
  query_ = Tensor(DType::kFloat64, {2, 9, 3, 8}).fill(1);
  EXPECT_TRUE(separate_refused({"dtype", "float64", "float32"}));
  query_ = Tensor(DType::kFloat32, {2, 9, 3, 7}).fill(1);
  EXPECT_TRUE(separate_refused({"head_dim", "[2, 9, 3, 7]"}));
}

TEST_F(LshErrors, MasksAndKernels) {
  const Tensor lengths = integers({130, 131}), good = integers({130, 7});
  mask_ = key_lengths(lengths);
  EXPECT_TRUE(refused({"key_lengths", "131", "130"}));
  const Tensor wrong = Tensor(DType::kBool, {1, 129}).fill(1);
  mask_ = dense(wrong);
  EXPECT_TRUE(refused({"[1, 129]"}));
  mask_ = {};
  execution_.kernel = "abacus";
  EXPECT_TRUE(refused({"abacus"}, ErrorCode::kUnsupported));
  execution_ = {};
  execution_.memory_limit = 100;
  EXPECT_TRUE(refused({"workspace", "100"}, ErrorCode::kOutOfMemory));
  execution_ = {};
  std::stop_source stop;
  stop.request_stop();
  execution_.stop = stop.get_token();
  EXPECT_TRUE(refused({}, ErrorCode::kCancelled));
}

// What concerns scores: for the attention that stands on these stages.
TEST(LshScores, WhatIsRefused) {
  const auto refused = [](const AttentionOptions& options, lsh::Vectors vectors,
                          std::initializer_list<std::string> words) {
    return throws_error([&] { lsh::check_scores("lsh", options, vectors); },
                        ErrorCode::kInvalidArgument, words);
  };
  for (const lsh::Vectors vectors : {lsh::Vectors::kShared, lsh::Vectors::kSeparate}) {
    AttentionOptions options;
    EXPECT_NO_THROW(lsh::check_scores("lsh", options, vectors));
    options.dropout.probability = 0.5;
    EXPECT_TRUE(refused(options, vectors, {"dropout", "0.5"}));
    options = {};
    options.bias = Tensor(DType::kFloat32, {1, 1}).view();
    EXPECT_TRUE(refused(options, vectors, {"bias"}));
  }
  AttentionOptions scaled;
  scaled.scale = 0.25;
  EXPECT_TRUE(refused(scaled, lsh::Vectors::kShared, {"scale", "0.25"}));
  EXPECT_NO_THROW(lsh::check_scores("lsh", scaled, lsh::Vectors::kSeparate));
}

TEST(LshKeys, WhatIsRefused) {
  const auto refused = [](const Tensor& x, const Tensor& key,
                          std::initializer_list<std::string> words) {
    return throws_error(
        [&] {
          Tensor out = key;
          normalize_keys(x, out, KeyNorm::kRms);
        },
        ErrorCode::kInvalidArgument, words);
  };
  const Tensor x = Tensor(DType::kFloat32, {5, 4}).fill(1);
  EXPECT_TRUE(refused(x, Tensor(DType::kFloat32, {4, 5}), {"[5, 4]", "[4, 5]"}));
  EXPECT_TRUE(refused(x, Tensor(DType::kFloat64, {5, 4}), {"float32", "float64"}));
  EXPECT_TRUE(refused(x, x, {"overlap"}));
  EXPECT_TRUE(refused(Tensor(DType::kBool, {5, 4}), x, {"bool"}));
}

}  // namespace
}  // namespace longspan::test
