// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Checks of inputs and options.
#include "engine/checked_call.h"

#include <charconv>
#include <cmath>
#include <string>

#include "base/broadcast.h"
#include "base/check.h"
#include "base/visit_dtype.h"
#include "kernels/dropout.h"

namespace longspan::engine {
namespace {

using base::require;

std::string quoted(const char* name, const ConstTensorView& view) {
  return std::string(name) + " " + shape_string(view);
}

// The shortest text that reads as x: 1.0000001 is not shown as 1.
std::string number(double x) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof(text), x).ptr};
}

Rows4 check_rows(const std::string& where, const char* name, const char* dim,
                 const ConstTensorView& view, const ConstTensorView& query) {
  const Rows4 rows = base::check_rows(where, name, dim, view);
  require(view.rank == query.rank, [&] {
    return where + "query, key and value must have one rank; query has " +
           std::to_string(query.rank) + ", " + name + " has " + std::to_string(view.rank);
  });
  require(view.dtype == query.dtype, [&] {
    return where + "query, key and value must share one dtype; query has " + name_of(query.dtype) +
           ", " + name + " has " + name_of(view.dtype);
  });
  return rows;
}

void check_agreement(const std::string& where, const ConstTensorView& query,
                     const ConstTensorView& key, const ConstTensorView& value,
                     const CheckedCall& call) {
  const Rows4& k = call.key;
  const Rows4& v = call.value;
  require(k.shape[0] == call.batch && v.shape[0] == call.batch, [&] {
    return where + "query, key and value must have the same batch; found " +
           quoted("query", query) + ", " + quoted("key", key) + ", " + quoted("value", value);
  });
  require(k.shape[1] == v.shape[1], [&] {
    return where + "key and value must have the same seqlen; key has " +
           std::to_string(k.shape[1]) + ", value has " + std::to_string(v.shape[1]);
  });
  require(k.shape[2] == v.shape[2], [&] {
    return where + "key and value must have the same number of heads; key has " +
           std::to_string(k.shape[2]) + ", value has " + std::to_string(v.shape[2]);
  });
  require(call.query.shape[3] == k.shape[3], [&] {
    return where + "query and key must have the same head_dim; query has " +
           std::to_string(call.query.shape[3]) + ", key has " + std::to_string(k.shape[3]);
  });
  const bool divides =
      call.num_heads_kv == 0 ? call.num_heads == 0 : call.num_heads % call.num_heads_kv == 0;
  require(divides, [&] {
    return where + "num_heads must be a multiple of num_heads_kv; query has " +
           std::to_string(call.num_heads) + " heads, key has " + std::to_string(call.num_heads_kv);
  });
}

double check_scale(const std::string& where, const AttentionOptions& options,
                   std::int64_t head_dim) {
  const double scale = options.scale.value_or(1.0 / std::sqrt(static_cast<double>(head_dim)));
  require(std::isfinite(scale),
          [&] { return where + "scale must be finite; found " + number(scale); });
  require(std::isfinite(options.softcap) && options.softcap >= 0, [&] {
    return where + "softcap must be finite and not negative (0 is off); found " +
           number(options.softcap);
  });
  return scale;
}

void check_floating(const std::string& where, const char* name, const ConstTensorView& view) {
  require(is_floating(view.dtype),
          [&] { return where + name + " must be floating; found " + name_of(view.dtype); });
}

BiasSource check_bias(const std::string& where, const ConstTensorView& bias,
                      const CheckedCall& call) {
  if (!is_given(bias)) return {};
  check_floating(where, "bias", bias);
  const base::Broadcast aligned = base::check_broadcast(
      where, "bias", bias, {call.batch, call.num_heads, call.seqlen_q, call.seqlen_k});
  return {bias.data, bias.dtype, aligned.strides};
}

// [num_heads], or [batch, num_heads] where `per_batch` allows it.
HeadSource check_head_numbers(const std::string& where, const char* name,
                              const ConstTensorView& view, const CheckedCall& call,
                              bool per_batch) {
  HeadSource source;
  if (!is_given(view)) return source;
  check_floating(where, name, view);
  const bool by_head = view.rank == 1 && view.shape[0] == call.num_heads;
  const bool by_batch =
      per_batch && view.rank == 2 && view.shape[0] == call.batch && view.shape[1] == call.num_heads;
  require(by_head || by_batch, [&] {
    return where + name + " must have shape [num_heads] = [" + std::to_string(call.num_heads) +
           "]" + (per_batch ? " or [batch, num_heads]" : "") + "; found " + shape_string(view);
  });
  require(view.data != nullptr || element_count(view) == 0,
          [&] { return where + quoted(name, view) + " has no data (null pointer)"; });
  source.data = view.data;
  source.dtype = view.dtype;
  source.strides[0] = by_batch ? view.strides[0] : 0;
  source.strides[1] = view.strides[view.rank - 1];
  return source;
}

DropoutRule check_dropout(const std::string& where, const Dropout& dropout) {
  const double p = dropout.probability;
  require(p >= 0 && p <= 1, [&] {  // false for NaN
    return where + "dropout probability must be between 0 and 1; found " + number(p);
  });
  return {dropout.seed, kernel::dropout_threshold(p), p == 1 ? 0.0 : 1 / (1 - p)};
}

void check_execution(const std::string& where, const Execution& execution) {
  const auto not_negative = [&](const char* name, std::int64_t x) {
    require(x >= 0, [&] {
      return where + name + " must not be negative (0: chosen); found " + std::to_string(x);
    });
  };
  not_negative("threads", execution.threads);
  not_negative("query_chunk", execution.query_chunk);
  not_negative("key_chunk", execution.key_chunk);
}

}  // namespace

CheckedCall check_call(const char* function, const ConstTensorView& query,
                       const ConstTensorView& key, const ConstTensorView& value,
                       const AttentionOptions& options, const Execution& execution) {
  const std::string where = std::string(function) + ": ";
  CheckedCall call;
  call.function = function;
  call.rank = query.rank;
  call.query = check_rows(where, "query", "head_dim", query, query);
  call.key = check_rows(where, "key", "head_dim", key, query);
  call.value = check_rows(where, "value", "head_dim_v", value, query);
  call.batch = call.query.shape[0];
  call.seqlen_q = call.query.shape[1];
  call.num_heads = call.query.shape[2];
  call.seqlen_k = call.key.shape[1];
  call.num_heads_kv = call.key.shape[2];
  call.head_dim = call.query.shape[3];
  call.head_dim_v = call.value.shape[3];
  check_agreement(where, query, key, value, call);
  call.scale = check_scale(where, options, call.head_dim);
  call.bias = check_bias(where, options.bias, call);
  call.alibi_slopes = check_head_numbers(where, "alibi_slopes", options.alibi_slopes, call, true);
  call.sinks = check_head_numbers(where, "sinks", options.sinks, call, false);
  call.dropout = check_dropout(where, options.dropout);
  check_execution(where, execution);
  call.inputs = {{"query", call.query.extent},
                 {"key", call.key.extent},
                 {"value", call.value.extent},
                 {"bias", base::extent_of(options.bias)},
                 {"alibi_slopes", base::extent_of(options.alibi_slopes)},
                 {"sinks", base::extent_of(options.sinks)}};
  for (const MaskTerm& term : options.mask.terms()) {
    if (term.tensor.rank > kMaxRank) continue;  // refused where the mask is bound
    if (is_given(term.tensor)) call.inputs.push_back({"the mask", base::extent_of(term.tensor)});
  }
  return call;
}

}  // namespace longspan::engine
