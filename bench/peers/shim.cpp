// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Calls of the benchmark behind plain C functions, for ctypes (ours.py). Every function that can
// fail returns 0, or 1 with a line in bench_error(). Tensors are contiguous: rows [seqlen, heads,
// head_dim] of float32 or bfloat16, lse [heads, seqlen_q] of float32.
#include <memory>
#include <string>

#include "longspan/attention.h"
#include "longspan/lsh_attention.h"
#include "peaks.h"

namespace {

using namespace longspan;

std::string last_error;

template <class Work>
int guarded(const Work& work) {
  try {
    work();
    return 0;
  } catch (const std::exception& error) {
    last_error = error.what();
    return 1;
  }
}

}  // namespace

extern "C" {

struct BenchCall {
  std::int64_t seqlen_q, seqlen_k, heads, heads_kv, head_dim;
  std::int32_t bfloat16, causal, threads;
  const char* kernel;  // empty: the best
  // LSH attention of shared query and key: factors (0: there is none), 1 Hugging Face's choices, 2
  // reformer-pytorch's, rounds.
  std::int64_t num_buckets[2];
  std::int32_t lsh, num_hashes;
};

struct BenchInputs {
  const void *query, *key, *value;
};

const char* bench_error() { return last_error.c_str(); }
int bench_threads() { return available_threads(); }
const char* bench_version() { return version(); }

}  // extern "C"

namespace {

struct Views {
  ConstTensorView query, key, value;
  AttentionOptions options;
  Execution execution;
};

DType dtype_of(const BenchCall& call) {
  return call.bfloat16 != 0 ? DType::kBFloat16 : DType::kFloat32;
}

TensorView query_rows(const BenchCall& call, void* data) {
  return tensor(data, dtype_of(call), {call.seqlen_q, call.heads, call.head_dim});
}
TensorView key_rows(const BenchCall& call, void* data) {
  return tensor(data, dtype_of(call), {call.seqlen_k, call.heads_kv, call.head_dim});
}
TensorView lse_rows(const BenchCall& call, float* data) {
  return tensor(data, {call.heads, call.seqlen_q});
}
void* writable(const void* data) { return const_cast<void*>(data); }

Views views_of(const BenchCall& call, const BenchInputs& inputs) {
  Views views{query_rows(call, writable(inputs.query)),
              key_rows(call, writable(inputs.key)),
              key_rows(call, writable(inputs.value)),
              {},
              {}};
  if (call.causal != 0) views.options.mask = causal(QueryOffset::end());
  views.execution.threads = call.threads;
  views.execution.kernel = call.kernel;
  return views;
}

TensorView bucket_rows(const BenchCall& call, std::int32_t* buckets) {
  return tensor(buckets, DType::kInt32, {call.heads, call.num_hashes, call.seqlen_q});
}

// `buckets` may be null: the call hashes.
LshOptions lsh_options_of(const BenchCall& call, std::int32_t* buckets = nullptr) {
  LshOptions options = call.lsh == 1 ? hf_reformer() : lucidrains();
  options.num_hashes = call.num_hashes;
  for (const std::int64_t factor : call.num_buckets) {
    if (factor != 0) options.num_buckets.push_back(factor);
  }
  if (buckets != nullptr) options.buckets = bucket_rows(call, buckets);
  return options;
}

}  // namespace

extern "C" {

// The name of the kernel that will run, in `name` of 32 bytes.
int bench_kernel(const BenchCall* call, const BenchInputs* inputs, char* name) {
  return guarded([&] {
    const Views v = views_of(*call, *inputs);
    const std::string found =
        call->lsh != 0 ? plan_lsh_attention(v.query, {}, v.value, lsh_options_of(*call), v.options,
                                            v.execution)
                             .kernel
                       : plan_attention(v.query, v.key, v.value, v.options, v.execution).kernel;
    name[found.copy(name, 31)] = '\0';
  });
}

int bench_forward(const BenchCall* call, const BenchInputs* inputs, void* output, float* lse) {
  return guarded([&] {
    const Views v = views_of(*call, *inputs);
    attention(v.query, v.key, v.value, {query_rows(*call, output), lse_rows(*call, lse)}, v.options,
              v.execution);
  });
}

// Queries are the last ones: the new tokens of a cache that holds them already. No lse.
int bench_decode(const BenchCall* call, const BenchInputs* inputs, void* output) {
  return guarded([&] {
    Views v = views_of(*call, *inputs);
    v.options.mask = causal(QueryOffset::end());
    attention(v.query, v.key, v.value, {query_rows(*call, output), {}}, v.options, v.execution);
  });
}

int bench_backward(const BenchCall* call, const BenchInputs* inputs, void* output, float* lse,
                   const void* doutput, void* dquery, void* dkey, void* dvalue) {
  return guarded([&] {
    const Views v = views_of(*call, *inputs);
    Gradients into;
    into.query = query_rows(*call, dquery);
    into.key = key_rows(*call, dkey);
    into.value = key_rows(*call, dvalue);
    attention_backward(v.query, v.key, v.value, {query_rows(*call, output), lse_rows(*call, lse)},
                       {query_rows(*call, writable(doutput)), {}}, into, v.options, v.execution);
  });
}

// [heads, num_hashes, seqlen]: those that a forward pass finds, or is given.
int bench_lsh_buckets(const BenchCall* call, const BenchInputs* inputs, std::int32_t* buckets) {
  return guarded([&] {
    const Views v = views_of(*call, *inputs);
    hash_vectors(v.query, bucket_rows(*call, buckets), lsh_options_of(*call), {}, v.execution);
  });
}

int bench_lsh_forward(const BenchCall* call, const BenchInputs* inputs, std::int32_t* buckets,
                      void* output, float* lse) {
  return guarded([&] {
    const Views v = views_of(*call, *inputs);
    lsh_attention(v.query, {}, v.value, {query_rows(*call, output), lse_rows(*call, lse)},
                  lsh_options_of(*call, buckets), v.options, v.execution);
  });
}

int bench_lsh_backward(const BenchCall* call, const BenchInputs* inputs, std::int32_t* buckets,
                       void* output, float* lse, const void* doutput, void* dquery_key,
                       void* dvalue) {
  return guarded([&] {
    const Views v = views_of(*call, *inputs);
    Gradients into;
    into.query = query_rows(*call, dquery_key);
    into.value = query_rows(*call, dvalue);
    lsh_attention_backward(v.query, {}, v.value, {query_rows(*call, output), lse_rows(*call, lse)},
                           {query_rows(*call, writable(doutput)), {}}, into,
                           lsh_options_of(*call, buckets), v.options, v.execution);
  });
}

// FLOP/s, 0 when it is not known here.
double bench_product_peak(const char* kernel, std::int32_t bfloat16, std::int32_t threads) {
  const DType dtype = bfloat16 != 0 ? DType::kBFloat16 : DType::kFloat32;
  return bench::product_peak(kernel, dtype, threads).value_or(0);
}

// Bytes/s; the first call looks for the best loop and keeps its 1 GiB.
double bench_read_bandwidth(std::int32_t threads) {
  static const bench::ReadBandwidth bandwidth(threads);
  return bandwidth.measure();
}

}  // extern "C"
