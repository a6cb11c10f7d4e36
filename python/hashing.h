// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The options of hashing from numbers and words, and buckets that are kept.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "longspan/lsh_attention.h"

namespace longspan::python {

using OptionalName = std::optional<std::string>;

// As the signature of lsh_attention() in Python has them; a name that is not given leaves the
// choice to the preset.
struct Hashing {
  std::int64_t num_hashes = 4;
  std::vector<std::int64_t> num_buckets;
  std::int64_t chunk_len = 64;
  std::int64_t chunks_before = 1;
  std::int64_t chunks_after = 0;
  OptionalName dedup, wrap, key_norm, preset;
  bool whole_buckets = false;
  std::optional<std::array<std::int64_t, 2>> local_window;
};
LshOptions decode_hashing(const Hashing& hashing);

// Makes the buckets of a call, which from then on are those that `options` give. An absent key: the
// query is both, and key_buckets is absent, too.
void hash_into(const ConstTensorView& query, const ConstTensorView& key, TensorView query_buckets,
               TensorView key_buckets, LshOptions& options, const Mask& mask,
               const Execution& execution);

}  // namespace longspan::python
