// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Hashed attention: its options, the call, its gradients, its diagnosis.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <string>
#include <utility>

#include "calls.h"
#include "hashing.h"
#include "longspan/lsh_attention.h"
#include "longspan/lsh_diagnostics.h"
#include "longspan/lsh_names.h"
#include "lsh_call_options.h"

namespace longspan::python {
namespace {

// [batch, num_heads, num_hashes, seqlen], without what the vectors lack.
Result new_buckets(const ConstTensorView& vectors, std::int64_t num_hashes) {
  const auto& x = vectors.shape;
  Extents shape{num_hashes, x[0]};
  if (vectors.rank == 3) shape = {x[1], num_hashes, x[0]};
  if (vectors.rank == 4) shape = {x[0], x[2], num_hashes, x[1]};
  return Result(NewArray({shape.data(), static_cast<std::size_t>(vectors.rank)}, DType::kInt32));
}

// Buckets made before the call, so that they are made once and can be returned: in new arrays, or
// in those of `into`, an array or a pair for query and key.
class HashedBuckets {
 public:
  HashedBuckets(const Inputs& in, const LshOptions& options, nb::handle into)
      : shared_(!is_given(in.key)) {
    if (into.is_none()) {
      query_ = new_buckets(in.query, options.num_hashes);
      if (!shared_) key_ = new_buckets(in.key, options.num_hashes);
    } else if (shared_) {
      query_ = Result(into, "buckets");
    } else {
      query_ = Result(into[0], "query_buckets");
      key_ = Result(into[1], "key_buckets");
    }
  }

  void hash(const Inputs& in, LshOptions& options, const Mask& mask,
            const Execution& execution) const {
    hash_into(in.query, in.key, query_.array.output_view(), key_.array.output_view(), options, mask,
              execution);
  }

  nb::object take(nb::handle like) const {
    nb::object query = query_.take(like);
    return shared_ ? query : nb::make_tuple(query, key_.take(like));
  }

 private:
  Result query_, key_;
  bool shared_;
};

nb::object hashed(nb::handle query, nb::handle key, nb::handle value, const LshCallOptions& given,
                  const CallOptions& options, nb::handle lse, bool return_buckets, nb::handle out,
                  nb::handle into) {
  const Inputs in(query, key, value, options, NoKey::kQuery);
  const Outputs outputs(in.query_array.view(), in.value_array.view(), options, lse, out);
  const AttentionOptions bound =
      options.bound(in.query, is_given(in.key) ? in.key : in.query, PairOrder::kColumns);
  LshOptions hashing = given.lsh;
  std::optional<HashedBuckets> buckets;
  if (return_buckets) buckets.emplace(in, hashing, into);
  in.run(options, [&](const Execution& execution) {
    if (buckets) buckets->hash(in, hashing, bound.mask, execution);
    lsh_attention(in.query, in.key, in.value, outputs.partial(), hashing, bound, execution);
  });
  return outputs.take(query, buckets ? buckets->take(query) : nb::object());
}

nb::tuple hashed_backward(nb::handle doutput, nb::handle query, nb::handle key, nb::handle value,
                          nb::handle output, nb::handle lse, nb::handle dlse,
                          const LshCallOptions& given, const CallOptions& options,
                          nb::handle into) {
  const Inputs in(query, key, value, options, NoKey::kQuery);
  const BackwardInputs backward(doutput, output, lse, dlse, options);
  const GradientOutputs gradients(in, options, into);
  const AttentionOptions bound =
      options.bound(in.query, is_given(in.key) ? in.key : in.query, PairOrder::kColumns);
  in.run(options, [&](const Execution& execution) {
    lsh_attention_backward(in.query, in.key, in.value, backward.result, backward.dresult,
                           gradients.views(), given.lsh, bound, execution);
  });
  return gradients.take(query);
}

nb::object object_of(std::int64_t number) { return nb::int_(number); }
nb::object object_of(double number) { return nb::float_(number); }
template <class T>
nb::object object_of(const std::vector<T>& values);

template <class T>
nb::object object_of(const T& fields) {
  nb::dict dict;
  visit_fields(fields, [&](const char* name, const auto& value) { dict[name] = object_of(value); });
  return dict;
}

template <class T>
nb::object object_of(const std::vector<T>& values) {
  nb::list list;
  for (const T& value : values) list.append(object_of(value));
  return list;
}

nb::object diagnosed(nb::handle query, nb::handle key, nb::handle value, std::int64_t samples,
                     const LshCallOptions& given, const CallOptions& options) {
  if (samples < 1) {
    throw nb::value_error(
        ("diagnose_lsh: samples must be at least 1; found " + std::to_string(samples)).c_str());
  }
  const Inputs in(query, key, value, options, NoKey::kQuery);
  const Outputs outputs(in.query_array.view(), in.value_array.view(), options,
                        /*lse=*/nb::bool_(false), nb::none());
  const AttentionOptions bound =
      options.bound(in.query, is_given(in.key) ? in.key : in.query, PairOrder::kColumns);
  LshDiagnostics found;
  in.run(options, [&](const Execution& execution) {
    lsh_attention(in.query, in.key, in.value, outputs.partial(), given.lsh, bound, execution);
    found = diagnose_lsh(in.query, in.key, in.value, outputs.partial().output, given.lsh, bound,
                         execution, samples);
  });
  return object_of(found);
}

}  // namespace

void bind_lsh(nb::module_& module) {
  using nb::arg;
  nb::class_<LshCallOptions>(module, "LshOptions")
      .def(nb::init<std::int64_t, std::vector<std::int64_t>, std::int64_t, std::int64_t,
                    std::int64_t, const OptionalName&, const OptionalName&, const OptionalName&,
                    const OptionalName&, bool, std::optional<std::array<std::int64_t, 2>>,
                    std::uint64_t, nb::handle, nb::handle, nb::handle>(),
           arg("num_hashes"), arg("num_buckets"), arg("chunk_len"), arg("chunks_before"),
           arg("chunks_after"), arg("dedup").none(), arg("wrap").none(), arg("key_norm").none(),
           arg("preset").none(), arg("whole_buckets"), arg("local_window").none(), arg("seed"),
           arg("rotations").none(), arg("query_buckets").none(), arg("key_buckets").none());
  module.def("lsh_attention", hashed, tensor(), tensor(), tensor(), arg(), arg(), arg(), arg(),
             tensor() = nb::none(), arg().none() = nb::none());
  module.def("diagnose_lsh", diagnosed, tensor(), tensor(), tensor(), arg(), arg(), arg());
  module.def("lsh_attention_backward", hashed_backward, tensor(), tensor(), tensor(), tensor(),
             tensor(), tensor(), tensor(), arg(), arg(), arg().none() = nb::none());
}

}  // namespace longspan::python
