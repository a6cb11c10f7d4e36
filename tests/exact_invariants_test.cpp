// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What must hold for exact attention whatever the numbers are, on every kernel.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "support/call.h"
#include "support/compare.h"

namespace longspan::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

const Shape kShape{.batch = 2,
                   .seqlen_q = 83,
                   .seqlen_k = 197,
                   .heads = 4,
                   .heads_kv = 2,
                   .head_dim = 40,
                   .head_dim_v = 24};

class ExactInvariants : public testing::TestWithParam<std::string> {
 protected:
  Execution execution() const { return on(GetParam()); }
  Output result_of(const Inputs& inputs) const { return run(inputs, execution()); }
};

TEST_P(ExactInvariants, ValueOneGivesOne) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    Inputs inputs = normal_inputs(kShape, dtype, 1);
    inputs.value.fill(1.0);
    inputs.options.query_offset = QueryOffset::end();
    inputs.options.mask = causal();
    const Output result = result_of(inputs);
    const double step = dtype == DType::kFloat64 ? 1e-14 : dtype == DType::kFloat32 ? 5e-7 : 0;
    EXPECT_TRUE(within_elementwise(result.output.values(),
                                   std::vector<double>(result.output.size(), 1.0), step, 0))
        << longspan::name_of(dtype);
  }
}

TEST_P(ExactInvariants, ShiftOfAllLogitsLeavesTheOutput) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const bool wide = dtype == DType::kFloat64;
    Inputs inputs = normal_inputs(kShape, dtype, 2);
    const Output plain = result_of(inputs);
    EXPECT_TRUE(matches_reference(plain, inputs));
    for (const double shift : {1.0, -8.0, wide ? 700.0 : 20.0, wide ? -5000.0 : -20.0}) {
      inputs.options.bias = inputs.keep(Tensor(dtype, {1, 1, 1, 1}).fill(shift)).view();
      const Output shifted = result_of(inputs);
      std::vector<double> lse = plain.lse.values();
      for (double& x : lse) x += shift;
      EXPECT_TRUE(
          within_rel_l2(shifted.output.values(), plain.output.values(), wide ? 1e-12 : 4e-6))
          << shift;
      EXPECT_TRUE(
          within_elementwise(shifted.lse.values(), lse, wide ? 1e-13 : 4e-6, wide ? 1e-15 : 2e-7))
          << shift;
    }
  }
}

// Entry `b` of the first axis as a tensor of batch 1.
Tensor entry(const Tensor& tensor, std::int64_t b) {
  std::vector<std::int64_t> shape = tensor.shape();
  shape[0] = 1;
  Tensor one(tensor.view().dtype, shape);
  for (std::int64_t n = 0; n < one.size(); ++n) one.set(n, tensor.get(b * one.size() + n));
  return one;
}

TEST_P(ExactInvariants, BatchEntryIsIndependentOfItsBatchBitwise) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const std::int64_t seqlen_q : {1, 5, 83}) {
      Shape shape = kShape;
      shape.batch = 3;
      shape.seqlen_q = seqlen_q;
      Inputs inputs = normal_inputs(shape, dtype, 3);
      inputs.options.query_offset = QueryOffset::end();
      inputs.options.mask = causal();
      const Tensor poisoned = entry(inputs.key, 1);  // a neighbour of NaN must not be noticed
      for (std::int64_t n = 0; n < poisoned.size(); ++n) inputs.key.set(poisoned.size() + n, kNan);
      const Output together = result_of(inputs);
      EXPECT_TRUE(matches_reference(together, inputs));
      for (const std::int64_t b : {0, 2}) {
        Inputs alone = inputs;
        alone.query = entry(inputs.query, b);
        alone.key = entry(inputs.key, b);
        alone.value = entry(inputs.value, b);
        const Output result = result_of(alone);
        EXPECT_TRUE(same_bits(result, {entry(together.output, b), entry(together.lse, b)}))
            << "entry " << b << ", " << seqlen_q << " queries";
      }
    }
  }
}

TEST_P(ExactInvariants, KeyPermutation) {
  Inputs inputs = normal_inputs(kShape, DType::kFloat32, 4);
  const reference::AttentionResult truth = truth_of(inputs);
  Inputs permuted = normal_inputs(kShape, DType::kFloat32, 4);
  Random random(5);
  std::vector<std::int64_t> order(static_cast<std::size_t>(kShape.seqlen_k));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t n = order.size() - 1; n > 0; --n) {
    std::swap(order[n],
              order[static_cast<std::size_t>(random.between(0, static_cast<std::int64_t>(n)))]);
  }
  for (std::int64_t b = 0; b < kShape.batch; ++b) {
    for (std::int64_t j = 0; j < kShape.seqlen_k; ++j) {
      const std::int64_t from = order[static_cast<std::size_t>(j)];
      for (std::int64_t h = 0; h < kShape.heads_kv; ++h) {
        for (std::int64_t d = 0; d < kShape.head_dim; ++d) {
          permuted.key.set({b, j, h, d}, inputs.key.get({b, from, h, d}));
        }
        for (std::int64_t d = 0; d < kShape.head_dim_v; ++d) {
          permuted.value.set({b, j, h, d}, inputs.value.get({b, from, h, d}));
        }
      }
    }
  }
  const Output result = result_of(permuted);
  EXPECT_TRUE(within_rel_l2(result.output.values(), truth.output, 2e-6));
  EXPECT_TRUE(within_elementwise(result.lse.values(), truth.lse, 2e-6, 1e-6));
}

TEST_P(ExactInvariants, AnySplitOfTheKeysMergedIsTheWhole) {
  Inputs inputs = normal_inputs(kShape, DType::kFloat32, 6);
  inputs.options.query_offset = QueryOffset::end();
  const Mask mask = causal() & window(90, 0);
  inputs.options.mask = mask;
  const reference::AttentionResult truth = truth_of(inputs);
  Random random(7);
  for (const int count : {1, 2, 5, 12}) {
    std::vector<std::int64_t> cuts{0, kShape.seqlen_k};
    for (int n = 1; n < count; ++n) cuts.push_back(random.between(0, kShape.seqlen_k));
    std::sort(cuts.begin(), cuts.end());
    std::vector<Output> parts;
    for (std::size_t n = 0; n + 1 < cuts.size(); ++n) {
      inputs.options.mask = mask & key_range(cuts[n], cuts[n + 1]);
      parts.push_back(result_of(inputs));
    }
    const std::vector<ConstPartial> views = [&] {
      std::vector<ConstPartial> all;
      for (const Output& part : parts) all.emplace_back(part.output, part.lse);
      std::swap(all.front(), all.back());
      return all;
    }();
    Output whole = make_output(inputs, DType::kFloat32);
    const Partial into{whole.output, whole.lse};
    clear(into);
    merge(into, views);
    EXPECT_TRUE(within_rel_l2(whole.output.values(), truth.output, 2e-6)) << count << " parts";
    EXPECT_TRUE(within_elementwise(whole.lse.values(), truth.lse, 2e-6, 1e-6)) << count << " parts";
  }
}

TEST_P(ExactInvariants, ChunkSizesDoNotMatter) {
  Inputs inputs = normal_inputs(kShape, DType::kFloat32, 8);
  const reference::AttentionResult truth = truth_of(inputs);
  for (const std::int64_t query_chunk : {1, 3, 48, 1000}) {
    for (const std::int64_t key_chunk : {1, 3, 64, 127, 1000}) {
      Execution chunked = execution();
      chunked.query_chunk = query_chunk;
      chunked.key_chunk = key_chunk;
      const Output result = run(inputs, chunked);
      EXPECT_TRUE(within_rel_l2(result.output.values(), truth.output, 2e-6))
          << query_chunk << ", " << key_chunk;
      EXPECT_TRUE(within_elementwise(result.lse.values(), truth.lse, 2e-6, 1e-6))
          << query_chunk << ", " << key_chunk;
    }
  }
}

TEST_P(ExactInvariants, LaterTokensChangeNoBitOfACausalRow) {
  const Shape shape{.batch = 1,
                    .seqlen_q = 300,
                    .seqlen_k = 300,
                    .heads = 2,
                    .heads_kv = 1,
                    .head_dim = 33,
                    .head_dim_v = 17};
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16}) {
    Inputs inputs = normal_inputs(shape, dtype, 9);
    inputs.options.mask = causal();
    const Output before = result_of(inputs);
    EXPECT_TRUE(matches_reference(before, inputs));
    for (const std::int64_t from : {1, 7, 64, 130, 299}) {
      for (const double content : {0.0, 1e30, -1e30, kInf, kNan}) {
        Inputs changed = normal_inputs(shape, dtype, 9);
        changed.options.mask = causal();
        for (Tensor* tensor : {&changed.query, &changed.key, &changed.value}) {
          const std::int64_t row = tensor->size() / shape.seqlen_k;
          for (std::int64_t n = from * row; n < tensor->size(); ++n) tensor->set(n, content);
        }
        const Output after = result_of(changed);
        for (std::int64_t i = 0; i < from; ++i) {
          for (std::int64_t h = 0; h < shape.heads; ++h) {
            ASSERT_EQ(after.lse.get({0, h, i}), before.lse.get({0, h, i}))
                << "row " << i << ", change from " << from << " to " << content;
            for (std::int64_t d = 0; d < shape.head_dim_v; ++d) {
              ASSERT_EQ(after.output.get({0, i, h, d}), before.output.get({0, i, h, d}))
                  << "row " << i << ", change from " << from << " to " << content;
            }
          }
        }
      }
    }
  }
}

TEST_P(ExactInvariants, LengthsThatNothingDivides) {
  for (const std::int64_t n : {127, 131, 257, 521}) {
    Inputs inputs = normal_inputs(
        {.seqlen_q = n, .seqlen_k = n + 6, .head_dim = 19, .head_dim_v = 23}, DType::kFloat32, 10);
    for (const Mask& mask : {Mask(), causal(101)}) {
      inputs.options.mask = mask;
      EXPECT_TRUE(matches_reference(result_of(inputs), inputs)) << n;
    }
  }
}

TEST_P(ExactInvariants, PeakedAndHugeLogits) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    Inputs inputs = normal_inputs(kShape, dtype, 11);
    for (std::int64_t n = 0; n < inputs.query.size(); ++n)
      inputs.query.set(n, 30 * inputs.query.get(n));
    EXPECT_TRUE(matches_reference(result_of(inputs), inputs))
        << "x30, " << longspan::name_of(dtype);

    Inputs huge = normal_inputs(kShape, dtype, 12);
    const std::int64_t row = kShape.heads_kv * kShape.head_dim;
    for (const std::int64_t j : {0, 63, 64, 190}) {
      for (std::int64_t n = j * row; n < (j + 1) * row; ++n) huge.key.set(n, 300 * huge.key.get(n));
    }
    EXPECT_TRUE(matches_reference(result_of(huge), huge))
        << "huge keys, " << longspan::name_of(dtype);
  }
}

// ALiBi promises scores that rise towards the query. Here they do not: keys far away outweigh those
// near it, by an outlier, by large scores, or by a bias against it.
TEST_P(ExactInvariants, AlibiAgainstScoresThatDoNotRise) {
  constexpr std::int64_t kKeys = 1100, kQueries = 70, kHeads = 4;
  const std::vector<double> slopes{1.0, 0.5, 0.25, 0.0625};
  enum Case { kFarKey, kLargeScores, kOpposingBias };
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16}) {
    for (const Case which : {kFarKey, kLargeScores, kOpposingBias}) {
      for (const Mask& mask : {Mask(), causal()}) {
        Inputs in = normal_inputs({.seqlen_q = kQueries,
                                   .seqlen_k = kKeys,
                                   .heads = kHeads,
                                   .heads_kv = kHeads,
                                   .head_dim = 16,
                                   .head_dim_v = 5},
                                  dtype, 15);
        in.options.query_offset = QueryOffset::end();
        in.options.mask = mask;
        Tensor numbers = in.keep(Tensor(DType::kFloat32, {kHeads}));
        for (std::int64_t h = 0; h < kHeads; ++h) numbers.set(h, slopes[h]);
        in.options.alibi_slopes = numbers.view();
        if (which == kFarKey) {
          for (std::int64_t n = 0; n < in.query.size(); ++n) in.query.set(n, 4.0);
          for (std::int64_t n = 0; n < kHeads * 16; ++n) in.key.set(n, 8.0);
        } else if (which == kLargeScores) {
          for (std::int64_t n = 0; n < in.query.size(); ++n) in.query.set(n, 60 * in.query.get(n));
        } else {
          Tensor bias = in.keep(Tensor(DType::kFloat32, {kHeads, kQueries, kKeys}));
          for (std::int64_t n = 0; n < bias.size(); ++n) {
            const std::int64_t h = n / (kQueries * kKeys), i = n / kKeys % kQueries, j = n % kKeys;
            bias.set(n, slopes[h] * std::abs(static_cast<double>(i + kKeys - kQueries - j)));
          }
          in.options.bias = bias.view();
        }
        EXPECT_TRUE(matches_reference(result_of(in), in))
            << longspan::name_of(dtype) << ", case " << which
            << (mask.terms().empty() ? "" : ", causal");
      }
    }
  }
}

// Masks made of the lowest finite number exclude like -inf, also where they leave a row nothing.
TEST_P(ExactInvariants, BiasOfTheLowestNumber) {
  for (const std::int64_t queries : {3, 40}) {  // decode and panels
    for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
      const double lowest = dtype == DType::kFloat32 ? std::numeric_limits<float>::lowest()
                                                     : std::numeric_limits<double>::lowest();
      Inputs in = normal_inputs(
          {.seqlen_q = queries, .seqlen_k = 150, .head_dim = 8, .head_dim_v = 8}, dtype, 16);
      Tensor finite = in.keep(Tensor(dtype, {queries, 150}));
      Tensor infinite = in.keep(Tensor(dtype, {queries, 150}));
      for (std::int64_t n = 0; n < finite.size(); ++n) {
        const bool hidden = n / 150 == 1 || n % 3 == 0;
        finite.set(n, hidden ? lowest : 0.5);
        infinite.set(n, hidden ? -kInf : 0.5);
      }
      in.options.bias = finite.view();
      const Output result = result_of(in);
      in.options.bias = infinite.view();
      EXPECT_TRUE(matches_reference(result, in)) << queries << ", " << longspan::name_of(dtype);
      EXPECT_EQ(result.lse.get(1), -kInf);
    }
  }
}

TEST_P(ExactInvariants, ConstantRows) {
  for (const std::int64_t n : {1, 2, 130, 4096}) {
    for (const double score : {0.0, -3.5, 80.0, -1000.0}) {
      Inputs inputs = normal_inputs({.seqlen_q = 3, .seqlen_k = n, .head_dim = 4, .head_dim_v = 3},
                                    DType::kFloat32, 13);
      inputs.query.fill(1.0);
      inputs.key.fill(score / 2);  // 4 products of score / 2, scaled by 1/2
      std::vector<double> mean(9, 0.0);
      for (std::int64_t j = 0; j < n; ++j) {
        for (std::size_t d = 0; d < 9; ++d) {
          mean[d] += inputs.value.get({0, j, 0, static_cast<std::int64_t>(d % 3)}) /
                     static_cast<double>(n);
        }
      }
      const Output result = result_of(inputs);
      const std::vector<double> lse(3, score + std::log(static_cast<double>(n)));
      EXPECT_TRUE(within_elementwise(result.lse.values(), lse, 2e-7, 1.2e-7))
          << n << " scores of " << score;
      EXPECT_TRUE(within_elementwise(result.output.values(), mean, 2e-7, 2e-6))
          << n << " scores of " << score;
    }
  }
}

// arXiv 2112.05682 reports 1.8e-7 at this size; the project promises 1e-7.
TEST_P(ExactInvariants, PrecisionAtTheLengthOfThePaper) {
  Inputs inputs = normal_inputs(
      {.seqlen_q = 64, .seqlen_k = 16384, .head_dim = 64, .head_dim_v = 64}, DType::kFloat32, 14);
  const reference::AttentionResult truth = truth_of(inputs);
  for (const std::int64_t key_chunk : {0, 4096, 16384}) {
    Execution chunked = execution();
    chunked.key_chunk = key_chunk;
    const Output result = run(inputs, chunked);
    EXPECT_TRUE(within_absolute(result.output.values(), truth.output, 1e-7)) << key_chunk;
    EXPECT_TRUE(within_rel_l2(result.output.values(), truth.output, 2e-6)) << key_chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, ExactInvariants, testing::ValuesIn(usable_kernels()),
                         [](const auto& one) { return one.param; });

}  // namespace
}  // namespace longspan::test
