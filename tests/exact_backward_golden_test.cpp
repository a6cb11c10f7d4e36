// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The golden gradients of exact attention on every kernel of this machine, from the result of the
// forward pass and from the golden result itself.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <utility>

#include "support/backward.h"
#include "support/compare.h"
#include "support/golden.h"

namespace longspan::test {
namespace {

// Gradients whose terms cancel to zero in truth, as listed with the files, and what is allowed
// there for each element.
const std::map<std::string, std::set<std::string>> kZeroInTruth = {
    {"bias_query_column", {"dbias"}},
    {"f16_large", {"dquery", "dkey"}},
    {"huge_negative_logits", {"dquery", "dkey"}},
    {"seqlen_1", {"dquery", "dkey"}},
    {"value_ones", {"dquery", "dkey"}},
    {"window_zero", {"dquery", "dkey"}}};
// There are no terms at all here: only zeros will do.
const std::map<std::string, std::set<std::string>> kZero = {
    {"constant_scores", {"dkey"}},
    {"dropout_one", {"dvalue"}},
    {"mask_all_false", {"dquery", "dkey", "dvalue"}},
    {"window_past_the_end", {"dquery", "dkey", "dvalue"}},
    {"seqlen_k_0", {"dquery"}},
    {"seqlen_q_0", {"dkey", "dvalue"}}};
double allowed_of_zero(DType dtype) { return dtype == DType::kFloat16 ? 3e-4 : 1e-12; }

// Scores near 1e5, where one step of a float32 lse is 8e-3; scores in the hundreds and thousands of
// few queries, whose lse comes from decode: its dot products are rounded in another order than
// those of the backward pass. Everywhere else the table holds.
const std::set<std::string> kHardLse = {"f16_large", "huge_logits_f32", "huge_negative_logits"};

bool lists(const std::map<std::string, std::set<std::string>>& table, const std::string& name,
           const std::string& tensor) {
  return table.contains(name) && table.at(name).contains(tensor);
}

class ExactBackwardGolden : public testing::TestWithParam<std::string> {
 protected:
  // A gradient's name in the file, its members here and there.
  struct Member {
    const char* name;
    std::vector<double> reference::GradientSet::*reference;
    TensorView Gradients::*view;
  };
  static constexpr Member kMembers[] = {
      {"dquery", &reference::GradientSet::query, &Gradients::query},
      {"dkey", &reference::GradientSet::key, &Gradients::key},
      {"dvalue", &reference::GradientSet::value, &Gradients::value},
      {"dbias", &reference::GradientSet::bias, &Gradients::bias},
      {"dsinks", &reference::GradientSet::sinks, &Gradients::sinks}};

  void SetUp() override {
    golden_ = load_golden("exact", GetParam());
    options_ = parse_options(golden_);
    query_ = seqlen_first(golden_.find("query"));
    key_ = seqlen_first(golden_.find("key"));
    value_ = seqlen_first(golden_.find("value"));
    doutput_ = copy_of(golden_.find("doutput"), query_.dtype);
    // The magnitudes come from the reference, which reference_test holds against the same files.
    truth_ = attention_reference().gradients(seqlen_first(std::as_const(doutput_).view()),
                                             golden_.find("dlse"));
    if (!kHardLse.contains(GetParam())) truth_.largest_exponent = 0;
    truth_.deviation = {};
    for (const Member& member : kMembers) {
      const ConstTensorView expected = golden_.find(member.name);
      if (is_given(expected)) {
        truth_.sum.*member.reference = reference::read_all(in_layout(member.name, expected));
      }
    }
  }

  reference::Attention attention_reference() const {
    return {query_, key_, value_, options_.attention};
  }
  template <class View>
  View seqlen_first(View view) const {
    return options_.heads_first ? transpose(view, view.rank - 3, view.rank - 2) : view;
  }
  template <class View>
  View in_layout(const std::string& name, View view) const {
    return name == "dbias" || name == "dsinks" ? view : seqlen_first(view);
  }
  static Tensor shaped_as(const ConstTensorView& view, DType dtype) {
    return {dtype, {view.shape.begin(), view.shape.begin() + view.rank}};
  }
  static Tensor copy_of(const ConstTensorView& view, DType dtype) {
    return shaped_as(view, dtype).fill_values(reference::read_all(view));
  }
  DType wide() const { return query_.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32; }

  Output forward(const Execution& execution, DType dtype) const {
    Output result{shaped_as(golden_.find("output"), dtype), shaped_as(golden_.find("lse"), wide())};
    attention(query_, key_, value_, {seqlen_first(result.output.view()), result.lse},
              options_.attention, execution);
    return result;
  }

  void expect_from(const Output& result, const Execution& execution, DType dtype) {
    const DType output = result.output.view().dtype;
    const Tensor doutput = copy_of(doutput_, output);
    std::map<std::string, Tensor> tensors;
    Gradients into;
    for (const Member& member : kMembers) {
      const ConstTensorView expected = golden_.find(member.name);
      if (!is_given(expected)) continue;
      const bool stored = member.view != &Gradients::bias && member.view != &Gradients::sinks;
      Tensor& tensor = tensors[member.name] = shaped_as(expected, stored ? dtype : wide());
      tensor.fill(-7);  // every element must be written
      into.*member.view = in_layout(member.name, tensor.view());
    }
    const ConstTensorView doutput_view = seqlen_first(doutput.view()), dlse = golden_.find("dlse");
    ASSERT_NO_THROW(attention_backward(query_, key_, value_,
                                       {seqlen_first(result.output.view()), result.lse},
                                       {doutput_view, dlse}, into, options_.attention, execution));
    const DType row = row_of(execution.kernel, query_.dtype, output);
    EXPECT_TRUE(matches(into, truth_, row, [&] {
      return naive_gradients(attention_reference(), doutput_view, dlse);
    }));
    for (const auto& [name, tensor] : tensors) {
      const std::vector<double> zeros(static_cast<std::size_t>(tensor.size()), 0.0);
      if (lists(kZero, GetParam(), name)) {
        EXPECT_TRUE(within_absolute(tensor.values(), zeros, 0)) << name;
      }
      if (lists(kZeroInTruth, GetParam(), name)) {
        EXPECT_TRUE(within_absolute(tensor.values(), zeros, allowed_of_zero(query_.dtype))) << name;
      }
    }
  }

  GoldenCase golden_;
  GoldenOptions options_;
  ConstTensorView query_, key_, value_;
  Tensor doutput_;  // in the file's layout
  reference::AttentionGradients truth_;
};

TEST_P(ExactBackwardGolden, OnlyTheListedGradientsAreZeroInTruth) {
  for (const Member& member : kMembers) {
    const auto& truth = truth_.sum.*member.reference;
    const auto& magnitude = truth_.magnitude.*member.reference;
    if (truth.empty()) continue;
    const bool zero = within_absolute(magnitude, std::vector<double>(magnitude.size(), 0), 0);
    EXPECT_EQ(zero, lists(kZero, GetParam(), member.name)) << member.name;
    EXPECT_EQ(!zero && zero_in_truth(truth, magnitude),
              lists(kZeroInTruth, GetParam(), member.name))
        << member.name;
  }
}

TEST_P(ExactBackwardGolden, EveryKernel) {
  for (const std::string& kernel : kernels_for(query_.dtype)) {
    for (const int threads : {1, 3}) {
      SCOPED_TRACE(testing::Message() << kernel << ", " << threads << " threads");
      const Execution execution = on(kernel, threads);
      expect_from(forward(execution, query_.dtype), execution, query_.dtype);
    }
  }
}

TEST_P(ExactBackwardGolden, EveryKernelInSmallChunks) {
  for (const std::string& kernel : kernels_for(query_.dtype)) {
    for (const std::int64_t chunk : {1, 5, 64}) {
      SCOPED_TRACE(testing::Message() << kernel << ", chunks of " << chunk);
      Execution execution = on(kernel, 2);
      execution.query_chunk = execution.key_chunk = chunk;
      expect_from(forward(execution, query_.dtype), execution, query_.dtype);
    }
  }
}

TEST_P(ExactBackwardGolden, FromTheGoldenResult) {
  const Output result{copy_of(golden_.find("output"), query_.dtype),
                      copy_of(golden_.find("lse"), wide())};
  for (const std::string& kernel : kernels_for(query_.dtype)) {
    SCOPED_TRACE(kernel);
    expect_from(result, on(kernel), query_.dtype);
  }
}

using ExactBackwardGoldenNarrow = ExactBackwardGolden;

std::vector<std::string> narrow_names() {
  std::vector<std::string> names = golden_names_with_gradients();
  std::erase_if(names, [](const std::string& name) { return name.find("f16") == name.npos; });
  return names;
}

TEST_P(ExactBackwardGoldenNarrow, IntoFloat32) {
  for (const std::string& kernel : kernels_for(query_.dtype)) {
    SCOPED_TRACE(kernel);
    expect_from(forward(on(kernel), query_.dtype), on(kernel), DType::kFloat32);
  }
}

TEST_P(ExactBackwardGoldenNarrow, FromAFloat32Output) {
  for (const std::string& kernel : kernels_for(query_.dtype)) {
    SCOPED_TRACE(kernel);
    const Output result = forward(on(kernel), DType::kFloat32);
    expect_from(result, on(kernel), DType::kFloat32);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, ExactBackwardGolden,
                         testing::ValuesIn(golden_names_with_gradients()),
                         [](const auto& one) { return one.param; });

INSTANTIATE_TEST_SUITE_P(Cases, ExactBackwardGoldenNarrow, testing::ValuesIn(narrow_names()),
                         [](const auto& one) { return one.param; });

TEST(ExactBackwardGoldenFiles, AreAllThere) {
  EXPECT_EQ(golden_names_with_gradients().size(), 78u);
  EXPECT_EQ(narrow_names().size(), 11u);
}

}  // namespace
}  // namespace longspan::test
