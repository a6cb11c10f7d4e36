// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The C functions give the bits of the library; structs of other versions are read as far as both
// sides know them; errors are a status and a line.
#include "longspan/c_api.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "longspan/kv_cache.h"
#include "support/backward.h"
#include "support/compare.h"
#include "support/lsh_call.h"

namespace longspan::test {
namespace {

longspan_tensor c_tensor(const ConstTensorView& view) {
  longspan_tensor tensor{};
  tensor.data = const_cast<void*>(view.data);
  tensor.dtype = static_cast<std::int32_t>(view.dtype);
  tensor.rank = view.rank;
  for (int axis = 0; axis < view.rank; ++axis) {
    tensor.shape[axis] = view.shape[axis];
    tensor.strides[axis] = view.strides[axis];
  }
  return tensor;
}
longspan_partial c_partial(const ConstTensorView& output, const ConstTensorView& lse) {
  return {c_tensor(output), c_tensor(lse)};
}

bool says(std::initializer_list<const char*> words) {
  const std::string error = longspan_last_error();
  for (const char* word : words) {
    if (error.find(word) == std::string::npos) {
      ADD_FAILURE() << "no `" << word << "` in: " << error;
      return false;
    }
  }
  return error.find('\n') == std::string::npos;
}

class CApi : public testing::Test {
 protected:
  CApi() {
    longspan_attention_options_init(&options_);
    longspan_execution_init(&execution_);
    longspan_mask_term_init(&term_);
  }
  void mask_by(longspan_mask_kind kind) {
    term_.kind = kind;
    options_.mask_terms = &term_;
    options_.mask_term_count = 1;
  }
  longspan_status attend() {
    return longspan_attention(&query_, &key_, &value_, &result_, &options_, &execution_);
  }
  Output expected() const { return run(in_); }
  void expect_same_bits(const Output& truth) {
    EXPECT_TRUE(same_bits(out_, truth));
    out_.output.fill(std::nan(""));
    out_.lse.fill(std::nan(""));
  }

  Random random_{3};
  Inputs in_{Tensor(DType::kFloat32, {2, 70, 4, 16}).fill_normal(random_),
             Tensor(DType::kFloat32, {2, 90, 2, 16}).fill_normal(random_),
             Tensor(DType::kFloat32, {2, 90, 2, 8}).fill_normal(random_),
             {},
             {}};
  Output out_ = make_output(in_, DType::kFloat32);
  longspan_tensor query_ = c_tensor(in_.query), key_ = c_tensor(in_.key),
                  value_ = c_tensor(in_.value);
  longspan_partial result_ = c_partial(out_.output, out_.lse);
  longspan_attention_options options_;
  longspan_execution execution_;
  longspan_mask_term term_;
};

TEST_F(CApi, AttentionHasTheBitsOfTheLibrary) {
  ASSERT_EQ(attend(), LONGSPAN_OK) << longspan_last_error();
  expect_same_bits(expected());
  ASSERT_EQ(longspan_attention(&query_, &key_, &value_, &result_, nullptr, nullptr), LONGSPAN_OK);
  expect_same_bits(expected());

  const Tensor bias = Tensor(DType::kFloat32, {4, 70, 90}).fill_normal(random_);
  const Tensor slopes = Tensor(DType::kFloat32, {4}).fill(0.25);
  const Tensor sinks = Tensor(DType::kFloat32, {4}).fill(0.5);
  in_.options.scale = 0.3;
  in_.options.softcap = 5;
  in_.options.bias = bias;
  in_.options.alibi_slopes = slopes;
  in_.options.sinks = sinks;
  in_.options.dropout = {0.25, 9};
  in_.options.query_offset = QueryOffset::end();
  options_.has_scale = 1;
  options_.scale = 0.3;
  options_.softcap = 5;
  options_.bias = c_tensor(bias);
  options_.alibi_slopes = c_tensor(slopes);
  options_.sinks = c_tensor(sinks);
  options_.dropout_probability = 0.25;
  options_.dropout_seed = 9;
  options_.query_offset.kind = LONGSPAN_OFFSET_END;
  execution_.threads = 2;
  execution_.key_chunk = 64;
  const Execution chunked = [] {
    Execution execution;
    execution.key_chunk = 64;
    return execution;
  }();
  ASSERT_EQ(attend(), LONGSPAN_OK) << longspan_last_error();
  expect_same_bits(run(in_, chunked));
}

TEST_F(CApi, EveryMaskIsThatOfTheLibrary) {
  const Tensor lengths = integers({60, 90});
  const Tensor visible = [&] {
    Tensor bits(DType::kBool, {70, 90});
    for (std::int64_t n = 0; n < bits.size(); ++n) bits.set(n, n % 3 == 0 ? 0 : 1);
    return bits;
  }();
  const auto check = [&](longspan_mask_kind kind, const Mask& mask) {
    SCOPED_TRACE(kind);
    mask_by(kind);
    in_.options.mask = mask;
    ASSERT_EQ(attend(), LONGSPAN_OK) << longspan_last_error();
    expect_same_bits(expected());
    longspan_mask_term_init(&term_);
  };
  term_.query_offset.kind = LONGSPAN_OFFSET_NUMBER;
  term_.query_offset.number = 7;
  check(LONGSPAN_CAUSAL, causal(7));
  term_.query_offset.kind = LONGSPAN_OFFSET_PER_BATCH;
  const Tensor offsets = integers({3, 20});
  term_.query_offset.per_batch = c_tensor(offsets);
  check(LONGSPAN_CAUSAL, causal(QueryOffset::for_batch(offsets)));
  term_.query_offset.kind = LONGSPAN_OFFSET_END;
  term_.integers[0] = 12;
  term_.integers[1] = -1;
  check(LONGSPAN_WINDOW, window(12, -1, QueryOffset::end()));
  term_.tensor = c_tensor(lengths);
  check(LONGSPAN_KEY_LENGTHS, key_lengths(lengths));
  term_.query_offset.kind = LONGSPAN_OFFSET_END;
  term_.integers[0] = 33;
  check(LONGSPAN_PREFIX, prefix(33, QueryOffset::end()));
  term_.integers[0] = 10;
  term_.integers[1] = 50;
  check(LONGSPAN_KEY_RANGE, key_range(10, 50));
  term_.tensor = c_tensor(visible);
  check(LONGSPAN_DENSE, dense(visible));
  std::int64_t modulus = 5;
  term_.context = &modulus;
  term_.predicate = [](void* context, std::int64_t b, std::int64_t h, std::int64_t i,
                       std::int64_t j) -> std::int32_t {
    return (b + h + i + j) % *static_cast<std::int64_t*>(context) != 0 ? 1 : 0;
  };
  check(LONGSPAN_PREDICATE, predicate([](std::int64_t b, std::int64_t h, std::int64_t i,
                                         std::int64_t j) { return (b + h + i + j) % 5 != 0; }));
}

TEST_F(CApi, DocumentsAndTermsOfOneCall) {
  in_.query = Tensor(DType::kFloat32, {1, 70, 4, 16}).fill_normal(random_);
  in_.key = Tensor(DType::kFloat32, {1, 90, 2, 16}).fill_normal(random_);
  in_.value = Tensor(DType::kFloat32, {1, 90, 2, 8}).fill_normal(random_);
  out_ = make_output(in_, DType::kFloat32);
  query_ = c_tensor(in_.query);
  key_ = c_tensor(in_.key);
  value_ = c_tensor(in_.value);
  result_ = c_partial(out_.output, out_.lse);
  const Tensor of_queries = integers({0, 30, 70}), of_keys = integers({0, 45, 90});
  longspan_mask_term terms[2];
  for (longspan_mask_term& term : terms) longspan_mask_term_init(&term);
  terms[0].kind = LONGSPAN_DOCUMENTS;
  terms[0].tensor = c_tensor(of_queries);
  terms[0].tensor_k = c_tensor(of_keys);
  terms[1].kind = LONGSPAN_CAUSAL;
  terms[1].query_offset.kind = LONGSPAN_OFFSET_END;
  options_.mask_terms = terms;
  options_.mask_term_count = 2;
  in_.options.mask = documents(of_queries, of_keys) & causal(QueryOffset::end());
  ASSERT_EQ(attend(), LONGSPAN_OK) << longspan_last_error();
  expect_same_bits(expected());
}

TEST_F(CApi, GradientsHaveTheBitsOfTheLibrary) {
  const Output result = expected();
  const Derivatives derivatives = normal_derivatives(in_, DType::kFloat32, 4);
  const GradientTensors truth = run_backward(in_, result, derivatives);
  GradientTensors found = make_gradients(in_, DType::kFloat32);
  const longspan_partial partial = c_partial(result.output, result.lse);
  const longspan_partial dresult = c_partial(derivatives.output, derivatives.lse);
  longspan_gradients into;
  longspan_gradients_init(&into);
  into.query = c_tensor(std::as_const(found.query).view());
  into.key = c_tensor(std::as_const(found.key).view());
  into.value = c_tensor(std::as_const(found.value).view());
  ASSERT_EQ(longspan_attention_backward(&query_, &key_, &value_, &partial, &dresult, &into,
                                        &options_, &execution_),
            LONGSPAN_OK)
      << longspan_last_error();
  EXPECT_TRUE(same_bits(found, truth));
}

TEST_F(CApi, LshHasTheBitsOfTheLibrary) {
  LshInputs in;
  in.query = Tensor(DType::kFloat32, {1, 300, 2, 16}).fill_normal(random_);
  in.value = Tensor(DType::kFloat32, {1, 300, 2, 16}).fill_normal(random_);
  in.lsh = hf_reformer();
  in.lsh.num_hashes = 3;
  in.lsh.num_buckets = {4, 2};
  in.lsh.chunk_len = 16;
  in.lsh.seed = 8;
  in.lsh.local_window = {{5, 0}};
  const Output truth = run_lsh(in);
  const Derivatives derivatives = normal_derivatives(in, DType::kFloat32, 5);
  const GradientTensors gradients = run_lsh_backward(in, truth, derivatives);

  const std::int64_t factors[] = {4, 2};
  longspan_lsh_options lsh;
  longspan_lsh_options_init(&lsh, LONGSPAN_PRESET_HF_REFORMER);
  lsh.num_hashes = 3;
  lsh.num_buckets = factors;
  lsh.num_bucket_factors = 2;
  lsh.chunk_len = 16;
  lsh.seed = 8;
  lsh.has_local_window = 1;
  lsh.local_window[0] = 5;
  const longspan_tensor query = c_tensor(in.query), value = c_tensor(in.value);
  Output out = truth;
  out.output = Tensor(DType::kFloat32, truth.output.shape()).fill(std::nan(""));
  out.lse = Tensor(DType::kFloat32, truth.lse.shape()).fill(std::nan(""));
  const longspan_partial result =
      c_partial(std::as_const(out.output).view(), std::as_const(out.lse).view());
  ASSERT_EQ(longspan_lsh_attention(&query, nullptr, &value, &result, &lsh, nullptr, nullptr),
            LONGSPAN_OK)
      << longspan_last_error();
  EXPECT_TRUE(same_bits(out, truth));

  GradientTensors found = run_lsh_backward(in, truth, derivatives);
  found.query.fill(std::nan(""));
  found.value.fill(std::nan(""));
  longspan_gradients into;
  longspan_gradients_init(&into);
  into.query = c_tensor(std::as_const(found.query).view());
  into.value = c_tensor(std::as_const(found.value).view());
  const longspan_partial dresult = c_partial(derivatives.output, derivatives.lse);
  ASSERT_EQ(longspan_lsh_attention_backward(&query, nullptr, &value, &result, &dresult, &into, &lsh,
                                            nullptr, nullptr),
            LONGSPAN_OK)
      << longspan_last_error();
  EXPECT_TRUE(same_bits(found, gradients));
}

TEST_F(CApi, PlansSayWhatThoseOfTheLibrarySay) {
  execution_.threads = 2;
  Execution execution;
  execution.threads = 2;
  longspan_plan plan;
  plan.struct_size = sizeof(plan);
  ASSERT_EQ(longspan_plan_attention(&query_, &key_, &value_, &options_, &execution_, &plan),
            LONGSPAN_OK);
  const AttentionPlan truth = plan_attention(in_.query, in_.key, in_.value, {}, execution);
  EXPECT_EQ(plan.kernel, truth.kernel);
  EXPECT_EQ(plan.threads, truth.threads);
  EXPECT_EQ(plan.tasks, truth.tasks);
  EXPECT_EQ(plan.workspace_bytes, truth.workspace_bytes);
  EXPECT_EQ(plan.flop, truth.flop);
  ASSERT_EQ(
      longspan_plan_attention_backward(&query_, &key_, &value_, &options_, &execution_, &plan),
      LONGSPAN_OK);
  EXPECT_EQ(plan.flop, plan_attention_backward(in_.query, in_.key, in_.value, {}, execution).flop);
  ASSERT_EQ(
      longspan_plan_lsh_attention(&query_, nullptr, &query_, nullptr, nullptr, &execution_, &plan),
      LONGSPAN_OK);
  EXPECT_EQ(plan.workspace_bytes,
            plan_lsh_attention(in_.query, {}, in_.query, {}, {}, execution).workspace_bytes);
  ASSERT_EQ(longspan_plan_lsh_attention_backward(&query_, nullptr, &query_, nullptr, nullptr,
                                                 &execution_, &plan),
            LONGSPAN_OK);
  EXPECT_EQ(plan.flop,
            plan_lsh_attention_backward(in_.query, {}, in_.query, {}, {}, execution).flop);
}

TEST_F(CApi, MergesAndClears) {
  in_.options.mask = key_range(0, 40);
  const Output first = expected();
  in_.options.mask = key_range(40, 90);
  const Output second = expected();
  in_.options.mask = {};
  ASSERT_EQ(longspan_clear(&result_), LONGSPAN_OK);
  EXPECT_EQ(out_.output.get(0), 0.0);
  EXPECT_TRUE(std::isinf(out_.lse.get(0)));
  const longspan_partial parts[] = {c_partial(first.output, first.lse),
                                    c_partial(second.output, second.lse)};
  ASSERT_EQ(longspan_merge(&result_, parts, 2, nullptr), LONGSPAN_OK) << longspan_last_error();
  const Output whole = expected();
  EXPECT_TRUE(within_rel_l2(out_.output.values(), whole.output.values(), 1e-6));
  EXPECT_TRUE(within_elementwise(out_.lse.values(), whole.lse.values(), 1e-6, 1e-6));
  EXPECT_EQ(longspan_merge(&result_, nullptr, 2, nullptr), LONGSPAN_INVALID_ARGUMENT);
}

TEST_F(CApi, CachesKeysAndValues) {
  longspan_kv_cache* cache = nullptr;
  ASSERT_EQ(longspan_kv_cache_create(2, 2, 16, 8, LONGSPAN_FLOAT32, 4, &cache), LONGSPAN_OK);
  ASSERT_EQ(longspan_kv_cache_append(cache, &key_, &value_), LONGSPAN_OK) << longspan_last_error();
  EXPECT_EQ(longspan_kv_cache_length(cache), 90);
  EXPECT_GE(longspan_kv_cache_capacity(cache), 90);
  KVCache own({2, 2, 16, 8}, DType::kFloat32, 4);
  own.append(in_.key, in_.value);
  Output truth = make_output(in_, DType::kFloat32);
  const std::int64_t swapped[] = {1, 0};
  ASSERT_EQ(longspan_kv_cache_reorder(cache, swapped, 2), LONGSPAN_OK);
  own.reorder(swapped);
  ASSERT_EQ(longspan_kv_cache_truncate(cache, 80), LONGSPAN_OK);
  own.truncate(80);
  ASSERT_EQ(longspan_kv_cache_attend(cache, &query_, &result_, nullptr, nullptr), LONGSPAN_OK);
  own.attend(in_.query, {truth.output, truth.lse});
  expect_same_bits(truth);
  const longspan_tensor keys = longspan_kv_cache_key(cache);
  EXPECT_EQ(keys.shape[1], 80);
  EXPECT_EQ(keys.shape[3], 16);
  EXPECT_EQ(longspan_kv_cache_value(cache).shape[3], 8);
  EXPECT_EQ(*static_cast<const float*>(keys.data), static_cast<float>(in_.key.get({1, 0, 0, 0})));
  EXPECT_EQ(longspan_kv_cache_truncate(cache, 81), LONGSPAN_INVALID_ARGUMENT);
  EXPECT_TRUE(says({"81", "80"}));
  longspan_kv_cache_destroy(cache);
  longspan_kv_cache_destroy(nullptr);
  EXPECT_EQ(longspan_kv_cache_create(2, 2, 16, 8, LONGSPAN_INT32, 4, &cache),
            LONGSPAN_INVALID_ARGUMENT);
  EXPECT_EQ(longspan_kv_cache_append(nullptr, &key_, &value_), LONGSPAN_INVALID_ARGUMENT);
}

// What an older caller's struct does not have is default; what a newer one has must be unused.
TEST_F(CApi, StructsOfOtherVersions) {
  options_.has_scale = 1;
  options_.scale = 0.3;
  options_.softcap = 1;  // past the end of the older struct
  options_.struct_size = offsetof(longspan_attention_options, softcap);
  in_.options.scale = 0.3;
  ASSERT_EQ(attend(), LONGSPAN_OK) << longspan_last_error();
  expect_same_bits(expected());

  struct Newer {
    longspan_execution known;
    std::int64_t unknown;
  } newer{};
  longspan_execution_init(&newer.known);
  newer.known.struct_size = sizeof(newer);
  ASSERT_EQ(longspan_attention(&query_, &key_, &value_, &result_, &options_, &newer.known),
            LONGSPAN_OK)
      << longspan_last_error();
  newer.unknown = 1;
  EXPECT_EQ(longspan_attention(&query_, &key_, &value_, &result_, &options_, &newer.known),
            LONGSPAN_INVALID_ARGUMENT);
  EXPECT_TRUE(says({"longspan_execution", "does not know"}));

  longspan_plan plan;
  std::memset(&plan, 0x5A, sizeof(plan));
  plan.struct_size = offsetof(longspan_plan, tasks);
  ASSERT_EQ(longspan_plan_attention(&query_, &key_, &value_, nullptr, nullptr, &plan), LONGSPAN_OK);
  EXPECT_GT(plan.threads, 0);
  EXPECT_EQ(plan.tasks, 0x5A5A5A5A5A5A5A5A);
  options_.struct_size = 0;
  EXPECT_EQ(attend(), LONGSPAN_INVALID_ARGUMENT);
  EXPECT_TRUE(says({"longspan_attention_options", "struct_size", "0"}));
}

TEST_F(CApi, ErrorsAreAStatusAndALine) {
  value_.shape[1] = 89;
  EXPECT_EQ(attend(), LONGSPAN_INVALID_ARGUMENT);
  EXPECT_TRUE(says({"89", "90"}));
  value_.shape[1] = 90;
  query_.dtype = 99;
  EXPECT_EQ(attend(), LONGSPAN_INVALID_ARGUMENT);
  EXPECT_TRUE(says({"dtype", "99"}));
  query_.dtype = LONGSPAN_FLOAT32;
  query_.rank = 5;
  EXPECT_EQ(attend(), LONGSPAN_INVALID_ARGUMENT);
  EXPECT_TRUE(says({"rank", "5"}));
  query_.rank = 4;
  EXPECT_EQ(longspan_attention(nullptr, &key_, &value_, &result_, nullptr, nullptr),
            LONGSPAN_INVALID_ARGUMENT);
  EXPECT_EQ(longspan_attention(&query_, &key_, &value_, nullptr, nullptr, nullptr),
            LONGSPAN_INVALID_ARGUMENT);
  EXPECT_TRUE(says({"result", "NULL"}));
  mask_by(LONGSPAN_PREDICATE);
  EXPECT_EQ(attend(), LONGSPAN_INVALID_ARGUMENT);
  EXPECT_TRUE(says({"predicate"}));
  term_.kind = 8;
  EXPECT_EQ(attend(), LONGSPAN_INVALID_ARGUMENT);
  EXPECT_TRUE(says({"kind", "8"}));
  options_.mask_terms = nullptr;
  EXPECT_EQ(attend(), LONGSPAN_INVALID_ARGUMENT);
  options_.mask_term_count = 0;
  execution_.memory_limit = 1;
  EXPECT_EQ(attend(), LONGSPAN_OUT_OF_MEMORY);
  execution_.memory_limit = 0;
  execution_.kernel = "pocket calculator";
  EXPECT_NE(attend(), LONGSPAN_OK);
  EXPECT_TRUE(says({"pocket calculator"}));
  execution_.kernel = nullptr;

  const std::string mine = longspan_last_error();
  std::thread([&] { EXPECT_STREQ(longspan_last_error(), ""); }).join();
  ASSERT_EQ(attend(), LONGSPAN_OK);
  EXPECT_EQ(longspan_last_error(), mine);  // of the last function that failed
  EXPECT_STREQ(longspan_version(), version());
  EXPECT_EQ(longspan_available_threads(), available_threads());
}

TEST_F(CApi, StopsOnRequest) {
  longspan_stop* stop = nullptr;
  ASSERT_EQ(longspan_stop_create(&stop), LONGSPAN_OK);
  execution_.stop = stop;
  EXPECT_EQ(attend(), LONGSPAN_OK);
  longspan_stop_request(stop);
  EXPECT_EQ(attend(), LONGSPAN_CANCELLED);
  EXPECT_TRUE(says({"stopped"}));
  longspan_stop_destroy(stop);
  longspan_stop_destroy(nullptr);
  EXPECT_EQ(longspan_stop_create(nullptr), LONGSPAN_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace longspan::test
