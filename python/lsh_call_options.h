// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The options of hashing, made from objects of Python and alive as long as their arrays.
#pragma once

#include <nanobind/nanobind.h>

#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "hashing.h"
#include "options.h"

namespace longspan::python {

// The options of hashing; arrays are those of the caller.
class LshCallOptions {
 public:
  // NOLINTNEXTLINE(readability-function-size): the arguments of the call, in their order
  LshCallOptions(std::int64_t num_hashes, std::vector<std::int64_t> num_buckets,
                 std::int64_t chunk_len, std::int64_t chunks_before, std::int64_t chunks_after,
                 const OptionalName& dedup, const OptionalName& wrap, const OptionalName& key_norm,
                 const OptionalName& preset, bool whole_buckets,
                 std::optional<std::array<std::int64_t, 2>> local_window, std::uint64_t seed,
                 nb::handle rotations, nb::handle query_buckets, nb::handle key_buckets) {
    lsh =
        decode_hashing({num_hashes, std::move(num_buckets), chunk_len, chunks_before, chunks_after,
                        dedup, wrap, key_norm, preset, whole_buckets, local_window});
    lsh.seed = seed;
    lsh.rotations = keep(kept_, rotations, "rotations", Numbers::kFloating);
    if (lsh.num_buckets.empty() && lsh.rotations.rank == 4) {
      lsh.num_buckets = {2 * lsh.rotations.shape[3]};
    }
    if (key_buckets.is_none()) {  // one tensor is query and key
      lsh.buckets = keep(kept_, query_buckets, "buckets", Numbers::kInteger);
    } else {
      lsh.query_buckets = keep(kept_, query_buckets, "query_buckets", Numbers::kInteger);
      lsh.key_buckets = keep(kept_, key_buckets, "key_buckets", Numbers::kInteger);
    }
  }

  LshOptions lsh;

 private:
  KeptArrays kept_;
};

}  // namespace longspan::python
