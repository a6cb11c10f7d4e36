// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Structs are read as far as their caller knows them.
#include "c_api/conversions.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace longspan::c_api {
namespace {

// Enumerators are passed on by their numbers.
template <class C, class Cpp>
constexpr bool same(C c, Cpp cpp) {
  return static_cast<int>(c) == static_cast<int>(cpp);
}
static_assert(same(LONGSPAN_FLOAT32, DType::kFloat32) && same(LONGSPAN_FLOAT64, DType::kFloat64) &&
              same(LONGSPAN_FLOAT16, DType::kFloat16) &&
              same(LONGSPAN_BFLOAT16, DType::kBFloat16) && same(LONGSPAN_INT32, DType::kInt32) &&
              same(LONGSPAN_INT64, DType::kInt64) && same(LONGSPAN_BOOL, DType::kBool));
static_assert(same(LONGSPAN_OFFSET_UNSET, QueryOffset::Kind::kUnset) &&
              same(LONGSPAN_OFFSET_NUMBER, QueryOffset::Kind::kNumber) &&
              same(LONGSPAN_OFFSET_END, QueryOffset::Kind::kEnd) &&
              same(LONGSPAN_OFFSET_PER_BATCH, QueryOffset::Kind::kPerBatch));
static_assert(same(LONGSPAN_CAUSAL, MaskKind::kCausal) &&
              same(LONGSPAN_WINDOW, MaskKind::kWindow) &&
              same(LONGSPAN_KEY_LENGTHS, MaskKind::kKeyLengths) &&
              same(LONGSPAN_DOCUMENTS, MaskKind::kDocuments) &&
              same(LONGSPAN_PREFIX, MaskKind::kPrefix) &&
              same(LONGSPAN_KEY_RANGE, MaskKind::kKeyRange) &&
              same(LONGSPAN_DENSE, MaskKind::kDense) &&
              same(LONGSPAN_PREDICATE, MaskKind::kPredicate));
static_assert(same(LONGSPAN_DEDUP_EXACT, Dedup::kExact) &&
              same(LONGSPAN_DEDUP_LOG_COUNT, Dedup::kLogCount) &&
              same(LONGSPAN_DEDUP_NONE, Dedup::kNone) && same(LONGSPAN_WRAP_NONE, Wrap::kNone) &&
              same(LONGSPAN_WRAP_ROUND, Wrap::kRound) && same(LONGSPAN_WRAP_ALL, Wrap::kAll) &&
              same(LONGSPAN_NORM_RMS, KeyNorm::kRms) && same(LONGSPAN_NORM_L2, KeyNorm::kL2) &&
              same(LONGSPAN_SELF_ADDED, SelfRule::kAdded) &&
              same(LONGSPAN_SELF_ASSIGNED, SelfRule::kAssigned));

struct LastError {
  std::string message;
  std::string hint;
};
thread_local LastError last;

void check_size(std::size_t found, std::size_t expected, const char* name) {
  if (found >= sizeof(std::size_t) && found <= 16 * expected) return;
  refuse(std::string(name) + ": struct_size must be sizeof(" + name + ") = " +
         std::to_string(expected) + " or that of another version; found " + std::to_string(found));
}

// A struct as its caller knows it, the rest by default.
template <class Struct>
Struct read(const Struct* given, const char* name, Struct defaults) {
  if (given == nullptr) return defaults;
  const std::size_t size = given->struct_size;
  check_size(size, sizeof(Struct), name);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t at = sizeof(Struct); at < size; ++at) {
    if (bytes[at] != 0) {
      refuse(std::string(name) + ": has an option that this version of longspan does not know (" +
             std::to_string(size) + " bytes for " + std::to_string(sizeof(Struct)) + ")");
    }
  }
  std::memcpy(static_cast<void*>(&defaults), given, std::min(size, sizeof(Struct)));
  return defaults;
}

// AttentionPlan or LshPlan.
template <class Plan>
void write_any_plan(const Plan& from, longspan_plan* into) {
  if (into == nullptr) refuse("longspan_plan: must not be NULL");
  check_size(into->struct_size, sizeof(longspan_plan), "longspan_plan");
  longspan_plan plan{};
  plan.struct_size = into->struct_size;
  std::snprintf(plan.kernel, sizeof(plan.kernel), "%s", from.kernel.c_str());
  plan.threads = from.threads;
  plan.tasks = from.tasks;
  plan.workspace_bytes = from.workspace_bytes;
  plan.flop = from.flop;
  std::memcpy(static_cast<void*>(into), &plan, std::min(plan.struct_size, sizeof(plan)));
}

}  // namespace

const std::string& last_error() noexcept { return last.message; }
const std::string& last_hint() noexcept { return last.hint; }

longspan_status fail(longspan_status status, const char* message, const char* hint) noexcept {
  try {
    last.message = message;
    last.hint = hint;
  } catch (...) {  // no memory for words
    last.message.clear();
    last.hint.clear();
  }
  return status;
}

longspan_status status_of(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return LONGSPAN_INVALID_ARGUMENT;
    case ErrorCode::kUnsupported:
      return LONGSPAN_UNSUPPORTED;
    case ErrorCode::kOutOfMemory:
      return LONGSPAN_OUT_OF_MEMORY;
    case ErrorCode::kCancelled:
      return LONGSPAN_CANCELLED;
    case ErrorCode::kFile:
      return LONGSPAN_FILE;
    case ErrorCode::kInternal:
      break;
  }
  return LONGSPAN_INTERNAL;
}

[[noreturn]] void refuse(const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, message);
}

TensorView view(const longspan_tensor& tensor) {
  TensorView result;
  result.data = tensor.data;
  result.dtype = choice<DType>(tensor.dtype, LONGSPAN_BOOL + 1, "longspan_tensor: dtype");
  result.rank = choice<int>(tensor.rank, LONGSPAN_MAX_RANK + 1, "longspan_tensor: rank");
  std::copy_n(tensor.shape, LONGSPAN_MAX_RANK, result.shape.begin());
  std::copy_n(tensor.strides, LONGSPAN_MAX_RANK, result.strides.begin());
  return result;
}
TensorView view(const longspan_tensor* tensor) {
  return tensor == nullptr ? TensorView{} : view(*tensor);
}

longspan_tensor tensor_of(const ConstTensorView& from) noexcept {
  longspan_tensor tensor{};
  tensor.data = const_cast<void*>(from.data);
  tensor.dtype = static_cast<std::int32_t>(from.dtype);
  tensor.rank = from.rank;
  std::copy(from.shape.begin(), from.shape.end(), tensor.shape);
  std::copy(from.strides.begin(), from.strides.end(), tensor.strides);
  return tensor;
}

Partial partial(const longspan_partial* given, const char* name) {
  if (given == nullptr) refuse(std::string(name) + ": must not be NULL");
  return {view(given->output), view(given->lse)};
}

namespace {

QueryOffset offset(const longspan_query_offset& given) {
  QueryOffset result;
  result.kind = choice<QueryOffset::Kind>(given.kind, LONGSPAN_OFFSET_PER_BATCH + 1,
                                          "longspan_query_offset: kind");
  result.number = given.number;
  result.per_batch = view(given.per_batch);
  return result;
}

Mask mask_term(const longspan_mask_term& given) {
  MaskTerm term;
  term.kind = choice<MaskKind>(given.kind, LONGSPAN_PREDICATE + 1, "longspan_mask_term: kind");
  term.integers = {given.integers[0], given.integers[1]};
  term.tensor = view(given.tensor);
  term.tensor_k = view(given.tensor_k);
  term.query_offset = offset(given.query_offset);
  if (term.kind == MaskKind::kPredicate) {
    if (given.predicate == nullptr) refuse("longspan_mask_term: predicate must not be NULL");
    term.predicate = [may_see = given.predicate, context = given.context](
                         std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) {
      return may_see(context, b, h, i, j) != 0;
    };
  }
  return Mask(term);
}

}  // namespace

longspan_mask_term default_mask_term() noexcept {
  longspan_mask_term term{};
  term.struct_size = sizeof(term);
  return term;
}

longspan_attention_options default_attention_options() noexcept {
  longspan_attention_options options{};
  options.struct_size = sizeof(options);
  return options;
}

AttentionOptions options(const longspan_attention_options* pointer) {
  const longspan_attention_options given =
      read(pointer, "longspan_attention_options", default_attention_options());
  AttentionOptions result;
  if (given.has_scale != 0) result.scale = given.scale;
  result.softcap = given.softcap;
  result.query_offset = offset(given.query_offset);
  if (given.mask_term_count > 0 && given.mask_terms == nullptr) {
    refuse("longspan_attention_options: mask_terms is NULL, mask_term_count is " +
           std::to_string(given.mask_term_count));
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(given.mask_terms);
  for (std::size_t n = 0; n < given.mask_term_count; ++n) {
    const auto* term =
        reinterpret_cast<const longspan_mask_term*>(bytes + n * given.mask_terms->struct_size);
    result.mask = result.mask & mask_term(read(term, "longspan_mask_term", default_mask_term()));
  }
  result.bias = view(given.bias);
  result.alibi_slopes = view(given.alibi_slopes);
  result.sinks = view(given.sinks);
  result.dropout = {given.dropout_probability, given.dropout_seed};
  return result;
}

longspan_lsh_options default_lsh_options(longspan_lsh_preset preset) {
  const LshOptions from = preset == LONGSPAN_PRESET_HF_REFORMER  ? hf_reformer()
                          : preset == LONGSPAN_PRESET_LUCIDRAINS ? lucidrains()
                          : preset == LONGSPAN_PRESET_LAB        ? lab()
                                                                 : LshOptions{};
  longspan_lsh_options options{};
  options.struct_size = sizeof(options);
  options.num_hashes = from.num_hashes;
  options.chunk_len = from.chunk_len;
  options.chunks_before = from.chunks_before;
  options.chunks_after = from.chunks_after;
  options.dedup = static_cast<std::int32_t>(from.dedup);
  options.wrap = static_cast<std::int32_t>(from.wrap);
  options.key_norm = static_cast<std::int32_t>(from.key_norm);
  options.self_rule = static_cast<std::int32_t>(from.self_rule);
  options.self_score = from.self_score;
  options.self_overrides_padding = from.self_overrides_padding ? 1 : 0;
  return options;
}

LshOptions lsh_options(const longspan_lsh_options* pointer) {
  const longspan_lsh_options given =
      read(pointer, "longspan_lsh_options", default_lsh_options(LONGSPAN_PRESET_NONE));
  LshOptions result;
  result.num_hashes = given.num_hashes;
  if (given.num_bucket_factors > 0 && given.num_buckets == nullptr) {
    refuse("longspan_lsh_options: num_buckets is NULL, num_bucket_factors is " +
           std::to_string(given.num_bucket_factors));
  }
  result.num_buckets.assign(given.num_buckets, given.num_buckets + given.num_bucket_factors);
  result.chunk_len = given.chunk_len;
  result.chunks_before = given.chunks_before;
  result.chunks_after = given.chunks_after;
  result.dedup = choice<Dedup>(given.dedup, 3, "longspan_lsh_options: dedup");
  result.wrap = choice<Wrap>(given.wrap, 3, "longspan_lsh_options: wrap");
  result.key_norm = choice<KeyNorm>(given.key_norm, 2, "longspan_lsh_options: key_norm");
  result.self_rule = choice<SelfRule>(given.self_rule, 2, "longspan_lsh_options: self_rule");
  result.self_score = given.self_score;
  result.self_overrides_padding = given.self_overrides_padding != 0;
  result.whole_buckets = given.whole_buckets != 0;
  result.seed = given.seed;
  if (given.has_local_window != 0) {
    result.local_window = {given.local_window[0], given.local_window[1]};
  }
  result.rotations = view(given.rotations);
  result.buckets = view(given.buckets);
  result.query_buckets = view(given.query_buckets);
  result.key_buckets = view(given.key_buckets);
  return result;
}

longspan_execution default_execution() noexcept {
  longspan_execution execution{};
  execution.struct_size = sizeof(execution);
  return execution;
}

Execution execution(const longspan_execution* pointer) {
  const longspan_execution given = read(pointer, "longspan_execution", default_execution());
  Execution result;
  result.threads = given.threads;
  result.memory_limit = given.memory_limit;
  result.query_chunk = given.query_chunk;
  result.key_chunk = given.key_chunk;
  if (given.kernel != nullptr) result.kernel = given.kernel;
  if (given.stop != nullptr) result.stop = given.stop->source.get_token();
  return result;
}

longspan_gradients default_gradients() noexcept {
  longspan_gradients gradients{};
  gradients.struct_size = sizeof(gradients);
  return gradients;
}

Gradients gradients(const longspan_gradients* pointer) {
  const longspan_gradients given = read(pointer, "longspan_gradients", default_gradients());
  return {view(given.query), view(given.key), view(given.value), view(given.bias),
          view(given.sinks)};
}

void write_plan(const AttentionPlan& from, longspan_plan* into) { write_any_plan(from, into); }
void write_plan(const LshPlan& from, longspan_plan* into) { write_any_plan(from, into); }

}  // namespace longspan::c_api
