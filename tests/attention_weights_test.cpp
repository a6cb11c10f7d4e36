// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Weights of exact attention against the float64 reference; their largest and their sums against
// the weights themselves, bit by bit. LONGSPAN_TEST_SEED and LONGSPAN_TEST_COUNT as in
// exact_random_test.
#include "longspan/attention_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "reference/mask_reference.h"
#include "support/random_case.h"

namespace longspan::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr std::uint64_t kDefaultSeed = 1;
constexpr std::uint64_t kDefaultCount = 250;

// [batch, num_heads] of a call, as far as it has them, then `tail`; filled with what the call has
// to replace.
Tensor make_result(const Inputs& in, std::vector<std::int64_t> tail, bool whole = false) {
  const ConstTensorView query = in.query.view();
  if (query.rank >= 3) tail.insert(tail.begin(), query.shape[query.rank - 2]);
  if (query.rank >= 4) tail.insert(tail.begin(), query.shape[0]);
  const DType dtype = whole ? DType::kInt64 : accumulator_of(query.dtype);
  return Tensor(dtype, tail).fill(whole ? -7 : kNan);
}

std::int64_t length_of(const Tensor& rows) {
  return rows.view().shape[static_cast<std::size_t>(std::max(0, rows.view().rank - 3))];
}

Tensor lse_of(const Inputs& in, const Execution& execution = {}) { return run(in, execution).lse; }

Tensor weights_of(const Inputs& in, const Tensor& lse, const std::vector<std::int64_t>& rows,
                  const Execution& execution = {}) {
  Tensor weights = make_result(in, {static_cast<std::int64_t>(rows.size()), length_of(in.key)});
  const Tensor numbers = integers(rows, DType::kInt64);
  attention_weights(in.query, in.key, lse, {.weights = weights}, numbers, in.options, execution);
  return weights;
}

std::vector<std::int64_t> every_row(const Inputs& in) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(length_of(in.query)));
  std::iota(rows.begin(), rows.end(), std::int64_t{0});
  return rows;
}

struct Top {
  Tensor keys, weights;
};
Top top_of(const Inputs& in, const Tensor& lse, std::int64_t k, const Tensor& rows = {},
           const Execution& execution = {}) {
  const std::int64_t count = is_given(rows.view()) ? rows.size() : length_of(in.query);
  Top top{make_result(in, {count, k}, /*whole=*/true), make_result(in, {count, k})};
  attention_weights(in.query, in.key, lse, {.top_keys = top.keys, .top_weights = top.weights}, rows,
                    in.options, execution);
  return top;
}

Tensor sums_of(const Inputs& in, const Tensor& lse, const Tensor& rows = {},
               const Execution& execution = {}) {
  Tensor sums = make_result(in, {length_of(in.key)});
  attention_weights(in.query, in.key, lse, {.column_sums = sums}, rows, in.options, execution);
  return sums;
}

// Rows of the last axis.
std::int64_t rows_of(const Tensor& tensor) {
  return tensor.size() / std::max<std::int64_t>(tensor.shape().back(), 1);
}

// The largest of each row, taken from all weights: the order that top_keys promises. Where weights
// are 0 a key may be hidden, and then it is not there.
void expect_largest(const Top& top, const Tensor& weights) {
  const std::int64_t keys = weights.shape().back();
  const std::int64_t k = top.keys.shape().back();
  for (std::int64_t row = 0; row < rows_of(weights); ++row) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(keys));
    std::iota(order.begin(), order.end(), std::int64_t{0});
    const auto rank = [&](std::int64_t key) -> double {
      const double weight = weights.get(row * keys + key);
      if (std::isnan(weight)) return kInf;
      return weight;
    };
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return rank(a) > rank(b); });
    for (std::int64_t c = 0; c < k; ++c) {
      const double weight = top.weights.get(row * k + c);
      const auto key = static_cast<std::int64_t>(top.keys.get(row * k + c));
      const std::int64_t expected = c < keys ? order[static_cast<std::size_t>(c)] : -1;
      if (expected < 0 || rank(expected) == 0) {
        ASSERT_EQ(weight, 0) << "row " << row << ", place " << c;
        ASSERT_GE(key, -1);
        ASSERT_TRUE(key < 0 || rank(key) == 0) << "row " << row << ", key " << key;
      } else {
        ASSERT_EQ(key, expected) << "row " << row << ", place " << c;
        ASSERT_EQ(std::isnan(weight) ? kInf : weight, rank(key));
      }
    }
  }
}

// Sums over the rows of each head, in float64 and in their order: the very numbers.
void expect_sums(const Tensor& sums, const Tensor& weights, std::int64_t rows) {
  const std::int64_t keys = sums.shape().back();
  const DType dtype = sums.view().dtype;
  for (std::int64_t head = 0; head < rows_of(sums); ++head) {
    for (std::int64_t key = 0; key < keys; ++key) {
      double sum = 0;
      for (std::int64_t r = 0; r < rows; ++r) sum += weights.get((head * rows + r) * keys + key);
      const double got = sums.get(head * keys + key);
      if (std::isnan(sum)) {
        ASSERT_TRUE(std::isnan(got));
      } else {
        ASSERT_EQ(got, rounded_to(dtype, sum)) << "head " << head << ", key " << key;
      }
    }
  }
}

// The same call with value rows that name their keys: its output is the weights.
Inputs with_named_keys(const Inputs& in) {
  Inputs named = in;
  std::vector<std::int64_t> shape = in.key.shape();
  const std::int64_t keys = length_of(in.key);
  shape.back() = keys;
  named.value = Tensor(in.query.view().dtype, shape);
  const std::int64_t heads = shape.size() < 3 ? 1 : shape[shape.size() - 2];
  for (std::int64_t n = 0; n < named.value.size(); ++n) {
    named.value.set(n, n % keys == n / keys / heads % keys ? 1 : 0);
  }
  return named;
}

// Weights are exp(score - lse): where |lse| is large, its last bit is what they can be off by.
double rounding_of(const Tensor& lse) {
  double largest = 0;
  for (const double value : lse.values()) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  return largest * (lse.view().dtype == DType::kFloat64 ? 0x1p-52 : 0x1p-23);
}

void run_case(std::uint64_t seed) {
  const RandomCase random_case(seed);
  SCOPED_TRACE(testing::Message() << "repeat with LONGSPAN_TEST_SEED=" << seed
                                  << " LONGSPAN_TEST_COUNT=1 attention_weights_test: "
                                  << random_case.text);
  Inputs in = random_case.inputs;
  in.options.dropout = {};
  const std::int64_t seqlen_q = length_of(in.query);
  const std::int64_t seqlen_k = length_of(in.key);
  const Inputs named = seqlen_k > 0 ? with_named_keys(in) : in;
  const reference::AttentionResult truth = truth_of(named);
  Random random(seed);
  std::vector<std::int64_t> chosen;
  for (std::int64_t n = seqlen_q > 0 ? random.between(0, 40) : 0; n > 0; --n) {
    const bool next = !chosen.empty() && random.chance(0.7);
    chosen.push_back(next ? (chosen.back() + 1) % seqlen_q : random.between(0, seqlen_q - 1));
  }
  const Tensor rows = integers(chosen, random.chance(0.5) ? DType::kInt32 : DType::kInt64);
  const std::int64_t k = random.choose<std::int64_t>({0, 1, 3, 10, seqlen_k, seqlen_k + 2});
  for (const std::string& kernel : kernels_for(in.query.view().dtype)) {
    SCOPED_TRACE(kernel);
    Execution execution = random_case.execution;
    execution.kernel = kernel;
    const Tensor lse = lse_of(in, execution);
    const Tensor weights = weights_of(in, lse, every_row(in), execution);
    if (seqlen_k > 0) {
      // [batch, num_heads, seqlen_q, seqlen_k] as the output of the call with named keys.
      const DType row = row_of(kernel, in.query.view().dtype, weights.view().dtype);
      Tensor output(weights.view().dtype, make_output(named, row).output.shape());
      const std::int64_t heads =
          in.query.view().rank < 3 ? 1 : output.shape()[output.shape().size() - 2];
      for (std::int64_t n = 0; n < weights.size(); ++n) {
        const std::int64_t key = n % seqlen_k, query = n / seqlen_k % seqlen_q;
        const std::int64_t head = n / seqlen_k / seqlen_q % heads;
        const std::int64_t batch = n / seqlen_k / seqlen_q / heads;
        output.set(((batch * seqlen_q + query) * heads + head) * seqlen_k + key, weights.get(n));
      }
      const double allowed = tolerance_of(row).output_rel_l2 + rounding_of(lse);
      ASSERT_TRUE(within_rel_l2(output.values(), truth.output, allowed));
    }
    const Tensor some = weights_of(in, lse, chosen, execution);
    for (std::int64_t n = 0; n < some.size(); ++n) {
      const std::int64_t row = n / seqlen_k, count = rows.size();
      const std::int64_t from = (row / count * seqlen_q + chosen[row % count]) * seqlen_k;
      const double a = some.get(n), b = weights.get(from + n % seqlen_k);
      ASSERT_TRUE(a == b || (std::isnan(a) && std::isnan(b))) << "element " << n;
    }
    expect_largest(top_of(in, lse, k, {}, execution), weights);
    expect_largest(top_of(in, lse, k, rows, execution), some);
    expect_sums(sums_of(in, lse, {}, execution), weights, seqlen_q);
    expect_sums(sums_of(in, lse, rows, execution), some, rows.size());
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(AttentionWeightsRandom, EveryKernelFollowsTheReference) {
  const std::uint64_t seed = number_from_environment("LONGSPAN_TEST_SEED", kDefaultSeed);
  const std::uint64_t count = number_from_environment("LONGSPAN_TEST_COUNT", kDefaultCount);
  for (std::uint64_t n = 0; n < count; ++n) {
    run_case(seed + n);
    if (HasFatalFailure()) return;
  }
}

constexpr Shape kShape{.batch = 2,
                       .seqlen_q = 70,
                       .seqlen_k = 150,
                       .heads = 4,
                       .heads_kv = 2,
                       .head_dim = 20,
                       .head_dim_v = 9};

class AttentionWeights : public testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  Execution execution(int threads = 0) const { return on(std::get<0>(GetParam()), threads); }
  Inputs inputs() const {
    Inputs in = normal_inputs(kShape, std::get<1>(GetParam()), 41);
    in.options.mask = causal(75);
    return in;
  }
};

TEST_P(AttentionWeights, RowsSumToOneAndSinksTakeTheirPart) {
  for (const bool with_sinks : {false, true}) {
    Inputs in = inputs();
    const std::vector<double> sinks{1.5, -0.25, 0, 3};
    if (with_sinks) {
      in.options.sinks = in.keep(Tensor(DType::kFloat32, {4}).fill_values(sinks)).view();
    }
    const Tensor lse = lse_of(in, execution());
    const Tensor weights = weights_of(in, lse, every_row(in), execution());
    const double tolerance =
        tolerance_of(row_of(std::get<0>(GetParam()), std::get<1>(GetParam()), weights.view().dtype))
            .output_rel_l2;
    for (std::int64_t row = 0; row < rows_of(weights); ++row) {
      double sum = 0;
      for (std::int64_t j = 0; j < kShape.seqlen_k; ++j) sum += weights.get(row * 150 + j);
      const double sink = std::exp(sinks[row / 70 % 4] - lse.get(row));
      ASSERT_NEAR(sum, with_sinks ? 1 - sink : 1, 4 * tolerance) << "row " << row;
    }
  }
}

TEST_P(AttentionWeights, HiddenKeysMayHoldAnything) {
  Inputs in = inputs();
  in.options.mask = in.options.mask & key_range(3, 149);
  const Tensor lse = lse_of(in, execution());
  const Tensor weights = weights_of(in, lse, every_row(in), execution());
  for (const double poison : {kNan, kInf, -kInf}) {
    for (const std::int64_t key : {0, 64, 77, 128, 149}) {
      Inputs poisoned = in;
      poisoned.key = normal_inputs(kShape, std::get<1>(GetParam()), 41).key;
      for (std::int64_t n = 0; n < 20; ++n) poisoned.key.set({1, key, 1, n}, poison);
      const Tensor found = weights_of(poisoned, lse, every_row(in), execution());
      for (std::int64_t n = 0; n < weights.size(); ++n) {
        const std::int64_t j = n % 150, i = n / 150 % 70, h = n / 150 / 70 % 4, b = n / 150 / 280;
        const bool visible = reference::may_see(in.options.mask, {}, 70, 150, b, h, i, j);
        if (!visible) {
          ASSERT_EQ(found.get(n), 0) << "query " << i << ", key " << j;
        } else if (b != 1 || h < 2 || j != key) {
          ASSERT_EQ(found.get(n), weights.get(n)) << "query " << i << ", key " << j;
        }
      }
    }
  }
}

TEST_P(AttentionWeights, RowsThatSeeNothingHaveNoWeights) {
  Inputs in = inputs();
  Tensor lse = lse_of(in, execution());
  in.options.mask = key_range(60, 66);
  for (std::int64_t i = 0; i < 70; i += 3) lse.set({1, 2, i}, -kInf);
  for (std::int64_t d = 0; d < 20; ++d) in.key.set({1, 61, 1, d}, kNan);  // which they could see
  const Tensor weights = weights_of(in, lse, every_row(in), execution());
  const Top top = top_of(in, lse, 8, {}, execution());
  for (std::int64_t i = 0; i < 70; ++i) {
    for (std::int64_t j = 0; j < 150; ++j) {
      const double weight = weights.get({1, 2, i, j});
      if (j < 60 || j >= 66 || i % 3 == 0) {
        ASSERT_EQ(weight, 0);
      } else {
        ASSERT_EQ(std::isnan(weight), j == 61);
        ASSERT_NE(weight, 0);
      }
    }
    for (std::int64_t c = 0; c < 8; ++c) {
      const bool found = i % 3 != 0 && c < 6;
      ASSERT_EQ(top.keys.get({1, 2, i, c}) >= 0, found) << "row " << i << ", place " << c;
      ASSERT_EQ(top.weights.get({1, 2, i, c}) != 0, found);
    }
    if (i % 3 == 0) continue;
    ASSERT_EQ(top.keys.get({1, 2, i, 0}), 61);  // NaN before all
  }
}

TEST_P(AttentionWeights, EqualWeightsGoByKey) {
  Inputs in = inputs();
  in.key.fill(0.5);
  in.options.mask = window(9, 0, 75);
  const Top top = top_of(in, lse_of(in, execution()), 12, {}, execution());
  for (std::int64_t row = 0; row < rows_of(top.keys); ++row) {
    for (std::int64_t c = 0; c < 12; ++c) {
      ASSERT_EQ(top.keys.get(row * 12 + c), c < 10 ? row % 70 + 66 + c : -1);
      ASSERT_EQ(top.weights.get(row * 12 + c) > 0.09, c < 10);
    }
  }
}

TEST_P(AttentionWeights, ThreadsChangeNoBit) {
  const Inputs in = inputs();
  const Tensor lse = lse_of(in, execution());
  const auto all = [&](int threads) {
    Tensor weights = make_result(in, {70, 150});
    Tensor keys = make_result(in, {70, 5}, /*whole=*/true);
    Tensor largest = make_result(in, {70, 5});
    Tensor sums = make_result(in, {150});
    attention_weights(in.query, in.key, lse, {weights, keys, largest, sums}, {}, in.options,
                      execution(threads));
    return std::vector<Tensor>{weights, keys, largest, sums};
  };
  const std::vector<Tensor> one = all(1);
  EXPECT_TRUE(same_bits(one[0], weights_of(in, lse, every_row(in), execution(1))));
  EXPECT_TRUE(same_bits(one[1], top_of(in, lse, 5, {}, execution(1)).keys));
  EXPECT_TRUE(same_bits(one[3], sums_of(in, lse, {}, execution(1))));
  for (const int threads : {2, 3, 7}) {
    const std::vector<Tensor> several = all(threads);
    for (std::size_t n = 0; n < one.size(); ++n) {
      EXPECT_TRUE(same_bits(one[n], several[n])) << threads << " threads, result " << n;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, AttentionWeights,
                         testing::ValuesIn(kernels_and_types({DType::kFloat32, DType::kFloat64,
                                                              DType::kFloat16, DType::kBFloat16})),
                         [](const auto& one) {
                           return std::get<0>(one.param) + "_" +
                                  longspan::name_of(std::get<1>(one.param));
                         });

TEST(AttentionWeightsCall, WorkspaceDoesNotGrowWithThePairs) {
  Inputs in = normal_inputs({.seqlen_q = 4096, .seqlen_k = 4096, .head_dim = 8, .head_dim_v = 8},
                            DType::kFloat32, 5);
  const Tensor lse = lse_of(in);
  Execution execution;
  execution.threads = 1;
  execution.memory_limit = std::size_t{1} << 20;  // the weights are 64 MiB
  Tensor sums = make_result(in, {4096});
  Tensor keys = make_result(in, {4096, 4}, /*whole=*/true);
  attention_weights(in.query, in.key, lse, {.top_keys = keys, .column_sums = sums}, {}, in.options,
                    execution);
  const std::vector<double> by_key = sums.values();
  EXPECT_NEAR(std::accumulate(by_key.begin(), by_key.end(), 0.0), 4096, 0.01);
  execution.memory_limit = 1000;
  EXPECT_TRUE(throws_error(
      [&] {
        attention_weights(in.query, in.key, lse, {.column_sums = sums}, {}, in.options, execution);
      },
      ErrorCode::kOutOfMemory, {"attention_weights", "memory_limit", "1000"}));
}

TEST(AttentionWeightsCall, StopsAndCounts) {
  const Inputs in = normal_inputs(kShape, DType::kFloat32, 3);
  const Tensor lse = lse_of(in);
  Tensor sums = make_result(in, {150});
  Progress progress;
  Execution execution;
  execution.progress = &progress;
  attention_weights(in.query, in.key, lse, {.column_sums = sums}, {}, in.options, execution);
  EXPECT_GT(progress.total, 0);
  EXPECT_EQ(progress.done, progress.total);
  std::stop_source stop;
  stop.request_stop();
  execution.stop = stop.get_token();
  EXPECT_TRUE(throws_error(
      [&] {
        attention_weights(in.query, in.key, lse, {.column_sums = sums}, {}, in.options, execution);
      },
      ErrorCode::kCancelled, {"attention_weights", "stopped"}));
}

TEST(AttentionWeightsCall, ErrorsSayWhatWasExpectedAndFound) {
  Inputs in = normal_inputs(kShape, DType::kFloat32, 3);
  const Tensor lse = lse_of(in);
  const auto refuses = [&](const longspan::AttentionWeights& into, const Tensor& rows,
                           std::initializer_list<std::string> words) {
    return throws_error([&] { attention_weights(in.query, in.key, lse, into, rows, in.options); },
                        ErrorCode::kInvalidArgument, words);
  };
  Tensor sums = make_result(in, {150});
  Tensor keys = make_result(in, {70, 5}, /*whole=*/true);
  Tensor largest = make_result(in, {70, 4});
  EXPECT_TRUE(refuses({}, {}, {"attention_weights", "nothing is asked for", "column_sums"}));
  EXPECT_TRUE(refuses({.weights = sums}, {}, {"weights", "[2, 4, 70, 150]", "[2, 4, 150]"}));
  EXPECT_TRUE(refuses({.top_keys = keys, .top_weights = largest}, {},
                      {"top_weights", "[2, 4, 70, 5]", "[2, 4, 70, 4]"}));
  EXPECT_TRUE(refuses({.top_keys = largest}, {}, {"top_keys", "int64", "float32"}));
  EXPECT_TRUE(refuses({.top_weights = keys}, {}, {"top_weights", "float32", "int64"}));
  EXPECT_TRUE(refuses({.column_sums = in.key}, {}, {"column_sums", "[2, 4, 150]"}));
  EXPECT_TRUE(refuses({.column_sums = sums}, integers({3, 70}), {"rows[1]", "seqlen_q", "70"}));
  EXPECT_TRUE(refuses({.column_sums = sums}, integers({-1}), {"rows[0]", "found -1"}));
  EXPECT_TRUE(refuses({.column_sums = sums}, Tensor(DType::kFloat32, {2}), {"rows", "float32"}));
  EXPECT_TRUE(throws_error([&] { attention_weights(in.query, in.key, {}, {.column_sums = sums}); },
                           ErrorCode::kInvalidArgument, {"lse", "[2, 4, 70]"}));
  Tensor inside(DType::kFloat32, {2, 4, 70, 150});
  TensorView part = inside.view();
  part.rank = 3;
  part.shape = {2, 4, 150};
  EXPECT_TRUE(refuses({.weights = inside, .column_sums = part}, {}, {"column_sums", "overlap"}));
  in.options.dropout.probability = 0.5;
  EXPECT_TRUE(refuses({.column_sums = sums}, {}, {"attention_weights", "dropout"}));
}

}  // namespace
}  // namespace longspan::test
