// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// LSH attention against the golden files, on every kernel: runs of Hugging Face's and
// reformer-pytorch's layers, the lab, and the definition in Python; in float64 and in float32.
#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/golden.h"
#include "support/lsh_call.h"

namespace longspan::test {
namespace {

bool starts_with(const std::string& text, const char* start) { return text.rfind(start, 0) == 0; }
bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

// Files that are not to be matched: those with a warning, what attends inside buckets only, and the
// steps of the lab.
std::vector<std::string> names() {
  std::vector<std::string> all = golden_names("lsh");
  std::erase_if(all, [](const std::string& name) {
    return (starts_with(name, "lab_") && name != "lab_3_5_lsh_self_attention") ||
           contains(name, "same_bucket") || load_golden("lsh", name).metadata.count("warning") != 0;
  });
  return all;
}

Tensor converted(const ConstTensorView& view, DType dtype) {
  Tensor tensor(dtype, {view.shape.begin(), view.shape.begin() + view.rank});
  return tensor.fill_values(reference::read_all(view));
}

class LshAttentionGolden : public testing::TestWithParam<std::string> {
 protected:
  GoldenCase golden_ = load_golden("lsh", GetParam());

  LshInputs inputs(DType dtype) const {
    const GoldenOptions options = parse_options(golden_);
    LshInputs in;
    in.query = converted(golden_.find("query_key"), dtype);
    in.value = converted(golden_.find("value"), dtype);
    in.lsh = options.lsh;
    in.options = options.attention;
    // Buckets of float64 are those of float32 in all files; given ones test the attention alone.
    if (!is_given(in.lsh.buckets)) in.lsh.buckets = golden_.find("expected_buckets");
    in.lsh.rotations = {};
    if (starts_with(golden_.name, "lucidrains")) {
      in.lsh.self_rule = lucidrains().self_rule;
      in.lsh.self_score = lucidrains().self_score;
    }
    return in;
  }
};

TEST_P(LshAttentionGolden, Float64) {
  const LshInputs in = inputs(DType::kFloat64);
  const double tolerance = contains(golden_.name, "discounted") ? 1e-8 : 5e-12;
  for (const std::string& kernel : usable_kernels()) {
    SCOPED_TRACE(kernel);
    const Output result = run_lsh(in, on(kernel));
    EXPECT_TRUE(within_rel_l2(result.output.values(), golden_.numbers("output"), tolerance));
    if (golden_.tensors.count("lse") == 0) continue;
    // The lab counts its equal rounds of a sequence of one chunk.
    EXPECT_TRUE(within_elementwise(result.lse.values(), golden_.numbers("lse"), tolerance, 1e-13));
  }
}

TEST_P(LshAttentionGolden, Float32) {
  const LshInputs in = inputs(DType::kFloat32);
  const reference::LshResult truth = truth_of(in);
  for (const std::string& kernel : usable_kernels()) {
    SCOPED_TRACE(kernel);
    EXPECT_TRUE(matches(run_lsh(in, on(kernel)), truth, DType::kFloat32));
  }
}

TEST_P(LshAttentionGolden, GradientsFloat64) {
  if (golden_.tensors.count("dquery_key") == 0) GTEST_SKIP() << "the file has no gradients";
  const LshInputs in = inputs(DType::kFloat64);
  const double tolerance = contains(golden_.name, "discounted") ? 1e-8 : 5e-12;
  const Derivatives derivatives{converted(golden_.find("doutput"), DType::kFloat64), {}};
  for (const std::string& kernel : usable_kernels()) {
    SCOPED_TRACE(kernel);
    const GradientTensors found =
        run_lsh_backward(in, run_lsh(in, on(kernel)), derivatives, on(kernel));
    EXPECT_TRUE(within_rel_l2(found.query.values(), golden_.numbers("dquery_key"), tolerance));
    EXPECT_TRUE(within_rel_l2(found.value.values(), golden_.numbers("dvalue"), tolerance));
  }
}

TEST_P(LshAttentionGolden, GradientsFloat32) {
  if (golden_.tensors.count("dquery_key") == 0) GTEST_SKIP() << "the file has no gradients";
  const LshInputs in = inputs(DType::kFloat32);
  const Derivatives derivatives{converted(golden_.find("doutput"), DType::kFloat32), {}};
  const reference::AttentionGradients truth = gradient_truth_of(in, derivatives);
  for (const std::string& kernel : usable_kernels()) {
    SCOPED_TRACE(kernel);
    GradientTensors found = run_lsh_backward(in, run_lsh(in, on(kernel)), derivatives, on(kernel));
    EXPECT_TRUE(matches(found.views(), truth, DType::kFloat32));
  }
}

INSTANTIATE_TEST_SUITE_P(Files, LshAttentionGolden, testing::ValuesIn(names()),
                         [](const auto& one) { return one.param; });

TEST(LshAttentionGoldenFiles, AreAllThere) { EXPECT_EQ(names().size(), 72u); }

}  // namespace
}  // namespace longspan::test
