// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The cache of keys and values. Calls without the GIL may meet in it: readers share it.
#include "longspan/kv_cache.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "calls.h"
#include "run.h"

namespace longspan::python {
namespace {

DType dtype_of_name(const std::string& name) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    if (name == name_of(dtype)) return dtype;
  }
  throw nb::type_error(
      ("KVCache: dtype must be float32, float64, float16 or bfloat16; found " + name).c_str());
}

class Cache {
 public:
  Cache(const KVCacheShape& shape, const std::string& dtype, std::int64_t capacity)
      : cache_(shape, dtype_of_name(dtype), capacity) {}

  void append(nb::handle key, nb::handle value, const CallOptions& layout) {
    const Array keys(key, "key", Numbers::kFloating), values(value, "value", Numbers::kFloating);
    const nb::gil_scoped_release release;
    const std::unique_lock lock(mutex_);
    cache_.append(layout.arranged(keys.view()), layout.arranged(values.view()));
  }

  nb::object attend(nb::handle query, const CallOptions& options, nb::handle lse,
                    nb::handle out) const {
    const Array array(query, "query", Numbers::kFloating);
    const ConstTensorView rows = options.arranged(array.view());
    // In the order in which keys are not taken, so that nobody who waits for one holds the other.
    std::shared_lock lock(mutex_, std::defer_lock);
    {
      const nb::gil_scoped_release release;
      lock.lock();
    }
    const Outputs outputs(array.view(), cache_.value(), options, lse, out);
    const AttentionOptions bound = options.bound(rows, cache_.key(), PairOrder::kTiles);
    run(products(rows, cache_.key()), options.execution(), [&](const Execution& execution) {
      cache_.attend(rows, outputs.partial(), bound, execution);
    });
    return outputs.take(query);
  }

  void truncate(std::int64_t length) {
    const nb::gil_scoped_release release;
    const std::unique_lock lock(mutex_);
    cache_.truncate(length);
  }

  void reorder(const std::vector<std::int64_t>& indices) {
    const nb::gil_scoped_release release;
    const std::unique_lock lock(mutex_);
    cache_.reorder(indices);
  }

  // batch, num_heads_kv, head_dim, head_dim_v, length, capacity, bytes
  std::array<std::int64_t, 7> numbers() const {
    const nb::gil_scoped_release release;
    const std::shared_lock lock(mutex_);
    const KVCacheShape& shape = cache_.shape();
    return {shape.batch,
            shape.num_heads_kv,
            shape.head_dim,
            shape.head_dim_v,
            cache_.length(),
            cache_.capacity(),
            static_cast<std::int64_t>(cache_.bytes())};
  }

  const char* dtype() const noexcept { return name_of(cache_.dtype()); }

 private:
  KVCache cache_;
  mutable std::shared_mutex mutex_;
};

template <int kAt>
std::int64_t number(const Cache& cache) {
  return cache.numbers()[kAt];
}

}  // namespace

void bind_kv_cache(nb::module_& module) {
  using nb::arg;
  nb::class_<Cache>(module, "KVCache")
      .def(
          "__init__",
          [](Cache* self, std::int64_t num_heads_kv, std::int64_t head_dim, std::int64_t head_dim_v,
             const std::string& dtype, std::int64_t batch, std::int64_t capacity) {
            new (self) Cache({batch, num_heads_kv, head_dim, head_dim_v}, dtype, capacity);
          })
      .def("append", &Cache::append)
      .def("attend", &Cache::attend, arg(), arg(), arg(), arg().none())
      .def("truncate", &Cache::truncate)
      .def("reorder", &Cache::reorder)
      .def_prop_ro("batch", number<0>)
      .def_prop_ro("num_heads_kv", number<1>)
      .def_prop_ro("head_dim", number<2>)
      .def_prop_ro("head_dim_v", number<3>)
      .def_prop_ro("length", number<4>)
      .def_prop_ro("capacity", number<5>)
      .def_prop_ro("nbytes", number<6>)
      .def_prop_ro("dtype", &Cache::dtype);
}

}  // namespace longspan::python
