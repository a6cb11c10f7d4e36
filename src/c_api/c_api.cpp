// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The C functions: each is that of the library, its errors a status and a message of the thread.
#include "longspan/c_api.h"

#include <algorithm>
#include <vector>

#include "c_api/conversions.h"
#include "longspan/kv_cache.h"

struct longspan_kv_cache {
  longspan::KVCache cache;
};

namespace longspan::c_api {
namespace {

const KVCache& cache_of(const longspan_kv_cache* cache) {
  if (cache == nullptr) refuse("longspan_kv_cache: must not be NULL");
  return cache->cache;
}
KVCache& cache_of(longspan_kv_cache* cache) {
  return const_cast<KVCache&>(cache_of(static_cast<const longspan_kv_cache*>(cache)));
}

}  // namespace
}  // namespace longspan::c_api

namespace c = longspan::c_api;

const char* longspan_last_error(void) { return c::last_error().c_str(); }
const char* longspan_last_hint(void) { return c::last_hint().c_str(); }
const char* longspan_version(void) { return longspan::version(); }
int32_t longspan_available_threads(void) { return longspan::available_threads(); }

longspan_tensor longspan_row_major(const void* data, longspan_dtype dtype, int32_t rank,
                                   const int64_t* shape) {
  longspan_tensor tensor{};
  tensor.data = const_cast<void*>(data);
  tensor.dtype = dtype;
  tensor.rank = rank;
  std::int64_t stride = 1;
  for (std::int32_t axis = std::min(rank, LONGSPAN_MAX_RANK) - 1; axis >= 0; --axis) {
    tensor.shape[axis] = shape[axis];
    tensor.strides[axis] = stride;
    stride *= shape[axis];
  }
  return tensor;
}

void longspan_mask_term_init(longspan_mask_term* term) { *term = c::default_mask_term(); }
void longspan_attention_options_init(longspan_attention_options* options) {
  *options = c::default_attention_options();
}
void longspan_lsh_options_init(longspan_lsh_options* options, longspan_lsh_preset preset) {
  *options = c::default_lsh_options(preset);
}
void longspan_execution_init(longspan_execution* execution) { *execution = c::default_execution(); }
void longspan_gradients_init(longspan_gradients* gradients) { *gradients = c::default_gradients(); }

longspan_status longspan_stop_create(longspan_stop** stop) {
  return c::guarded([&] {
    if (stop == nullptr) c::refuse("longspan_stop_create: stop must not be NULL");
    *stop = new longspan_stop;
  });
}
void longspan_stop_request(longspan_stop* stop) { stop->source.request_stop(); }
void longspan_stop_destroy(longspan_stop* stop) { delete stop; }

longspan_status longspan_attention(const longspan_tensor* query, const longspan_tensor* key,
                                   const longspan_tensor* value, const longspan_partial* result,
                                   const longspan_attention_options* options,
                                   const longspan_execution* execution) {
  return c::guarded([&] {
    longspan::attention(c::view(query), c::view(key), c::view(value), c::partial(result, "result"),
                        c::options(options), c::execution(execution));
  });
}

longspan_status longspan_plan_attention(const longspan_tensor* query, const longspan_tensor* key,
                                        const longspan_tensor* value,
                                        const longspan_attention_options* options,
                                        const longspan_execution* execution, longspan_plan* plan) {
  return c::guarded([&] {
    c::write_plan(longspan::plan_attention(c::view(query), c::view(key), c::view(value),
                                           c::options(options), c::execution(execution)),
                  plan);
  });
}

longspan_status longspan_attention_backward(
    const longspan_tensor* query, const longspan_tensor* key, const longspan_tensor* value,
    const longspan_partial* result, const longspan_partial* dresult, const longspan_gradients* into,
    const longspan_attention_options* options, const longspan_execution* execution) {
  return c::guarded([&] {
    longspan::attention_backward(c::view(query), c::view(key), c::view(value),
                                 c::partial(result, "result"), c::partial(dresult, "dresult"),
                                 c::gradients(into), c::options(options), c::execution(execution));
  });
}

longspan_status longspan_plan_attention_backward(const longspan_tensor* query,
                                                 const longspan_tensor* key,
                                                 const longspan_tensor* value,
                                                 const longspan_attention_options* options,
                                                 const longspan_execution* execution,
                                                 longspan_plan* plan) {
  return c::guarded([&] {
    c::write_plan(longspan::plan_attention_backward(c::view(query), c::view(key), c::view(value),
                                                    c::options(options), c::execution(execution)),
                  plan);
  });
}

longspan_status longspan_lsh_attention(const longspan_tensor* query, const longspan_tensor* key,
                                       const longspan_tensor* value, const longspan_partial* result,
                                       const longspan_lsh_options* lsh,
                                       const longspan_attention_options* options,
                                       const longspan_execution* execution) {
  return c::guarded([&] {
    longspan::lsh_attention(c::view(query), c::view(key), c::view(value),
                            c::partial(result, "result"), c::lsh_options(lsh), c::options(options),
                            c::execution(execution));
  });
}

longspan_status longspan_plan_lsh_attention(
    const longspan_tensor* query, const longspan_tensor* key, const longspan_tensor* value,
    const longspan_lsh_options* lsh, const longspan_attention_options* options,
    const longspan_execution* execution, longspan_plan* plan) {
  return c::guarded([&] {
    c::write_plan(longspan::plan_lsh_attention(c::view(query), c::view(key), c::view(value),
                                               c::lsh_options(lsh), c::options(options),
                                               c::execution(execution)),
                  plan);
  });
}

longspan_status longspan_lsh_attention_backward(
    const longspan_tensor* query, const longspan_tensor* key, const longspan_tensor* value,
    const longspan_partial* result, const longspan_partial* dresult, const longspan_gradients* into,
    const longspan_lsh_options* lsh, const longspan_attention_options* options,
    const longspan_execution* execution) {
  return c::guarded([&] {
    longspan::lsh_attention_backward(c::view(query), c::view(key), c::view(value),
                                     c::partial(result, "result"), c::partial(dresult, "dresult"),
                                     c::gradients(into), c::lsh_options(lsh), c::options(options),
                                     c::execution(execution));
  });
}

longspan_status longspan_plan_lsh_attention_backward(
    const longspan_tensor* query, const longspan_tensor* key, const longspan_tensor* value,
    const longspan_lsh_options* lsh, const longspan_attention_options* options,
    const longspan_execution* execution, longspan_plan* plan) {
  return c::guarded([&] {
    c::write_plan(longspan::plan_lsh_attention_backward(
                      c::view(query), c::view(key), c::view(value), c::lsh_options(lsh),
                      c::options(options), c::execution(execution)),
                  plan);
  });
}

longspan_status longspan_clear(const longspan_partial* into) {
  return c::guarded([&] { longspan::clear(c::partial(into, "into")); });
}

longspan_status longspan_merge(const longspan_partial* into, const longspan_partial* parts,
                               size_t count, const longspan_execution* execution) {
  return c::guarded([&] {
    if (count > 0 && parts == nullptr) {
      c::refuse("longspan_merge: parts is NULL, count is " + std::to_string(count));
    }
    std::vector<longspan::ConstPartial> views;
    views.reserve(count);
    for (std::size_t n = 0; n < count; ++n) views.emplace_back(c::partial(parts + n, "parts"));
    longspan::merge(c::partial(into, "into"), views, c::execution(execution));
  });
}

longspan_status longspan_kv_cache_create(int64_t batch, int64_t num_heads_kv, int64_t head_dim,
                                         int64_t head_dim_v, longspan_dtype dtype, int64_t capacity,
                                         longspan_kv_cache** cache) {
  return c::guarded([&] {
    if (cache == nullptr) c::refuse("longspan_kv_cache_create: cache must not be NULL");
    const auto type =
        c::choice<longspan::DType>(dtype, LONGSPAN_BOOL + 1, "longspan_kv_cache_create: dtype");
    *cache = new longspan_kv_cache{
        longspan::KVCache({batch, num_heads_kv, head_dim, head_dim_v}, type, capacity)};
  });
}
void longspan_kv_cache_destroy(longspan_kv_cache* cache) { delete cache; }

longspan_status longspan_kv_cache_append(longspan_kv_cache* cache, const longspan_tensor* key,
                                         const longspan_tensor* value) {
  return c::guarded([&] { c::cache_of(cache).append(c::view(key), c::view(value)); });
}

longspan_status longspan_kv_cache_attend(const longspan_kv_cache* cache,
                                         const longspan_tensor* query,
                                         const longspan_partial* result,
                                         const longspan_attention_options* options,
                                         const longspan_execution* execution) {
  return c::guarded([&] {
    c::cache_of(cache).attend(c::view(query), c::partial(result, "result"), c::options(options),
                              c::execution(execution));
  });
}

longspan_status longspan_kv_cache_truncate(longspan_kv_cache* cache, int64_t length) {
  return c::guarded([&] { c::cache_of(cache).truncate(length); });
}

longspan_status longspan_kv_cache_reorder(longspan_kv_cache* cache, const int64_t* indices,
                                          size_t count) {
  return c::guarded([&] {
    if (count > 0 && indices == nullptr) {
      c::refuse("longspan_kv_cache_reorder: indices is NULL, count is " + std::to_string(count));
    }
    c::cache_of(cache).reorder({indices, count});
  });
}

int64_t longspan_kv_cache_length(const longspan_kv_cache* cache) { return cache->cache.length(); }
int64_t longspan_kv_cache_capacity(const longspan_kv_cache* cache) {
  return cache->cache.capacity();
}
longspan_tensor longspan_kv_cache_key(const longspan_kv_cache* cache) {
  return c::tensor_of(cache->cache.key());
}
longspan_tensor longspan_kv_cache_value(const longspan_kv_cache* cache) {
  return c::tensor_of(cache->cache.value());
}
