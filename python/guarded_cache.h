// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What the caches of Python have in common. Calls without the GIL may meet in one: readers share
// it.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "calls.h"
#include "longspan/kv_cache.h"
#include "run.h"

namespace longspan::python {

// A dtype that a cache can hold; a TypeError in the name of `cache` otherwise.
DType dtype_of_name(const char* cache, const std::string& name);

template <class C>
class GuardedCache {
 public:
  template <class... Arguments>
  explicit GuardedCache(const Arguments&... arguments) : cache_(arguments...) {}

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
  template <int kAt>
  std::int64_t number() const {
    return numbers()[kAt];
  }

  const char* dtype() const noexcept { return name_of(cache_.dtype()); }

  template <class Class>
  static void bind(nb::class_<Class>& of) {
    using nb::arg;
    of.def("append", &Class::append, tensor(), tensor(), arg())
        .def("attend", &Class::attend, tensor(), arg(), arg(), tensor())
        .def("truncate", &Class::truncate)
        .def("reorder", &Class::reorder)
        .def_prop_ro("batch", &Class::template number<0>)
        .def_prop_ro("num_heads_kv", &Class::template number<1>)
        .def_prop_ro("head_dim", &Class::template number<2>)
        .def_prop_ro("head_dim_v", &Class::template number<3>)
        .def_prop_ro("length", &Class::template number<4>)
        .def_prop_ro("capacity", &Class::template number<5>)
        .def_prop_ro("nbytes", &Class::template number<6>)
        .def_prop_ro("dtype", &Class::dtype);
  }

 protected:
  // Waits without the GIL: who holds the lock may need it.
  template <class Lock>
  Lock locked() const {
    const nb::gil_scoped_release release;
    return Lock(mutex_);
  }

  // `keys`: about how many each query meets.
  nb::object attend_in_order(nb::handle query, const CallOptions& options, nb::handle lse,
                             nb::handle out, PairOrder order, std::int64_t keys) const {
    const Array array(query, "query", Numbers::kFloating);
    const ConstTensorView rows = options.arranged(array.view());
    const auto lock = locked<std::shared_lock<std::shared_mutex>>();
    const Outputs outputs(array.view(), cache_.value(), options, lse, out);
    const AttentionOptions bound = options.bound(rows, cache_.key(), order);
    ConstTensorView met = cache_.key();
    met.shape[1] = std::min(met.shape[1], keys);
    work_on({rows.dtype, cache_.dtype()}, [&] {
      run(products(rows, met), options.execution(), [&](const Execution& execution) {
        cache_.attend(rows, outputs.partial(), bound, execution);
      });
    });
    return outputs.take(query);
  }

  C cache_;
  mutable std::shared_mutex mutex_;
};

}  // namespace longspan::python
