// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The golden cases of exact attention, forward, on every kernel of this machine. Also the float64
// reference of the tests is held against them, so that the truth of the randomised tests is not its
// own witness.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "support/call.h"
#include "support/compare.h"
#include "support/golden.h"

namespace longspan::test {
namespace {

// Scores in the hundreds or thousands, where float32 itself is the limit of lse.
const std::map<std::string, double> kHardLse = {
    {"peaked_f32", 1e-5}, {"peaked_bf16", 1e-5}, {"huge_logits_f32", 3e-5}, {"f16_large", 5e-3}};

Tolerance allowed_for(const std::string& name, DType dtype) {
  Tolerance allowed = tolerance_of(dtype);
  const auto hard = kHardLse.find(name);
  if (hard != kHardLse.end()) allowed.lse_absolute = std::max(allowed.lse_absolute, hard->second);
  return allowed;
}

class ExactGolden : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    golden_ = load_golden("exact", GetParam());
    options_ = parse_options(golden_);
    query_ = seqlen_first("query");
    key_ = seqlen_first("key");
    value_ = seqlen_first("value");
    expected_output_ = reference::read_all(seqlen_first("output"));
    expected_lse_ = reference::read_all(golden_.find("lse"));
  }

  ConstTensorView seqlen_first(const std::string& name) const {
    const ConstTensorView view = golden_.find(name);
    return options_.heads_first ? transpose(view, view.rank - 3, view.rank - 2) : view;
  }

  void expect_expected(const std::vector<double>& output, const std::vector<double>& lse,
                       const Tolerance& allowed) {
    EXPECT_TRUE(
        within_rel_l2(output, expected_output_, allowed.output_rel_l2));  // zeros meet only zeros
    EXPECT_TRUE(within_elementwise(lse, expected_lse_, allowed.lse_absolute, allowed.lse_relative));
  }

  void expect_from(const Execution& execution, DType output_dtype) {
    const ConstTensorView shape = golden_.find("output");
    Tensor output(output_dtype, {shape.shape.begin(), shape.shape.begin() + shape.rank});
    const ConstTensorView lse_shape = golden_.find("lse");
    Tensor lse(query_.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32,
               {lse_shape.shape.begin(), lse_shape.shape.begin() + lse_shape.rank});
    output.fill(-7);  // every element must be written
    lse.fill(-7);
    TensorView into = output;
    if (options_.heads_first) into = transpose(into, into.rank - 3, into.rank - 2);
    ASSERT_NO_THROW(attention(query_, key_, value_, {into, lse}, options_.attention, execution));
    expect_expected(reference::read_all(into), lse.values(),
                    allowed_for(GetParam(), row_of(execution.kernel, query_.dtype, output_dtype)));
  }

  GoldenCase golden_;
  GoldenOptions options_;
  ConstTensorView query_, key_, value_;
  std::vector<double> expected_output_, expected_lse_;
};

TEST_P(ExactGolden, ReferenceAgrees) {
  const reference::AttentionResult truth =
      reference::Attention(query_, key_, value_, options_.attention).all();
  expect_expected(truth.output, truth.lse, tolerance_of(DType::kFloat64));
}

TEST_P(ExactGolden, EveryKernel) {
  for (const std::string& kernel : kernels_for(query_.dtype)) {
    for (const int threads : {1, 3}) {
      SCOPED_TRACE(testing::Message() << kernel << ", " << threads << " threads");
      expect_from(on(kernel, threads), query_.dtype);
    }
  }
}

TEST_P(ExactGolden, EveryKernelInSmallChunks) {
  for (const std::string& kernel : kernels_for(query_.dtype)) {
    for (const std::int64_t chunk : {1, 5, 64}) {
      SCOPED_TRACE(testing::Message() << kernel << ", chunks of " << chunk);
      Execution execution = on(kernel);
      execution.query_chunk = execution.key_chunk = chunk;
      expect_from(execution, query_.dtype);
    }
  }
}

using ExactGoldenNarrow = ExactGolden;

std::vector<std::string> narrow_names() {
  std::vector<std::string> names = golden_names("exact");
  std::erase_if(names, [](const std::string& name) { return name.find("f16") == name.npos; });
  return names;
}

TEST_P(ExactGoldenNarrow, IntoFloat32) {
  ASSERT_TRUE(query_.dtype == DType::kFloat16 || query_.dtype == DType::kBFloat16);
  for (const std::string& kernel : kernels_for(query_.dtype)) {
    SCOPED_TRACE(kernel);
    expect_from(on(kernel), DType::kFloat32);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, ExactGolden, testing::ValuesIn(golden_names("exact")),
                         [](const auto& one) { return one.param; });

INSTANTIATE_TEST_SUITE_P(Cases, ExactGoldenNarrow, testing::ValuesIn(narrow_names()),
                         [](const auto& one) { return one.param; });

TEST(ExactGoldenFiles, AreAllThere) {
  EXPECT_EQ(golden_names("exact").size(), 82u);
  EXPECT_EQ(narrow_names().size(), 11u);
}

}  // namespace
}  // namespace longspan::test
