// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Tensors without elements whose other extents are huge: nothing is computed, at once and in no
// memory.
#include <gtest/gtest.h>

#include <ostream>
#include <vector>

#include "longspan/attention.h"
#include "longspan/lsh_attention.h"
#include "longspan/lsh_diagnostics.h"

namespace longspan::test {
namespace {

struct Call {
  std::vector<std::int64_t> query, key;  // [batch, seqlen, heads, head_dim]
};
void PrintTo(const Call& call, std::ostream* out) {
  *out << testing::PrintToString(call.query) << " and " << testing::PrintToString(call.key);
}

ConstTensorView view(const std::vector<std::int64_t>& shape) {
  return tensor(static_cast<const void*>(nullptr), DType::kFloat32,
                {shape[0], shape[1], shape[2], shape[3]});
}
TensorView result(const std::vector<std::int64_t>& shape) {
  return tensor(static_cast<void*>(nullptr), DType::kFloat32,
                {shape[0], shape[1], shape[2], shape[3]});
}

class Empty : public testing::TestWithParam<Call> {
 protected:
  Empty() {
    const std::vector<std::int64_t>& q = GetParam().query;
    result_ = {result(q), tensor(static_cast<void*>(nullptr), DType::kFloat32, {q[0], q[2], q[1]})};
    gradients_.query = result(q);
    gradients_.key = gradients_.value = result(GetParam().key);
    options_.query_offset = QueryOffset::end();
    options_.mask = causal();
  }
  ConstTensorView query() const { return view(GetParam().query); }
  ConstTensorView key() const { return view(GetParam().key); }
  ConstPartial derivatives() const { return {result_.output, {}}; }

  Partial result_;
  Gradients gradients_;
  AttentionOptions options_;
};

TEST_P(Empty, Exact) {
  EXPECT_NO_THROW(attention(query(), key(), key(), result_, options_));
  EXPECT_NO_THROW(
      attention_backward(query(), key(), key(), result_, derivatives(), gradients_, options_));
  EXPECT_EQ(plan_attention(query(), key(), key(), options_).flop, 0);
  EXPECT_EQ(plan_attention_backward(query(), key(), key(), options_).flop, 0);
}

TEST_P(Empty, Hashed) {
  EXPECT_NO_THROW(lsh_attention(query(), key(), key(), result_, {}, options_));
  EXPECT_NO_THROW(lsh_attention_backward(query(), key(), key(), result_, derivatives(), gradients_,
                                         {}, options_));
  EXPECT_EQ(plan_lsh_attention(query(), key(), key(), {}, options_).flop, 0);
}

TEST_P(Empty, Diagnosed) {
  EXPECT_EQ(diagnose_lsh(query(), key(), key(), result_.output, {}, options_).rows, 0);
}

TEST_P(Empty, GradientOfABiasIsZero) {
  std::vector<float> bias(static_cast<std::size_t>(GetParam().key[1]), 1), gradient(bias);
  const auto keys = static_cast<std::int64_t>(bias.size());
  options_.bias = tensor(static_cast<const void*>(bias.data()), DType::kFloat32, {1, 1, 1, keys});
  gradients_.bias = tensor(static_cast<void*>(gradient.data()), DType::kFloat32, {1, 1, 1, keys});
  attention_backward(query(), key(), key(), result_, derivatives(), gradients_, options_);
  EXPECT_EQ(gradient, std::vector<float>(bias.size(), 0));
}

TEST_P(Empty, Merge) {
  EXPECT_NO_THROW(clear(result_));
  const ConstPartial part = result_;
  EXPECT_NO_THROW(merge(result_, {&part, 1}));
}

constexpr std::int64_t kHuge = std::int64_t{1} << 40;
INSTANTIATE_TEST_SUITE_P(Shapes, Empty,
                         testing::Values(Call{{kHuge, 0, 1, 8}, {kHuge, 0, 1, 8}},
                                         Call{{1, 0, kHuge, 8}, {1, 0, kHuge, 8}},
                                         Call{{kHuge, 0, 2, 8}, {kHuge, 0, 1, 8}},
                                         Call{{kHuge, 5, 0, 8}, {kHuge, 7, 0, 8}}));

}  // namespace
}  // namespace longspan::test
