// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Validation of an attention call, once, at the public entry: behind it shapes agree, every pointer
// is there and every number is finite.
#pragma once

#include <cstdint>
#include <vector>

#include "base/extent.h"
#include "base/rows4.h"
#include "engine/forward_call.h"
#include "longspan/attention.h"

namespace longspan::engine {

using base::Rows4;

struct NamedExtent {
  const char* name;
  base::Extent extent;
};

struct CheckedCall {
  const char* function = "";  // that was called; named in errors
  int rank = 4;               // of query, key and value
  Rows4 query;
  Rows4 key;
  Rows4 value;
  std::int64_t batch = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_heads_kv = 0;
  std::int64_t seqlen_q = 0;
  std::int64_t seqlen_k = 0;
  std::int64_t head_dim = 0;
  std::int64_t head_dim_v = 0;
  double scale = 1;
  BiasSource bias;
  HeadSource alibi_slopes;
  HeadSource sinks;
  DropoutRule dropout;
  std::vector<NamedExtent> inputs;  // those of the options, too: results must not overlap them
};

// Throws Error(kInvalidArgument): one line, `function`, what, expected, found.
CheckedCall check_call(const char* function, const ConstTensorView& query,
                       const ConstTensorView& key, const ConstTensorView& value,
                       const AttentionOptions& options, const Execution& execution);

}  // namespace longspan::engine
