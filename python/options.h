// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Masks and the options of a call, made from objects of Python and alive as long as their arrays.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "array.h"
#include "longspan/attention.h"

namespace longspan::python {

// Arrays that something refers to by views.
using KeptArrays = std::vector<std::shared_ptr<const Array>>;

// The view of an array that is kept from now on.
ConstTensorView keep(KeptArrays& kept, nb::handle object, const char* name, Numbers numbers);

// How pairs come to a predicate: all (query, key) of a tile of a head in exact attention, one key
// and any queries in hashed attention.
enum class PairOrder : std::uint8_t { kTiles, kColumns };

// The options that all calls share.
class CallOptions {
 public:
  // `mask`: None, or (numbers, arrays, predicates). `query_offset`: None, or (kind, number,
  // arrays).
  CallOptions(nb::handle mask, nb::handle bias, std::optional<double> scale, double softcap,
              nb::handle alibi_slopes, nb::handle sinks, double dropout_p, std::uint64_t seed,
              nb::handle query_offset, std::optional<std::int64_t> query_chunk,
              std::optional<std::int64_t> key_chunk, bool heads_first, int threads);

  // [..., num_heads, seqlen, dim] as [..., seqlen, num_heads, dim], when the layout says so.
  template <class View>
  View arranged(View view) const {
    return heads_first_ && view.rank >= 3 ? transpose(view, view.rank - 3, view.rank - 2) : view;
  }

  // With the predicates of the mask as a term over tiles of a call of these (arranged) tensors.
  AttentionOptions bound(const ConstTensorView& query, const ConstTensorView& key,
                         PairOrder order) const;

  const AttentionOptions& attention() const noexcept { return options_; }
  const Execution& execution() const noexcept { return execution_; }
  void set_kernel(const std::string& name) { execution_.kernel = name; }

 private:
  AttentionOptions options_;
  Execution execution_;
  bool heads_first_ = false;
  KeptArrays kept_;
  // Not terms yet: they see tiles, whose size depends on the call.
  std::vector<nb::object> predicates_;
};

void bind_options(nb::module_& module);

}  // namespace longspan::python
