// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The cache of keys and values.
#include "longspan/kv_cache.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <string>

#include "guarded_cache.h"

namespace longspan::python {

DType dtype_of_name(const char* cache, const std::string& name) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    if (name == name_of(dtype)) return dtype;
  }
  throw nb::type_error(
      (std::string(cache) + ": dtype must be float32, float64, float16 or bfloat16; found " + name)
          .c_str());
}

namespace {

class Cache : public GuardedCache<KVCache> {
 public:
  using GuardedCache::GuardedCache;

  void append(nb::handle key, nb::handle value, const CallOptions& layout) {
    const Array keys(key, "key", Numbers::kFloating), values(value, "value", Numbers::kFloating);
    const ConstTensorView rows = layout.arranged(keys.view());
    const ConstTensorView value_rows = layout.arranged(values.view());
    work_on({rows.dtype, value_rows.dtype, cache_.dtype()}, [&] {
      const nb::gil_scoped_release release;
      const std::unique_lock lock(mutex_);
      cache_.append(rows, value_rows);
    });
  }

  nb::object attend(nb::handle query, const CallOptions& options, nb::handle lse,
                    nb::handle out) const {
    return attend_in_order(query, options, lse, out, PairOrder::kTiles, /*keys=*/INT64_MAX);
  }
};

}  // namespace

void bind_kv_cache(nb::module_& module) {
  nb::class_<Cache> cache(module, "KVCache");
  cache.def("__init__", [](Cache* self, std::int64_t num_heads_kv, std::int64_t head_dim,
                           std::int64_t head_dim_v, const std::string& dtype, std::int64_t batch,
                           std::int64_t capacity) {
    new (self) Cache(KVCacheShape{batch, num_heads_kv, head_dim, head_dim_v},
                     dtype_of_name("KVCache", dtype), capacity);
  });
  Cache::bind(cache);
}

}  // namespace longspan::python
