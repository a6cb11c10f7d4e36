// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Diagnostics of LSH attention against a literal count of every pair, at their limits, and what a
// sample says of all rows.
#include "longspan/lsh_diagnostics.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <map>

#include "support/random_lsh_case.h"

namespace longspan::test {
namespace {

constexpr std::int64_t kAllRows = 1 << 20;

LshDiagnostics diagnose(const LshInputs& in, const Tensor& output, std::int64_t rows = kAllRows,
                        const Execution& execution = {}) {
  return diagnose_lsh(in.query, in.key_view(), in.value, output, in.lsh, in.options, execution,
                      rows);
}
LshDiagnostics diagnose(const LshInputs& in, std::int64_t rows = kAllRows) {
  return diagnose(in, run_lsh(in).output, rows);
}

testing::AssertionResult is_near(double actual, double expected) {
  if (std::isnan(expected) && std::isnan(actual)) return testing::AssertionSuccess();
  // Errors of 1e-7 are differences of numbers near 1.
  if (std::fabs(actual - expected) <= 1e-12 + 1e-6 * std::fabs(expected)) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure() << actual << ", expected " << expected;
}

// Every row was looked at.
testing::AssertionResult is_certain(const Estimate& estimate, double expected) {
  const auto near = is_near(estimate.value, expected);
  if (!near || std::isnan(expected)) return near;
  if (estimate.low == estimate.value && estimate.high == estimate.value) return near;
  return testing::AssertionFailure() << "interval " << estimate.low << " .. " << estimate.high;
}

struct Sums {
  std::int64_t rows = 0, in_one_bucket = 0, cut = 0, found = 0, finds = 0;
  double recalled = 0, recalled_pairs = 0, error = 0, exact = 0;
};

Sums count_all(const LshInputs& in, const Tensor& output) {
  const reference::LshAttention definition = definition_of(in);
  const auto [batch, seqlen, heads, dim] = in.query.view().shape;
  Sums sums;
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t i = 0; i < seqlen; ++i) {
        const reference::LshRowDiagnosis row = definition.diagnosis(b, h, i);
        if (!row.sees) continue;
        ++sums.rows;
        sums.recalled += row.recalled_mass;
        sums.recalled_pairs += row.recalled_pairs;
        sums.in_one_bucket += row.in_one_bucket;
        sums.cut += row.cut;
        sums.found += row.found;
        sums.finds += row.finds;
        for (std::size_t d = 0; d < row.exact.size(); ++d) {
          const double x = row.exact[d];
          const double found = output.get({b, i, h, static_cast<std::int64_t>(d)});
          sums.error += (found - x) * (found - x);
          sums.exact += x * x;
        }
      }
    }
  }
  return sums;
}

void expect_counts(const LshInputs& in, const Tensor& output, const LshDiagnostics& found) {
  const Sums sums = count_all(in, output);
  const auto ratio = [](auto a, auto b) { return static_cast<double>(a) / static_cast<double>(b); };
  EXPECT_EQ(found.rows, sums.rows);
  // Rows that a dense mask or a predicate hides are drawn and left out; none is left undrawn.
  EXPECT_TRUE(is_certain(found.recalled_mass, ratio(sums.recalled, sums.rows)));
  EXPECT_TRUE(is_certain(found.recalled_pairs, ratio(sums.recalled_pairs, sums.rows)));
  EXPECT_TRUE(is_certain(found.output_error, std::sqrt(ratio(sums.error, sums.exact))));
  EXPECT_TRUE(is_certain(found.cut_pairs, ratio(sums.cut, sums.in_one_bucket)));
  EXPECT_TRUE(is_certain(found.finds_per_pair, ratio(sums.finds, sums.found)));
}

TEST(LshDiagnosticsRandom, AreACountOfEveryPair) {
  const std::uint64_t first = number_from_environment("LONGSPAN_TEST_SEED", 1);
  const std::uint64_t count = number_from_environment("LONGSPAN_TEST_COUNT", 250);
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    const RandomLshCase one(seed);
    SCOPED_TRACE(one.text());
    const Tensor output = run_lsh_as(one.output, one.in, one.execution, one.layout).output;
    expect_counts(one.in, output, diagnose(one.in, output, kAllRows, one.execution));
    if (HasFailure()) return;
  }
}

LshInputs shared_inputs(std::int64_t seqlen, std::int64_t heads = 2) {
  Random random(5);
  LshInputs in;
  in.query = Tensor(DType::kFloat32, {1, seqlen, heads, 8}).fill_normal(random, 2.0);
  in.value = Tensor(DType::kFloat32, {1, seqlen, heads, 8}).fill_normal(random);
  in.lsh.chunk_len = 16;
  return in;
}

// Nothing is missed: what is left of the error is rounding.
void expect_exact(const LshDiagnostics& found, std::int64_t rows) {
  EXPECT_EQ(found.rows, rows);
  EXPECT_TRUE(is_certain(found.recalled_mass, 1));
  EXPECT_GT(found.output_error.value, 0);
  EXPECT_LT(found.output_error.value, 1e-6);
  EXPECT_TRUE(is_certain(found.cut_pairs, 0));
  EXPECT_TRUE(is_certain(found.finds_per_pair, 1));
}

TEST(LshDiagnostics, OneWholeBucketIsExact) {
  LshInputs in = shared_inputs(100);
  in.lsh.num_hashes = 1;
  in.lsh.num_buckets = {2};
  in.lsh.buckets = in.keep(Tensor(DType::kInt32, {1, 2, 1, 100}).fill(0));
  in.lsh.whole_buckets = true;
  const LshDiagnostics found = diagnose(in);
  expect_exact(found, 200);
  ASSERT_EQ(found.bucket_sizes.size(), 1U);
  EXPECT_EQ(found.bucket_sizes[0].smallest, 100);
  EXPECT_EQ(found.bucket_sizes[0].largest, 100);
  EXPECT_EQ(found.bucket_sizes[0].empty, 2);  // one for each head
  EXPECT_EQ(found.bucket_sizes[0].over_chunk, 1);
}

TEST(LshDiagnostics, OneChunkIsExact) {
  LshInputs in = shared_inputs(16);
  in.options.mask = causal();
  expect_exact(diagnose(in), 32);
}

TEST(LshDiagnostics, ALocalWindowOverEverythingIsRecalled) {
  LshInputs in = shared_inputs(100);
  in.lsh.local_window = {{-1, -1}};
  const LshDiagnostics found = diagnose(in);
  EXPECT_TRUE(is_certain(found.recalled_mass, 1));
  EXPECT_LT(found.output_error.value, 1e-6);
  EXPECT_GT(found.cut_pairs.value, 0);  // of the rounds
}

TEST(LshDiagnostics, PairsCutByChunksAreCounted) {
  // One bucket of 4 chunks that see nothing but themselves: of 63 others a position holds 15.
  LshInputs in = shared_inputs(64);
  in.lsh.num_buckets = {2};
  in.lsh.num_hashes = 3;
  in.lsh.chunks_before = 0;
  in.lsh.buckets = in.keep(Tensor(DType::kInt32, {1, 2, 3, 64}).fill(0));
  const LshDiagnostics found = diagnose(in);
  EXPECT_TRUE(is_certain(found.cut_pairs, 48.0 / 63));
  EXPECT_TRUE(is_certain(found.finds_per_pair, 3));
}

TEST(LshDiagnostics, NothingToSeeIsNoRow) {
  LshInputs in = shared_inputs(40);
  in.options.mask = dense(in.keep(Tensor(DType::kBool, {1, 1, 40, 40}).fill(1)));
  Tensor& visible = in.kept.back();
  for (std::int64_t key = 0; key < 40; ++key) visible.set({0, 0, 7, key}, 0);
  expect_counts(in, run_lsh(in).output, diagnose(in));
  EXPECT_EQ(diagnose(in).rows, 78);
  in.options.mask = key_lengths(in.keep(integers({0})));
  const LshDiagnostics nothing = diagnose(in);
  EXPECT_EQ(nothing.rows, 0);
  EXPECT_TRUE(std::isnan(nothing.recalled_mass.value));
  EXPECT_TRUE(std::isnan(nothing.output_error.low));
  EXPECT_EQ(nothing.bucket_sizes.front().largest, 0);  // all is padding
}

TEST(LshDiagnostics, OneRowHasNoInterval) {
  const LshDiagnostics found = diagnose(shared_inputs(100), 1);
  EXPECT_EQ(found.rows, 1);
  EXPECT_GT(found.recalled_mass.value, 0);
  EXPECT_TRUE(std::isnan(found.recalled_mass.low) && std::isnan(found.output_error.high));
}

TEST(LshDiagnostics, EmptyTensors) {
  for (const auto& shape :
       std::vector<std::vector<std::int64_t>>{{0, 40, 2, 8}, {1, 0, 2, 8}, {1, 40, 0, 8}}) {
    LshInputs in;
    in.query = Tensor(DType::kFloat32, shape);
    in.value = Tensor(DType::kFloat32, shape);
    EXPECT_EQ(diagnose(in).rows, 0);
    in.shared = false;
    in.key = Tensor(DType::kFloat32, shape);
    EXPECT_EQ(diagnose(in).rows, 0);
  }
}

TEST(LshDiagnostics, SizesOfBucketsAreThoseOfHashVectors) {
  LshInputs in = shared_inputs(300, 3);
  in.lsh.num_buckets = {8, 2};
  in.options.mask = key_lengths(in.keep(integers({250})));
  Tensor buckets(DType::kInt32, {1, 3, 4, 300});
  hash_vectors(in.query, buckets, in.lsh, in.options.mask);
  const LshDiagnostics found = diagnose(in, 1);
  ASSERT_EQ(found.bucket_sizes.size(), 4U);
  for (std::int64_t round = 0; round < 4; ++round) {
    std::map<std::pair<std::int64_t, double>, std::int64_t> sizes;
    for (std::int64_t h = 0; h < 3; ++h) {
      for (std::int64_t n = 0; n < 250; ++n) ++sizes[{h, buckets.get({0, h, round, n})}];
    }
    std::int64_t smallest = 300, largest = 0, over = 0;
    for (const auto& [bucket, size] : sizes) {
      smallest = std::min(smallest, size);
      largest = std::max(largest, size);
      if (size > in.lsh.chunk_len) over += size;
    }
    const BucketSizes& one = found.bucket_sizes[static_cast<std::size_t>(round)];
    EXPECT_EQ(one.smallest, smallest);
    EXPECT_EQ(one.largest, largest);
    EXPECT_EQ(one.empty, 48 - static_cast<std::int64_t>(sizes.size()));
    EXPECT_DOUBLE_EQ(one.mean, 750.0 / static_cast<double>(sizes.size()));
    EXPECT_DOUBLE_EQ(one.over_chunk, static_cast<double>(over) / 750);
    EXPECT_GT(over, 0);
  }
}

TEST(LshDiagnostics, SameBitsForAnyNumberOfThreads) {
  LshInputs in = shared_inputs(500);
  in.options.mask = causal();
  const Tensor output = run_lsh(in).output;
  Execution execution;
  execution.threads = 1;
  const LshDiagnostics one = diagnose(in, output, 256, execution);
  EXPECT_EQ(one.rows, 256);
  for (const int threads : {2, 3, 7}) {
    execution.threads = threads;
    const LshDiagnostics more = diagnose(in, output, 256, execution);
    for (const auto& figure : {&LshDiagnostics::recalled_mass, &LshDiagnostics::recalled_pairs,
                               &LshDiagnostics::output_error, &LshDiagnostics::cut_pairs,
                               &LshDiagnostics::finds_per_pair}) {
      EXPECT_EQ((more.*figure).value, (one.*figure).value);
      EXPECT_EQ((more.*figure).low, (one.*figure).low);
      EXPECT_EQ((more.*figure).high, (one.*figure).high);
    }
  }
}

// Of 95 % intervals about 95 in 100 hold the truth. The buckets are given, so that a seed draws
// rows and nothing else.
TEST(LshDiagnostics, IntervalsHoldTheTruth) {
  LshInputs in = shared_inputs(600);
  in.options.mask = causal();
  in.lsh.num_buckets = {32, 2};
  Tensor buckets = in.keep(Tensor(DType::kInt32, {1, 2, 4, 600}));
  hash_vectors(in.query, buckets, in.lsh);
  in.lsh.buckets = buckets;
  const Tensor output = run_lsh(in).output;
  const LshDiagnostics truth = diagnose(in, output);
  ASSERT_LT(truth.recalled_mass.value, 0.95);
  constexpr int kSeeds = 200;
  constexpr std::array kFigures = {&LshDiagnostics::recalled_mass, &LshDiagnostics::recalled_pairs,
                                   &LshDiagnostics::output_error, &LshDiagnostics::cut_pairs,
                                   &LshDiagnostics::finds_per_pair};
  std::array<int, kFigures.size()> held{};
  std::array<double, kFigures.size()> width{};
  for (in.lsh.seed = 0; in.lsh.seed < kSeeds; ++in.lsh.seed) {
    const LshDiagnostics found = diagnose(in, output, 100);
    for (std::size_t f = 0; f < kFigures.size(); ++f) {
      const Estimate& estimate = found.*kFigures[f];
      const double value = (truth.*kFigures[f]).value;
      held[f] += estimate.low <= value && value <= estimate.high ? 1 : 0;
      width[f] += (estimate.high - estimate.low) / value / kSeeds;
    }
  }
  for (std::size_t f = 0; f < kFigures.size(); ++f) {
    EXPECT_GE(held[f], 180) << f;
    EXPECT_LT(width[f], 0.6) << f;
  }
}

TEST(LshDiagnostics, WhatHiddenKeysHoldIsNotRead) {
  LshInputs in = shared_inputs(60);
  in.shared = false;
  in.key = Tensor(DType::kFloat32, {1, 60, 2, 8}).fill_values(in.query.values());
  in.options.mask = key_lengths(in.keep(integers({50})));
  const LshDiagnostics clean = diagnose(in);
  for (Tensor* tensor : {&in.key, &in.value}) {
    for (std::int64_t d = 0; d < 8; ++d) tensor->set({0, 55, 1, d}, std::nan(""));
  }
  const LshDiagnostics found = diagnose(in);
  EXPECT_EQ(found.recalled_mass.value, clean.recalled_mass.value);
  EXPECT_EQ(found.output_error.value, clean.output_error.value);
  for (std::int64_t d = 0; d < 8; ++d) in.value.set({0, 3, 1, d}, std::nan(""));
  EXPECT_TRUE(std::isnan(diagnose(in).output_error.value));
}

TEST(LshDiagnostics, MemoryStaysWithinTheLimit) {
  LshInputs in = shared_inputs(500);
  const Tensor output = run_lsh(in).output;
  Execution execution;
  execution.threads = 4;
  const auto needed = [&] {
    return lsh_diagnostics_workspace(in.query, {}, in.value, in.lsh, in.options, execution);
  };
  const std::size_t most = needed();
  execution.memory_limit = most - 1;
  EXPECT_LT(needed(), most);
  EXPECT_EQ(diagnose(in, output, 256, execution).rows, 256);
  execution.memory_limit = 1000;
  EXPECT_TRUE(throws_error([&] { diagnose(in, output, 256, execution); }, ErrorCode::kOutOfMemory,
                           {"memory_limit"}));
}

TEST(LshDiagnostics, RefusesWhatDoesNotFit) {
  LshInputs in = shared_inputs(40);
  const auto expect = [&](const Tensor& output, std::int64_t rows, const char* words) {
    EXPECT_TRUE(
        throws_error([&] { diagnose(in, output, rows); }, ErrorCode::kInvalidArgument, {words}));
  };
  const Tensor output = run_lsh(in).output;
  expect(output, 0, "rows must be at least 1; found 0");
  expect(Tensor(DType::kFloat32, {1, 41, 2, 8}), 256, "output must have shape [1, 40, 2, 8]");
  expect(Tensor(DType::kFloat16, {1, 40, 2, 8}), 256, "output must be float32");
  in.options.dropout.probability = 0.5;
  expect(output, 256, "dropout");
}

}  // namespace
}  // namespace longspan::test
