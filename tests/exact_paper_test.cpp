// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The chunked algorithm of Rabe & Staats (arXiv 2112.05682, Figure 1) as run in JAX: the summary of
// every key chunk, their merge, and attention with the paper's chunk sizes.
#include <gtest/gtest.h>

#include <cmath>

#include "support/call.h"
#include "support/compare.h"
#include "support/golden.h"

namespace longspan::test {
namespace {

// view[first : last] along its first axis.
ConstTensorView rows(ConstTensorView view, std::int64_t first, std::int64_t last) {
  view.data = static_cast<const std::byte*>(view.data) +
              first * view.strides[0] * static_cast<std::int64_t>(longspan::size_of(view.dtype));
  view.shape[0] = last - first;
  return view;
}

// Element `chunk` of the first axis, which is dropped.
std::vector<double> entry(const ConstTensorView& view, std::int64_t chunk) {
  return reference::read_all(rows(view, chunk, chunk + 1));
}

class ExactPaper : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    golden_ = load_golden("paper", GetParam());
    options_ = parse_options(golden_);
    query_ = golden_.find("query");
    key_ = golden_.find("key");
    value_ = golden_.find("value");
    double_ = query_.dtype == DType::kFloat64;
    peaked_ = GetParam() == "peaked_f32";
    chunks_ = golden_.find("chunk_sum").shape[0];
    chunk_ = options_.execution.key_chunk;
    output_rel_l2_ = double_ ? 1e-13 : 2e-6;
    lse_absolute_ = double_ ? 1e-13 : peaked_ ? 1e-5 : 2e-6;
    // JAX's own float32 rounding stands in its partials; exp turns an error of a peaked score into
    // a relative one.
    partial_rel_l2_ = double_ ? 1e-13 : peaked_ ? 2e-5 : 3e-6;
  }

  Summary empty_summary() const {
    const DType dtype = double_ ? DType::kFloat64 : DType::kFloat32;
    const std::int64_t n = query_.shape[0], heads = query_.shape[1];
    return {Tensor(dtype, {n, heads, value_.shape[2]}), Tensor(dtype, {n, heads}),
            Tensor(dtype, {n, heads})};
  }

  void expect_chunk(const Summary& summary, std::int64_t chunk) {
    SCOPED_TRACE(testing::Message() << "chunk " << chunk);
    EXPECT_TRUE(within_rel_l2(summary.numerator.values(),
                              entry(golden_.find("chunk_numerator"), chunk), partial_rel_l2_));
    EXPECT_TRUE(within_rel_l2(summary.sum.values(), entry(golden_.find("chunk_sum"), chunk),
                              partial_rel_l2_));
    EXPECT_TRUE(within_elementwise(summary.max.values(), entry(golden_.find("chunk_max"), chunk),
                                   lse_absolute_, 1e-6));
  }

  // (numerator, sum, max) of a chunk as (output, lse).
  static Output as_partial(const Summary& summary) {
    const ConstTensorView shape = summary.numerator;
    const std::int64_t n = shape.shape[0], heads = shape.shape[1], dim = shape.shape[2];
    Output part{Tensor(shape.dtype, {n, heads, dim}), Tensor(shape.dtype, {heads, n})};
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t h = 0; h < heads; ++h) {
        const double sum = summary.sum.get({i, h});
        part.lse.set({h, i}, summary.max.get({i, h}) + std::log(sum));
        for (std::int64_t d = 0; d < dim; ++d) {
          part.output.set({i, h, d}, summary.numerator.get({i, h, d}) / sum);
        }
      }
    }
    return part;
  }

  void expect_answer(const Output& result) {
    EXPECT_TRUE(within_rel_l2(result.output.values(),
                              reference::read_all(golden_.find("expected_output")),
                              output_rel_l2_));
    EXPECT_TRUE(within_elementwise(result.lse.values(),
                                   reference::read_all(golden_.find("expected_lse")), lse_absolute_,
                                   1e-6));
  }

  Output empty_result() const {
    const DType dtype = double_ ? DType::kFloat64 : DType::kFloat32;
    const std::int64_t n = query_.shape[0], heads = query_.shape[1];
    return {Tensor(dtype, {n, heads, value_.shape[2]}), Tensor(dtype, {heads, n})};
  }

  GoldenCase golden_;
  GoldenOptions options_;
  ConstTensorView query_, key_, value_;
  bool double_ = false, peaked_ = false;
  std::int64_t chunks_ = 0, chunk_ = 0;
  double output_rel_l2_ = 0, lse_absolute_ = 0, partial_rel_l2_ = 0;
};

TEST_P(ExactPaper, ChunkSummariesAndTheirMerge) {
  ASSERT_EQ(chunks_ * chunk_, key_.shape[0]);
  for (const std::string& kernel : usable_kernels()) {
    for (const bool sliced : {false, true}) {
      SCOPED_TRACE(testing::Message() << kernel << (sliced ? ", sliced keys" : ", key ranges"));
      std::vector<Output> parts;
      for (std::int64_t chunk = 0; chunk < chunks_; ++chunk) {
        const std::int64_t first = chunk * chunk_, last = first + chunk_;
        Summary summary = empty_summary();
        const ChunkSummary into{summary.numerator, summary.sum, summary.max};
        AttentionOptions options = options_.attention;
        if (sliced) {
          summarize_chunk(query_, rows(key_, first, last), rows(value_, first, last), into, options,
                          on(kernel));
        } else {
          options.mask = key_range(first, last);
          summarize_chunk(query_, key_, value_, into, options, on(kernel));
        }
        expect_chunk(summary, chunk);
        parts.push_back(as_partial(summary));
      }
      Output merged = empty_result();
      const Partial into{merged.output, merged.lse};
      clear(into);
      std::vector<ConstPartial> views;
      for (const Output& part : parts) views.emplace_back(part.output, part.lse);
      merge(into, views);
      expect_answer(merged);
    }
  }
}

TEST_P(ExactPaper, AttentionWithThePapersChunks) {
  for (const std::string& kernel : usable_kernels()) {
    SCOPED_TRACE(kernel);
    Execution execution = options_.execution;
    execution.kernel = kernel;
    Output result = empty_result();
    attention(query_, key_, value_, {result.output, result.lse}, options_.attention, execution);
    expect_answer(result);
    // What JAX computed in the same type is as near to us as both are to the truth.
    EXPECT_TRUE(within_rel_l2(result.output.values(), reference::read_all(golden_.find("output")),
                              2 * output_rel_l2_));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, ExactPaper, testing::ValuesIn(golden_names("paper")),
                         [](const auto& one) { return one.param; });

TEST(ExactPaperFiles, AreAllThere) { EXPECT_EQ(golden_names("paper").size(), 6u); }

TEST(SummarizeChunk, FollowsTheReferenceUnderMasks) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    Inputs inputs = normal_inputs({.batch = 2,
                                   .seqlen_q = 33,
                                   .seqlen_k = 140,
                                   .heads = 4,
                                   .heads_kv = 2,
                                   .head_dim = 20,
                                   .head_dim_v = 11},
                                  dtype, 21);
    inputs.options.query_offset = -3;  // the first rows see nothing: max -inf, sum 0, numerator 0
    inputs.options.mask = causal() & window(17, 0);
    inputs.options.softcap = 3;
    const reference::AttentionResult truth = truth_of(inputs);
    const double step = dtype == DType::kFloat64 ? 1e-13 : 2e-6;
    for (const std::string& kernel : usable_kernels()) {
      for (const std::int64_t chunk : {0, 1, 16, 1000}) {
        SCOPED_TRACE(testing::Message()
                     << kernel << ", " << longspan::name_of(dtype) << ", chunk " << chunk);
        Execution execution = on(kernel);
        execution.key_chunk = chunk;
        const Summary summary = run_summary(inputs, execution);
        EXPECT_TRUE(within_elementwise(summary.max.values(), truth.max, step, step));
        EXPECT_TRUE(within_rel_l2(summary.sum.values(), truth.sum, step));
        const DType row = row_of(kernel, dtype, DType::kFloat32);
        const double numerator_step =
            row == DType::kBFloat16 ? tolerance_of(row).output_rel_l2 : step;
        EXPECT_TRUE(within_rel_l2(summary.numerator.values(), truth.numerator, numerator_step));
      }
    }
  }
}

TEST(SummarizeChunk, RefusesSinks) {
  Inputs inputs = normal_inputs({.seqlen_q = 3, .seqlen_k = 3, .head_dim = 4, .head_dim_v = 4},
                                DType::kFloat32, 22);
  inputs.options.sinks = inputs.keep(Tensor(DType::kFloat32, {1}).fill(0)).view();
  EXPECT_TRUE(throws_error([&] { run_summary(inputs); }, ErrorCode::kInvalidArgument, {"sinks"}));
}

}  // namespace
}  // namespace longspan::test
