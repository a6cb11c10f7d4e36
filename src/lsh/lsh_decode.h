// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Queries at the end of a cache of hashed keys: each meets the list of keys that its windows hold,
// gathered from the rows of the cache.
#pragma once

#include "longspan/lsh_attention.h"
#include "lsh/hashed_keys.h"

namespace longspan::lsh {

struct CachedKeys {
  ConstTensorView key;  // raw
  ConstTensorView value;
  Vectors vectors;
};

// Errors begin with "lsh_cache: attend".
template <class T>
void attend_cached(const ConstTensorView& query, const CachedKeys& cache,
                   const HashedKeys<T>& hashed, const Partial& result, const LshOptions& options,
                   const AttentionOptions& attention, const Execution& execution);

}  // namespace longspan::lsh
