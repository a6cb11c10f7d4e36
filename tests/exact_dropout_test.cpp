// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Dropout: the pattern is that of the scalar definition at the tensor's own indices, whatever the
// chunks, threads and kernel; the output is the literal sum; nothing else changes a bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/philox.h"
#include "support/random_case.h"

namespace longspan::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

bool is_kept(const Dropout& dropout, std::int64_t batch, std::int64_t head, std::int64_t query,
             std::int64_t key) {
  const auto word = [](std::int64_t index) { return static_cast<std::uint32_t>(index); };
  const base::PhiloxBlock block = base::philox(
      {word(key / 4), word(query), word(head), word(batch)}, base::philox_key(dropout.seed));
  return block[static_cast<std::size_t>(key % 4)] >= dropout.probability * 0x1p32;
}

// The number of an axis, counted from batch (0), of a tensor of this rank; 1 for one that it lacks.
std::int64_t extent(const Tensor& tensor, int axis) {
  const ConstTensorView view = tensor.view();
  if (view.rank == 2) return axis == 1 ? view.shape[0] : axis == 3 ? view.shape[1] : 1;
  return axis + view.rank < 4 ? 1 : view.shape[axis + view.rank - 4];
}

// Values e_0, e_1, ... along the keys: the output is the weights themselves.
Tensor unit_values(const Tensor& value) {
  std::vector<std::int64_t> shape = value.shape();
  const std::int64_t keys = extent(value, 1), heads = extent(value, 2);
  shape.back() = std::max<std::int64_t>(keys, 1);
  Tensor unit(value.view().dtype, shape);
  for (std::int64_t n = 0; n < unit.size(); ++n) {
    unit.set(n, n / keys / heads % keys == n % keys ? 1.0 : 0.0);
  }
  return unit;
}

// sum_j weight_j keep_j value_j / (1 - p), from the weights of the reference without dropout, as
// is lse. The rest, which tolerances follow from, is what the reference says with it.
template <class Real>
reference::AttentionResult literal(const Inputs& inputs, reference::Precision precision) {
  Inputs weighing = inputs;
  weighing.options.dropout = {};
  weighing.value = unit_values(inputs.value);
  const reference::AttentionResult without = truth_of(weighing, precision);
  const std::vector<double>& weights = without.output;
  reference::AttentionResult result = truth_of(inputs, precision);
  result.lse = without.lse;
  result.output.clear();
  const std::vector<double> values = inputs.value.values();
  const std::int64_t queries = extent(inputs.query, 1), heads = extent(inputs.query, 2);
  const std::int64_t keys = extent(inputs.key, 1), heads_kv = extent(inputs.key, 2);
  const std::int64_t dims = extent(inputs.value, 3), columns = std::max<std::int64_t>(keys, 1);
  const Dropout& dropout = inputs.options.dropout;
  for (std::int64_t row = 0; row < extent(inputs.query, 0) * queries * heads; ++row) {
    const std::int64_t head = row % heads, query = row / heads % queries,
                       batch = row / heads / queries;
    std::vector<Real> sum(static_cast<std::size_t>(dims));
    for (std::int64_t j = 0; j < keys; ++j) {
      if (!is_kept(dropout, batch, head, query, j)) continue;
      const auto weight = static_cast<Real>(weights[static_cast<std::size_t>(row * columns + j)]);
      const std::int64_t at = ((batch * keys + j) * heads_kv + head / (heads / heads_kv)) * dims;
      for (std::int64_t d = 0; d < dims; ++d) {
        const auto value = static_cast<Real>(values[static_cast<std::size_t>(at + d)]);
        sum[static_cast<std::size_t>(d)] += weight * value;
      }
    }
    const auto factor = static_cast<Real>(1 / (1 - dropout.probability));
    for (const Real x : sum) result.output.push_back(x * factor);
  }
  return result;
}

testing::AssertionResult is_literal(const Output& result, const Inputs& inputs,
                                    const reference::AttentionResult& truth,
                                    const std::string& kernel) {
  const DType input = inputs.query.view().dtype;
  return matches(
      result.output, result.lse, truth,
      [&] {
        return input == DType::kFloat64 ? literal<double>(inputs, reference::Precision::kFloat64)
                                        : literal<float>(inputs, reference::Precision::kFloat32);
      },
      row_of(kernel, input, result.output.view().dtype));
}

constexpr Shape kShape{.batch = 2,
                       .seqlen_q = 101,
                       .seqlen_k = 150,
                       .heads = 4,
                       .heads_kv = 2,
                       .head_dim = 16,
                       .head_dim_v = 9};

Inputs dropped_inputs(double probability, DType dtype = DType::kFloat32, std::uint64_t seed = 77) {
  Inputs inputs = normal_inputs(kShape, dtype, 51);
  inputs.options.dropout = {probability, seed};
  return inputs;
}

Output without_dropout(Inputs inputs, const Execution& execution) {
  inputs.options.dropout = {};
  return run(inputs, execution);
}

// Element [batch, query, head, key]: the pair is kept.
std::vector<double> pattern(Inputs inputs, const Execution& execution) {
  inputs.value = unit_values(inputs.value);
  std::vector<double> kept = run(inputs, execution).output.values();
  for (double& x : kept) x = x != 0 ? 1 : 0;
  return kept;
}

std::vector<double> defined_pattern(const Dropout& dropout) {
  std::vector<double> kept;
  for (std::int64_t b = 0; b < kShape.batch; ++b)
    for (std::int64_t i = 0; i < kShape.seqlen_q; ++i)
      for (std::int64_t h = 0; h < kShape.heads; ++h)
        for (std::int64_t j = 0; j < kShape.seqlen_k; ++j)
          kept.push_back(is_kept(dropout, b, h, i, j) ? 1 : 0);
  return kept;
}

class ExactDropout : public testing::TestWithParam<std::string> {
 protected:
  Execution execution(int threads = 0) const { return on(GetParam(), threads); }
};

TEST_P(ExactDropout, PatternIsTheDefinitionInAnyChunksAndThreads) {
  const Inputs inputs = dropped_inputs(0.3);
  const std::vector<double> expected = defined_pattern(inputs.options.dropout);
  for (const int threads : {1, 3}) {
    for (const std::int64_t query_chunk : {0, 1, 5, 64}) {
      for (const std::int64_t key_chunk : {0, 1, 7, 64}) {
        Execution chunked = execution(threads);
        chunked.query_chunk = query_chunk;
        chunked.key_chunk = key_chunk;
        ASSERT_EQ(pattern(inputs, chunked), expected)
            << threads << " threads, chunks of " << query_chunk << " and " << key_chunk;
      }
    }
  }
}

// Scores in the hundreds move references in the middle of a row.
TEST_P(ExactDropout, WildScoresFollowTheLiteralSum) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    Inputs inputs = dropped_inputs(0.4, dtype);
    Random random(52);
    for (std::int64_t n = 0; n < inputs.key.size(); ++n) {
      if (n / kShape.head_dim % 40 == 39) inputs.key.set(n, 30 * random.normal());
    }
    EXPECT_TRUE(is_literal(run(inputs, execution()), inputs,
                           literal<double>(inputs, reference::Precision::kFloat64), GetParam()));
  }
}

TEST_P(ExactDropout, SameBitsForAnyThreads) {
  for (const std::int64_t key_chunk : {0, 16}) {
    const Inputs inputs = dropped_inputs(0.3);
    Execution one = execution(1);
    one.key_chunk = key_chunk;
    const Output expected = run(inputs, one);
    for (const int threads : {2, 3, 7}) {
      Execution several = one;
      several.threads = threads;
      EXPECT_TRUE(same_bits(run(inputs, several), expected)) << threads << " threads";
    }
  }
}

TEST_P(ExactDropout, ProbabilityZeroChangesNoBit) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    const Inputs inputs = dropped_inputs(0.0, dtype);
    EXPECT_TRUE(same_bits(run(inputs, execution()), without_dropout(inputs, execution())));
  }
}

TEST_P(ExactDropout, ProbabilityOneGivesZeros) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    const Inputs inputs = dropped_inputs(1.0, dtype);
    const Output result = run(inputs, execution());
    for (const double x : result.output.values()) ASSERT_EQ(x, 0);
    EXPECT_TRUE(test::same_bits(result.lse, without_dropout(inputs, execution()).lse));
  }
}

TEST_P(ExactDropout, LseKeepsItsBits) {
  for (const double probability : {0.2, 0.9}) {
    for (const double softcap : {0.0, 4.0}) {
      Inputs inputs = dropped_inputs(probability);
      inputs.options.softcap = softcap;
      inputs.options.mask = causal(20);
      const Output result = run(inputs, execution()), plain = without_dropout(inputs, execution());
      EXPECT_TRUE(test::same_bits(result.lse, plain.lse)) << probability;
      EXPECT_FALSE(test::same_bits(result.output, plain.output)) << probability;
    }
  }
}

TEST_P(ExactDropout, TheShareThatIsKeptIsRight) {
  for (const double probability : {0.02, 0.1, 0.5, 0.93}) {
    const std::vector<double> kept = pattern(dropped_inputs(probability), execution());
    const auto pairs = static_cast<double>(kept.size());
    const double share = static_cast<double>(std::count(kept.begin(), kept.end(), 1.0)) / pairs;
    const double sigma = std::sqrt(probability * (1 - probability) / pairs);
    EXPECT_LE(std::fabs(share - (1 - probability)), 5 * sigma) << probability << ": " << share;
  }
}

TEST_P(ExactDropout, SeedsDifferInEitherHalf) {
  const std::vector<double> one = pattern(dropped_inputs(0.5), execution());
  for (const std::uint64_t seed : {std::uint64_t{78}, std::uint64_t{77} | std::uint64_t{1} << 32}) {
    const std::vector<double> other =
        pattern(dropped_inputs(0.5, DType::kFloat32, seed), execution());
    double equal = 0;
    for (std::size_t n = 0; n < one.size(); ++n) equal += one[n] == other[n] ? 1 : 0;
    const auto pairs = static_cast<double>(one.size());
    EXPECT_LE(std::fabs(equal / pairs - 0.5), 2.5 / std::sqrt(pairs)) << "independent patterns";
  }
}

TEST_P(ExactDropout, ChunkSummaryScalesItsNumeratorAlone) {
  const Inputs inputs = dropped_inputs(0.3);
  Inputs plain = inputs;
  plain.options.dropout = {};
  const Summary summary = run_summary(inputs, execution());
  const Summary undropped = run_summary(plain, execution());
  EXPECT_TRUE(test::same_bits(summary.sum, undropped.sum));
  EXPECT_TRUE(test::same_bits(summary.max, undropped.max));
  std::vector<double> output = summary.numerator.values();
  for (std::size_t n = 0; n < output.size(); ++n) {
    output[n] /= summary.sum.get(static_cast<std::int64_t>(n) / kShape.head_dim_v);
  }
  EXPECT_TRUE(
      within_rel_l2(output, literal<double>(inputs, reference::Precision::kFloat64).output, 2e-6));
}

// Rows that see a NaN value have it, kept or not: 0 * NaN. Others keep their bits.
TEST_P(ExactDropout, HiddenNanValuesChangeNoBit) {
  for (const double bad : {kNan, kInf}) {
    Inputs inputs = dropped_inputs(0.5);
    inputs.options.mask = causal(20);
    const Output clean = run(inputs, execution());
    for (const std::int64_t key : {60, 110}) {
      for (std::int64_t b = 0; b < kShape.batch; ++b) inputs.value.set({b, key, 0, 3}, bad);
    }
    const Output result = run(inputs, execution());
    EXPECT_TRUE(test::same_bits(result.lse, clean.lse));
    for (std::int64_t n = 0; n < clean.output.size(); ++n) {
      const std::int64_t d = n % kShape.head_dim_v;
      const std::int64_t head = n / kShape.head_dim_v % kShape.heads;
      const std::int64_t query = n / kShape.head_dim_v / kShape.heads % kShape.seqlen_q;
      if (query + 20 >= 60 && head < kShape.heads / kShape.heads_kv && d == 3) {
        ASSERT_FALSE(std::isfinite(result.output.get(n)));
      } else {
        ASSERT_EQ(result.output.get(n), clean.output.get(n));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, ExactDropout, testing::ValuesIn(usable_kernels()),
                         [](const auto& one) { return one.param; });

TEST(ExactDropoutCall, RandomCallsFollowTheLiteralSumOnEveryKernel) {
  const std::uint64_t first = number_from_environment("LONGSPAN_TEST_SEED", 1);
  const std::uint64_t count = number_from_environment("LONGSPAN_TEST_COUNT", 200);
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    RandomCase random_case(seed);
    Random random(seed);
    Inputs& inputs = random_case.inputs;
    inputs.options.dropout = {random.choose({0.1, 0.5, 0.9, 0x1p-20}),
                              static_cast<std::uint64_t>(random.between(0, INT64_MAX))};
    const reference::AttentionResult truth =
        literal<double>(inputs, reference::Precision::kFloat64);
    for (const std::string& kernel : kernels_for(inputs.query.view().dtype)) {
      Execution execution = random_case.execution;
      execution.kernel = kernel;
      Output result = make_output(inputs, random_case.output_dtype, random_case.output_layout,
                                  random_case.output_misalignment);
      result.output.fill(kNan);
      attention(inputs.query, inputs.key, inputs.value, {result.output, result.lse}, inputs.options,
                execution);
      ASSERT_TRUE(is_literal(result, inputs, truth, kernel))
          << kernel << "; repeat with LONGSPAN_TEST_SEED=" << seed
          << " LONGSPAN_TEST_COUNT=1: " << random_case.text << "dropout "
          << inputs.options.dropout.probability;
    }
  }
}

TEST(ExactDropoutCall, RefusesWhatIsNoProbability) {
  for (const double probability : {-0.1, 1.5, kNan, kInf, -kInf, 1.0000001}) {
    const Inputs inputs = dropped_inputs(probability);
    for (const auto& call : std::vector<std::function<void()>>{
             [&] { run(inputs); }, [&] { run_summary(inputs); },
             [&] { plan_attention(inputs.query, inputs.key, inputs.value, inputs.options); }}) {
      EXPECT_TRUE(throws_error(call, ErrorCode::kInvalidArgument,
                               {"dropout probability must be between 0 and 1; found "}));
    }
  }
  EXPECT_TRUE(throws_error([] { run(dropped_inputs(1.0000001)); }, ErrorCode::kInvalidArgument,
                           {"found 1.0000001"}));
}

TEST(ExactDropoutCall, TakesMemoryOnlyWhereItIsOn) {
  const auto bytes = [](double probability) {
    const Inputs in = dropped_inputs(probability);
    return plan_attention(in.query, in.key, in.value, in.options).workspace_bytes;
  };
  Inputs none = dropped_inputs(0);
  none.options.dropout = {};
  EXPECT_EQ(bytes(0),
            plan_attention(none.query, none.key, none.value, none.options).workspace_bytes);
  EXPECT_GT(bytes(0.1), bytes(0));
}

}  // namespace
}  // namespace longspan::test
