// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The cache of hashed keys.
#include "longspan/lsh_cache.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <string>
#include <vector>

#include "guarded_cache.h"
#include "lsh_call_options.h"

namespace longspan::python {
namespace {

class HashedCache : public GuardedCache<LshCache> {
 public:
  using GuardedCache::GuardedCache;

  // A long prompt is hashed for a while.
  void append(nb::handle key, nb::handle value, const CallOptions& options) {
    const Array keys(key, "key", Numbers::kFloating), values(value, "value", Numbers::kFloating);
    const ConstTensorView rows = options.arranged(keys.view());
    const ConstTensorView value_rows = options.arranged(values.view());
    const auto lock = locked<std::unique_lock<std::shared_mutex>>();
    double columns = 0;
    for (const std::int64_t factor : cache_.options().num_buckets) {
      columns += static_cast<double>(factor) / 2;
    }
    const double products = static_cast<double>(element_count(rows)) * columns *
                            static_cast<double>(cache_.options().num_hashes);
    work_on({rows.dtype, value_rows.dtype, cache_.dtype()}, [&] {
      run(products, options.execution(),
          [&](const Execution& execution) { cache_.append(rows, value_rows, execution); });
    });
  }

  nb::object attend(nb::handle query, const CallOptions& options, nb::handle lse,
                    nb::handle out) const {
    const LshOptions& lsh = cache_.options();
    const double window = static_cast<double>(lsh.chunk_len) *
                          static_cast<double>(lsh.chunks_before + 1 + lsh.chunks_after);
    const bool small = !lsh.whole_buckets && !lsh.local_window && window < 1e6;
    const std::int64_t keys =
        small ? lsh.num_hashes * static_cast<std::int64_t>(window) : INT64_MAX;
    return attend_in_order(query, options, lse, out, PairOrder::kColumns, keys);
  }

  std::vector<std::int64_t> num_buckets() const { return cache_.options().num_buckets; }
  bool shared() const noexcept { return cache_.query_key() == QueryKey::kShared; }
};

}  // namespace

void bind_lsh_cache(nb::module_& module) {
  nb::class_<HashedCache> cache(module, "LshCache");
  cache.def("__init__", [](HashedCache* self, std::int64_t num_heads_kv, std::int64_t head_dim,
                           std::int64_t head_dim_v, const std::string& dtype, std::int64_t batch,
                           std::int64_t capacity, bool shared, const LshCallOptions& options) {
    new (self) HashedCache(KVCacheShape{batch, num_heads_kv, head_dim, head_dim_v},
                           dtype_of_name("LshCache", dtype),
                           shared ? QueryKey::kShared : QueryKey::kSeparate, options.lsh, capacity);
  });
  HashedCache::bind(cache);
  cache.def_prop_ro("num_buckets", &HashedCache::num_buckets)
      .def_prop_ro("shared", &HashedCache::shared);
}

}  // namespace longspan::python
