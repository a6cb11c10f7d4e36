// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Gradients have the same bits for any number of threads, any memory limit, and for a batch entry
// alone or in any batch.
#include <gtest/gtest.h>

#include <chrono>
#include <ostream>
#include <thread>

#include "support/backward.h"

namespace longspan::test {
namespace {

// One entry of the batch, as a batch of its own.
Tensor entry_of(const Tensor& tensor, std::int64_t batch) {
  std::vector<std::int64_t> shape = tensor.shape();
  shape[0] = 1;
  Tensor entry(tensor.view().dtype, shape);
  for (std::int64_t n = 0; n < entry.size(); ++n)
    entry.set(n, tensor.get(batch * entry.size() + n));
  return entry;
}

struct Load {
  std::string name;
  Shape shape;
  bool causal;
  bool terms;  // softcap, ALiBi and sinks
  friend std::ostream& operator<<(std::ostream& out, const Load& load) { return out << load.name; }
};

const std::vector<Load>& loads() {
  static const std::vector<Load> all{
      {"one_head",
       {.seqlen_q = 700, .seqlen_k = 700, .head_dim = 32, .head_dim_v = 20},
       false,
       false},
      {"one_head_causal",
       {.seqlen_q = 500, .seqlen_k = 811, .head_dim = 24, .head_dim_v = 24},
       true,
       true},
      {"one_query",
       {.seqlen_q = 1,
        .seqlen_k = 2049,
        .heads = 4,
        .heads_kv = 2,
        .head_dim = 16,
        .head_dim_v = 16},
       true,
       false},
      {"one_key_block",
       {.seqlen_q = 1500,
        .seqlen_k = 40,
        .heads = 2,
        .heads_kv = 1,
        .head_dim = 16,
        .head_dim_v = 9},
       false,
       true},
      {"groups_causal",
       {.batch = 2,
        .seqlen_q = 190,
        .seqlen_k = 300,
        .heads = 6,
        .heads_kv = 2,
        .head_dim = 16,
        .head_dim_v = 12},
       true,
       true},
      {"many_heads",
       {.batch = 3,
        .seqlen_q = 65,
        .seqlen_k = 65,
        .heads = 5,
        .heads_kv = 5,
        .head_dim = 8,
        .head_dim_v = 8},
       true,
       false}};
  return all;
}

struct Call {
  Inputs inputs;
  Output result;
  Derivatives derivatives;
};

GradientTensors gradients_of(const Call& call, const Execution& execution) {
  return run_backward(call.inputs, call.result, call.derivatives, execution);
}

class ExactBackwardDeterminism : public testing::TestWithParam<std::tuple<std::string, Load>> {
 protected:
  const std::string& kernel() const { return std::get<0>(GetParam()); }
  Execution threads(int number) const { return on(kernel(), number); }

  Call call(DType dtype) const {
    const Load& load = std::get<1>(GetParam());
    Call made{normal_inputs(load.shape, dtype, 31), {}, {}};
    AttentionOptions& options = made.inputs.options;
    options.query_offset = QueryOffset::end();
    if (load.causal) options.mask = causal();
    if (load.terms) {
      Tensor numbers(DType::kFloat32, {load.shape.heads});
      numbers.fill(0.125);
      options.alibi_slopes = options.sinks = made.inputs.keep(numbers).view();
      options.softcap = 6;
    }
    finish(made);
    return made;
  }
  void finish(Call& made) const {
    made.result = run(made.inputs, threads(1));
    made.derivatives = normal_derivatives(made.inputs, made.inputs.query.view().dtype, 32);
  }
};

TEST_P(ExactBackwardDeterminism, SameBitsForAnyThreads) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16}) {
    const Call made = call(dtype);
    for (const std::int64_t key_chunk : {0, 64}) {
      Execution one = threads(1);
      one.key_chunk = key_chunk;
      const GradientTensors expected = gradients_of(made, one);
      if (key_chunk == 0 && dtype == DType::kFloat32) {
        ASSERT_TRUE(matches_reference(expected, made.inputs, made.derivatives));
      }
      for (const int number : {1, 2, 3, 7}) {
        Execution several = threads(number);
        several.key_chunk = key_chunk;
        EXPECT_TRUE(same_bits(gradients_of(made, several), expected))
            << longspan::name_of(dtype) << ", " << number << " threads, key chunk " << key_chunk;
      }
    }
  }
}

TEST_P(ExactBackwardDeterminism, SameBitsForAnyMemoryLimit) {
  const Call made = call(DType::kFloat32);
  const GradientTensors expected = gradients_of(made, threads(3));
  int fitted = 0;
  bool refused = false;
  for (std::size_t limit = std::size_t{64} << 20; limit > 0; limit /= 4) {
    Execution limited = threads(3);
    limited.memory_limit = limit;
    try {
      const GradientTensors gradients = gradients_of(made, limited);
      EXPECT_FALSE(refused) << "more was refused, " << limit << " is not";
      EXPECT_TRUE(same_bits(gradients, expected)) << "limit " << limit;
      ++fitted;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory) << error.what();
      refused = true;
    }
  }
  EXPECT_GE(fitted, 1);
  EXPECT_TRUE(refused) << "4 bytes are not enough";
}

TEST_P(ExactBackwardDeterminism, ABatchEntryAloneOrInItsBatch) {
  const Call whole = call(DType::kFloat32);
  const GradientTensors all = gradients_of(whole, threads(3));
  for (std::int64_t b = 0; b < std::get<1>(GetParam()).shape.batch; ++b) {
    Call alone = whole;
    for (Tensor* tensor :
         {&alone.inputs.query, &alone.inputs.key, &alone.inputs.value, &alone.result.output,
          &alone.result.lse, &alone.derivatives.output, &alone.derivatives.lse}) {
      *tensor = entry_of(*tensor, b);
    }
    const GradientTensors one = gradients_of(alone, threads(2));
    EXPECT_TRUE(same_bits(one.query, entry_of(all.query, b))) << "entry " << b;
    EXPECT_TRUE(same_bits(one.key, entry_of(all.key, b))) << "entry " << b;
    EXPECT_TRUE(same_bits(one.value, entry_of(all.value, b))) << "entry " << b;
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, ExactBackwardDeterminism,
                         testing::Combine(testing::ValuesIn(usable_kernels()),
                                          testing::ValuesIn(loads())),
                         [](const auto& one) {
                           return std::get<0>(one.param) + "_" + std::get<1>(one.param).name;
                         });

class ExactBackwardDeterminismOn : public testing::TestWithParam<std::string> {};

TEST_P(ExactBackwardDeterminismOn, BiasBroadcastOverEveryCombinationOfAxes) {
  const std::int64_t full[4] = {2, 4, 130, 150};
  for (int broadcast = 0; broadcast < 16; ++broadcast) {
    std::vector<std::int64_t> shape(full, full + 4);
    for (int axis = 0; axis < 4; ++axis) {
      if ((broadcast >> axis & 1) != 0) shape[axis] = 1;
    }
    Call made{normal_inputs({.batch = 2,
                             .seqlen_q = full[2],
                             .seqlen_k = full[3],
                             .heads = 4,
                             .heads_kv = 2,
                             .head_dim = 8,
                             .head_dim_v = 8},
                            DType::kFloat32, 33),
              {},
              {}};
    Random random(34);
    made.inputs.options.bias =
        made.inputs.keep(Tensor(DType::kFloat32, shape).fill_normal(random)).view();
    made.inputs.options.query_offset = 5;
    made.inputs.options.mask = causal();
    made.result = run(made.inputs, on(GetParam(), 1));
    made.derivatives = normal_derivatives(made.inputs, DType::kFloat32, 35);
    SCOPED_TRACE(shape_string(made.inputs.options.bias));
    const GradientTensors expected = gradients_of(made, on(GetParam(), 1));
    EXPECT_TRUE(matches_reference(expected, made.inputs, made.derivatives));
    for (const int number : {2, 3, 7}) {
      EXPECT_TRUE(same_bits(gradients_of(made, on(GetParam(), number)), expected))
          << number << " threads";
    }
  }
}

// Between the keys of its documents a block of queries sees nothing: ranges of keys in which it has
// no part still take their turn in the sum, also when they are done before the first one.
TEST_P(ExactBackwardDeterminismOn, DocumentsWhoseKeysAreFarApart) {
  constexpr std::int64_t kQueries = 192, kKeys = 1500;
  Call made{
      normal_inputs(
          {.batch = 1, .seqlen_q = kQueries, .seqlen_k = kKeys, .head_dim = 16, .head_dim_v = 8},
          DType::kFloat32, 38),
      {},
      {}};
  const Mask far_apart = documents(made.inputs.keep(integers({0, 144, 144, kQueries})).view(),
                                   made.inputs.keep(integers({0, 256, kKeys - 100, kKeys})).view());
  made.inputs.options.mask = far_apart;
  made.result = run(made.inputs, on(GetParam(), 1));
  made.derivatives = normal_derivatives(made.inputs, DType::kFloat32, 39);
  Execution execution = on(GetParam(), 1);
  execution.key_chunk = 256;
  execution.query_chunk = kQueries;  // one block holds both documents, no panel does
  const GradientTensors expected = gradients_of(made, execution);
  ASSERT_TRUE(matches_reference(expected, made.inputs, made.derivatives));
  made.inputs.options.mask =
      far_apart & predicate([](std::int64_t, std::int64_t, std::int64_t query, std::int64_t key) {
        if (query == 0 && key == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        return true;
      });
  execution.threads = 7;
  for (int again = 0; again < 5; ++again) {
    ASSERT_TRUE(same_bits(gradients_of(made, execution), expected)) << again;
  }
}

TEST_P(ExactBackwardDeterminismOn, CausalRowsDoNotDependOnWhatComesLater) {
  constexpr std::int64_t kSeqlen = 300, kNow = 171;  // tokens from kNow on are different ones
  const Shape shape{.batch = 1,
                    .seqlen_q = kSeqlen,
                    .seqlen_k = kSeqlen,
                    .heads = 2,
                    .heads_kv = 1,
                    .head_dim = 12,
                    .head_dim_v = 7};
  const auto dquery_of = [&](double later) {
    Call made{normal_inputs(shape, DType::kFloat32, 36), {}, {}};
    made.inputs.options.mask = causal();
    made.derivatives = normal_derivatives(made.inputs, DType::kFloat32, 37);
    for (Tensor* tensor :
         {&made.inputs.query, &made.inputs.key, &made.inputs.value, &made.derivatives.output}) {
      const std::int64_t row = tensor->size() / kSeqlen;
      for (std::int64_t n = kNow * row; n < tensor->size(); ++n)
        tensor->set(n, later * tensor->get(n));
    }
    made.result = run(made.inputs, on(GetParam(), 2));
    return gradients_of(made, on(GetParam(), 2)).query;
  };
  const Tensor here = dquery_of(1), there = dquery_of(-3);
  const std::int64_t row = here.size() / kSeqlen;
  for (std::int64_t n = 0; n < kNow * row; ++n) ASSERT_EQ(here.get(n), there.get(n)) << n / row;
  EXPECT_FALSE(same_bits(here, there));
}

INSTANTIATE_TEST_SUITE_P(Kernels, ExactBackwardDeterminismOn, testing::ValuesIn(usable_kernels()),
                         [](const auto& one) { return one.param; });

}  // namespace
}  // namespace longspan::test
