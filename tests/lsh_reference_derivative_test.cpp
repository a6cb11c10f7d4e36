// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The reference of LSH attention where no golden file reaches: gradients by central differences for
// every option, and the cases in which it must be exact attention.
#include <gtest/gtest.h>

#include "reference/attention_reference.h"
#include "reference/lsh_reference.h"
#include "support/call.h"
#include "support/compare.h"
#include "support/derivative.h"
#include "support/tensor.h"

namespace longspan::test {
namespace {

using reference::LshAttention;
using reference::LshGradientResult;
using reference::LshResult;

struct LshCase {
  std::string name;
  bool shared = true;
  Tensor query, key, value, query_buckets, key_buckets;
  LshOptions lsh;
  AttentionOptions options;
  std::vector<Tensor> kept;

  Tensor& keep(Tensor tensor) { return kept.emplace_back(std::move(tensor)); }
  LshAttention reference() const {
    return shared ? LshAttention(query, value, query_buckets, lsh, options)
                  : LshAttention(query, key, value, query_buckets, key_buckets, lsh, options);
  }
};

Tensor random_buckets(Random& random, const std::vector<std::int64_t>& shape,
                      std::int64_t buckets) {
  Tensor tensor(DType::kInt32, shape);
  for (std::int64_t n = 0; n < tensor.size(); ++n) {
    tensor.set(n, static_cast<double>(random.between(0, buckets - 1)));
  }
  return tensor;
}

// Shared: 15 positions of 2 heads. Separate: 9 queries of 4 heads, 15 keys of 2.
LshCase make_case(const std::string& name, bool shared, std::uint64_t seed,
                  std::int64_t buckets = 4) {
  Random random(seed);
  LshCase one;
  one.name = name;
  one.shared = shared;
  const std::int64_t seqlen_q = shared ? 15 : 9, heads = shared ? 2 : 4;
  one.query = Tensor(DType::kFloat64, {1, seqlen_q, heads, 4}).fill_normal(random);
  one.key = Tensor(DType::kFloat64, {1, 15, 2, 4}).fill_normal(random);
  one.value = Tensor(DType::kFloat64, {1, 15, 2, 3}).fill_normal(random);
  one.query_buckets = random_buckets(random, {1, heads, 3, seqlen_q}, buckets);
  one.key_buckets = random_buckets(random, {1, 2, 3, 15}, buckets);
  one.lsh.num_hashes = 3;
  one.lsh.chunk_len = 4;
  if (!shared) one.options.query_offset = QueryOffset::end();
  return one;
}

std::vector<LshCase> cases() {
  std::vector<LshCase> all;
  for (const bool shared : {true, false}) {
    const std::string side = shared ? "shared_" : "separate_";
    const auto add = [&](const char* name) -> LshCase& {
      return all.emplace_back(make_case(side + name, shared, 60 + all.size()));
    };
    add("plain");
    add("causal").options.mask = causal();
    add("duplicates").lsh.dedup = Dedup::kNone;
    add("log_count").lsh.dedup = Dedup::kLogCount;
    add("around").lsh.chunks_after = 2;
    add("softcap").options.softcap = 1.5;
    add("whole_buckets").lsh.whole_buckets = true;
    LshCase& local = add("local_window");
    local.lsh.local_window = {{2, 1}};
    local.lsh.dedup = Dedup::kNone;
    LshCase& terms = add("alibi_sinks");
    terms.options.alibi_slopes =
        terms.keep(Tensor(DType::kFloat64, {terms.query.shape()[2]}).fill(0.3));
    terms.options.sinks = terms.keep(Tensor(DType::kFloat64, {terms.query.shape()[2]}).fill(0.7));
    LshCase& padded = add("padding");
    padded.options.mask = key_lengths(padded.keep(integers({11}))) & causal();
    LshCase& packed = add("documents");
    const ConstTensorView ends = packed.keep(integers(shared ? std::vector<std::int64_t>{0, 4, 15}
                                                             : std::vector<std::int64_t>{0, 4, 9}));
    packed.options.mask = documents(ends, packed.keep(integers({0, 4, 15}))) & causal();
  }
  LshCase& assigned = all.emplace_back(make_case("shared_hugging_face", true, 90));
  assigned.lsh.self_rule = SelfRule::kAssigned;
  assigned.lsh.self_score = -1;  // so that it counts
  assigned.lsh.self_overrides_padding = true;
  assigned.lsh.wrap = Wrap::kAll;
  assigned.lsh.dedup = Dedup::kNone;
  assigned.options.mask = key_lengths(assigned.keep(integers({11})));
  LshCase& added = all.emplace_back(make_case("shared_l2", true, 91));
  added.lsh.key_norm = KeyNorm::kL2;
  added.lsh.self_score = -0.5;
  added.lsh.wrap = Wrap::kRound;
  added.lsh.chunks_before = 5;
  LshCase& scaled = all.emplace_back(make_case("separate_scale", false, 92));
  scaled.options.scale = 0.9;
  return all;
}

TEST(LshReferenceDerivative, MeetsCentralDifferences) {
  for (LshCase& one : cases()) {
    SCOPED_TRACE(one.name);
    Random random(5);
    const LshResult start = one.reference().all();
    Derivatives derivatives;
    derivatives.output =
        Tensor(DType::kFloat64, {1, one.query.shape()[1], one.query.shape()[2], 3});
    derivatives.lse = Tensor(DType::kFloat64, {1, one.query.shape()[2], one.query.shape()[1]});
    derivatives.output.fill_normal(random);
    derivatives.lse.fill_normal(random);
    for (std::int64_t n = 0; n < derivatives.lse.size(); ++n) {  // rows that see themselves alone
      if (!(start.lse[static_cast<std::size_t>(n)] > -1e3)) derivatives.lse.set(n, 0);
    }
    const auto loss = [&] {
      const LshResult result = one.reference().all();
      std::vector<double> lse = result.lse;
      for (std::size_t n = 0; n < lse.size(); ++n) {
        if (!(start.lse[n] > -1e3)) lse[n] = 0;
      }
      return loss_of(result.output, lse, derivatives);
    };
    const LshGradientResult gradients =
        one.reference().gradients(derivatives.output, derivatives.lse);
    const auto expect = [&](const char* name, const Tensor& variable,
                            const std::vector<double>& gradient) {
      SCOPED_TRACE(name);
      EXPECT_TRUE(within_elementwise(gradient, central_differences(variable, loss),
                                     kDerivativeAbsolute, kDerivativeRelative));
    };
    expect("query", one.query, gradients.sum.query);
    expect("value", one.value, gradients.sum.value);
    if (!one.shared) expect("key", one.key, gradients.sum.key);
    if (is_given(one.options.sinks)) expect("sinks", one.kept[1], gradients.sum.sinks);
    for (std::size_t n = 0; n < gradients.sum.query.size(); ++n) {
      EXPECT_LE(std::fabs(gradients.sum.query[n]), gradients.magnitude.query[n] * (1 + 1e-12));
    }
  }
}

// The rounds are partial results that merge to the whole.
TEST(LshReference, RoundsMerge) {
  for (LshCase& one : cases()) {
    if (is_given(one.options.sinks)) continue;  // which belong to no round
    SCOPED_TRACE(one.name);
    const LshResult result = one.reference().all();
    const std::int64_t seqlen = one.query.shape()[1], heads = one.query.shape()[2];
    Tensor output(DType::kFloat64, {1, seqlen, heads, 3}), lse(DType::kFloat64, {1, heads, seqlen});
    clear({output, lse});
    for (std::int64_t r = 0; r < result.rounds; ++r) {
      Tensor round_output(DType::kFloat64, {1, seqlen, heads, 3});
      Tensor round_lse(DType::kFloat64, {1, heads, seqlen});
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t i = 0; i < seqlen; ++i) {
          const auto n = static_cast<std::size_t>((h * result.rounds + r) * seqlen + i);
          round_lse.set({0, h, i}, result.round_lse[n]);
          for (std::size_t d = 0; d < 3; ++d) {
            round_output.set({0, i, h, static_cast<std::int64_t>(d)},
                             result.round_output[n * 3 + d]);
          }
        }
      }
      const ConstPartial part(round_output, round_lse);
      merge({output, lse}, {&part, 1});
    }
    EXPECT_TRUE(within_rel_l2(output.values(), result.output, 1e-12));
    EXPECT_TRUE(within_elementwise(lse.values(), result.lse, 1e-12, 1e-14));
  }
}

testing::AssertionResult is_exact_attention(const LshCase& one) {
  const LshResult result = one.reference().all();
  const auto truth = reference::Attention(one.query, one.key, one.value, one.options).all();
  const auto output = within_rel_l2(result.output, truth.output, 1e-14);
  return output ? within_rel_l2(result.lse, truth.lse, 1e-14) : output;
}

// Separate queries and keys whose windows leave nothing out.
TEST(LshReference, IsExactAttentionWhereEverythingIsFound) {
  for (const bool is_causal : {false, true}) {
    LshCase one = make_case("separate", false, 70);
    if (is_causal) one.options.mask = causal();
    EXPECT_FALSE(is_exact_attention(one));
    one.lsh.chunks_before = one.lsh.chunks_after = 4;
    EXPECT_TRUE(is_exact_attention(one)) << "chunks that reach everywhere";
    one.lsh.dedup = Dedup::kLogCount;
    EXPECT_TRUE(is_exact_attention(one));
    one.lsh.dedup = Dedup::kNone;
    EXPECT_FALSE(is_exact_attention(one));

    one = make_case("separate", false, 71, 1);
    if (is_causal) one.options.mask = causal();
    one.lsh.whole_buckets = true;
    EXPECT_TRUE(is_exact_attention(one)) << "all buckets 0";
    one = make_case("separate", false, 72);
    if (is_causal) one.options.mask = causal();
    one.lsh.local_window = {{20, 20}};
    one.lsh.dedup = Dedup::kNone;
    EXPECT_TRUE(is_exact_attention(one)) << "a local window over everything";
    one.lsh.local_window.reset();
    one.lsh.chunk_len = 15;
    EXPECT_TRUE(is_exact_attention(one)) << "one chunk";
  }
}

// Keys near enough are never missed, whatever their bucket.
TEST(LshReference, ALocalWindowIsUnited) {
  LshCase one = make_case("separate", false, 73);
  one.options.mask = causal();
  const LshResult apart = one.reference().all();
  one.lsh.local_window = {{3, 0}};
  const LshResult united = one.reference().all();
  EXPECT_EQ(united.rounds, apart.rounds + 1);
  for (std::size_t n = 0; n < united.lse.size(); ++n)
    EXPECT_GE(united.lse[n], apart.lse[n] - 1e-12);
  LshCase window_alone = one;
  window_alone.options.mask = causal() & window(3, 0);
  const auto local =
      reference::Attention(one.query, one.key, one.value, window_alone.options).all();
  for (std::size_t h = 0; h < 4; ++h) {
    for (std::size_t i = 0; i < 9; ++i) {
      EXPECT_NEAR(united.round_lse[(h * 4 + 3) * 9 + i], local.lse[h * 9 + i], 1e-13);
    }
  }
}

}  // namespace
}  // namespace longspan::test
