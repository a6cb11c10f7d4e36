// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Layers of Hugging Face's Reformer (test_lsh_layer_forward, test_lsh_layer_forward_complex and
// test_local_layer_forward of its tests) around our attention: normalisation, projections and
// feed-forward written out here, weights and results from the golden files. Its local layer with a
// mask is left out: a row that sees nothing gets the mean of all values there, and 0 here.
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "support/call.h"
#include "support/compare.h"
#include "support/golden.h"

namespace longspan::test {
namespace {

constexpr std::int64_t kSeqlen = 4, kHeads = 2, kHeadDim = 8;

using Rows = std::vector<std::vector<double>>;

Rows sum(Rows a, const Rows& b) {
  for (std::size_t n = 0; n < a.size(); ++n) {
    for (std::size_t d = 0; d < a[n].size(); ++d) a[n][d] += b[n][d];
  }
  return a;
}

Rows split(const std::vector<double>& numbers, std::int64_t width) {
  Rows rows;
  for (auto row = numbers.begin(); row != numbers.end(); row += width) {
    rows.emplace_back(row, row + width);
  }
  return rows;
}

class Layer {
 public:
  explicit Layer(const std::string& name) : golden_(load_golden("reformer", name)) {}

  // Attention and feed-forward, each added to one of the two streams.
  Rows attention_output(bool lsh) const {
    return sum(rows("input.prev_attn_output"), attend(rows("input.hidden_states"), lsh));
  }
  Rows hidden_states(const Rows& attention_output) const {
    const Rows normal = normalize(attention_output, "feed_forward.layer_norm");
    Rows inner = linear(normal, "feed_forward.dense.dense");
    for (std::vector<double>& row : inner) {
      for (double& x : row) x = x / 2 * (1 + std::erf(x / std::numbers::sqrt2));
    }
    return sum(rows("input.hidden_states"), linear(inner, "feed_forward.output.dense"));
  }

  testing::AssertionResult is(const Rows& found, const std::string& name) const {
    std::vector<double> flat;
    for (const std::vector<double>& row : found) flat.insert(flat.end(), row.begin(), row.end());
    return within_rel_l2(flat, golden_.numbers(name), 1e-6);
  }

 private:
  Rows rows(const std::string& name) const {
    const std::vector<double> numbers = golden_.numbers(name);
    return split(numbers, static_cast<std::int64_t>(numbers.size()) / kSeqlen);
  }

  Rows normalize(Rows in, const std::string& name) const {
    const std::vector<double> weight = golden_.numbers("weights." + name + ".weight");
    const std::vector<double> bias = golden_.numbers("weights." + name + ".bias");
    for (std::vector<double>& row : in) {
      double mean = 0, square = 0;
      for (const double x : row) mean += x / static_cast<double>(row.size());
      for (const double x : row)
        square += (x - mean) * (x - mean) / static_cast<double>(row.size());
      for (std::size_t d = 0; d < row.size(); ++d) {
        row[d] = (row[d] - mean) / std::sqrt(square + 1e-12) * weight[d] + bias[d];
      }
    }
    return in;
  }

  Rows linear(const Rows& in, const std::string& name) const {
    const std::vector<double> weight = golden_.numbers("weights." + name + ".weight");
    const bool biased = golden_.tensors.count("weights." + name + ".bias") != 0;
    const std::vector<double> bias =
        biased ? golden_.numbers("weights." + name + ".bias") : std::vector<double>{};
    const std::size_t width = in.front().size(), outputs = weight.size() / width;
    Rows out(in.size(), std::vector<double>(outputs));
    for (std::size_t n = 0; n < in.size(); ++n) {
      for (std::size_t o = 0; o < outputs; ++o) {
        double x = biased ? bias[o] : 0;
        for (std::size_t d = 0; d < width; ++d) x += weight[o * width + d] * in[n][d];
        out[n][o] = x;
      }
    }
    return out;
  }

  Tensor heads(const Rows& in, const std::string& name) const {
    std::vector<double> flat;
    for (const std::vector<double>& row : linear(in, "attention.self_attention." + name)) {
      flat.insert(flat.end(), row.begin(), row.end());
    }
    return Tensor(DType::kFloat64, {1, kSeqlen, kHeads, kHeadDim}).fill_values(flat);
  }

  // A decoder where there is a mask, as in the _complex tests.
  Rows attend(const Rows& in, bool lsh) const {
    const Rows normal = normalize(in, "attention.layer_norm");
    const Tensor value = heads(normal, "value");
    AttentionOptions options;
    Tensor visible(DType::kBool, {1, 1, 1, kSeqlen});
    if (golden_.tensors.count("input.attention_mask") != 0) {
      options.mask = causal() & dense(visible.fill_values(golden_.numbers("input.attention_mask")));
    }
    Tensor output(DType::kFloat64, {1, kSeqlen, kHeads, kHeadDim});
    if (lsh) {
      LshOptions choices = hf_reformer();
      choices.num_hashes = 4;
      choices.chunk_len = 4;
      choices.chunks_before = 0;
      lsh_attention(heads(normal, "query_key"), {}, value, {output, {}}, choices, options);
    } else {
      attention(heads(normal, "query"), heads(normal, "key"), value, {output, {}}, options);
    }
    const std::vector<double> flat = output.values();
    return linear(split(flat, kHeads * kHeadDim), "attention.output.dense");
  }

  GoldenCase golden_;
};

TEST(ReformerLayer, IsThatOfHuggingFace) {
  for (const std::string name :
       {"lsh_layer_forward", "lsh_layer_forward_complex", "local_layer_forward"}) {
    SCOPED_TRACE(name);
    const Layer layer(name);
    const Rows attended = layer.attention_output(/*lsh=*/name.rfind("lsh", 0) == 0);
    EXPECT_TRUE(layer.is(attended, "expected.attn_output"));
    EXPECT_TRUE(layer.is(layer.hidden_states(attended), "expected.hidden_states"));
  }
}

}  // namespace
}  // namespace longspan::test
