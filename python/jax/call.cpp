// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// From names to the library's calls.
#include "call.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "../hashing.h"
#include "../mask_terms.h"

namespace longspan::python {
namespace {

void require(const ConstTensorView& view, const char* name, Numbers numbers) {
  if (!is_given(view)) return;
  const DType dtype = view.dtype;
  const bool good = numbers == Numbers::kFloating ? is_floating(dtype)
                    : numbers == Numbers::kBool   ? dtype == DType::kBool
                                                : dtype == DType::kInt32 || dtype == DType::kInt64;
  if (good) return;
  throw WrongType(std::string(name) + " has dtype " + name_of(dtype) + "; expected " +
                  (numbers == Numbers::kFloating ? "float32, float64, float16 or bfloat16"
                   : numbers == Numbers::kInteger
                       ? "int32 or int64"
                       : "bool (numbers that are added to scores: bias=)"));
}

template <class View>
View find(const std::vector<Named<View>>& list, std::string_view name) {
  const auto found = std::find_if(list.begin(), list.end(),
                                  [&](const Named<View>& entry) { return entry.name == name; });
  return found == list.end() ? View{} : found->view;
}

void run_exact(const Call& call) {
  attention(call.vectors("query"), call.vectors("key"), call.vectors("value"),
            {call.result_vectors("output"), call.result("lse")}, call.options(), call.execution());
}

void check_exact(const Call& call) {
  plan_attention(call.vectors("query"), call.vectors("key"), call.vectors("value"), call.options(),
                 call.execution());
}

void run_exact_backward(const Call& call) {
  attention_backward(call.vectors("query"), call.vectors("key"), call.vectors("value"),
                     {call.vectors("output"), call.operand("lse")},
                     {call.vectors("doutput"), call.operand("dlse")}, call.gradients(),
                     call.options(), call.execution());
}

void run_hashed(const Call& call) {
  const ConstTensorView query = call.vectors("query");
  const ConstTensorView key = call.vectors("key");
  const AttentionOptions options = call.options();
  LshOptions hashing = call.hashing();
  if (const TensorView buckets = call.result("query_buckets"); is_given(buckets)) {
    hash_into(query, key, buckets, call.result("key_buckets"), hashing, options.mask,
              call.execution());
  }
  lsh_attention(query, key, call.vectors("value"),
                {call.result_vectors("output"), call.result("lse")}, hashing, options,
                call.execution());
}

void require_shape(const ConstTensorView& view, const char* name, const Extents& shape) {
  if (!is_given(view) || (view.rank == kMaxRank && view.shape == shape)) return;
  const ConstTensorView expected{nullptr, view.dtype, kMaxRank, shape, {}};
  throw Error(ErrorCode::kInvalidArgument, std::string(name) + " must have shape " +
                                               shape_string(expected) + "; found " +
                                               shape_string(view));
}

// The plan does not look at what hashing is given.
void check_hashed(const Call& call) {
  const ConstTensorView query = call.vectors("query");
  const ConstTensorView key = is_given(call.operand("key")) ? call.vectors("key") : query;
  const LshOptions options = call.hashing();
  const LshPlan plan = plan_lsh_attention(query, call.vectors("key"), call.vectors("value"),
                                          options, call.options(), call.execution());
  const std::int64_t rounds = options.num_hashes;
  require_shape(call.operand("query_buckets"), "buckets",
                {query.shape[0], query.shape[2], rounds, query.shape[1]});
  require_shape(call.operand("key_buckets"), "key buckets",
                {key.shape[0], key.shape[2], rounds, key.shape[1]});
  const auto& factors = plan.num_buckets;
  require_shape(options.rotations, "rotations",
                {key.shape[2], key.shape[3], rounds,
                 std::accumulate(factors.begin(), factors.end(), std::int64_t{0}) / 2});
}

void run_hashed_backward(const Call& call) {
  lsh_attention_backward(call.vectors("query"), call.vectors("key"), call.vectors("value"),
                         {call.vectors("output"), call.operand("lse")},
                         {call.vectors("doutput"), call.operand("dlse")}, call.gradients(),
                         call.hashing(), call.options(), call.execution());
}

}  // namespace

ConstTensorView Call::operand(std::string_view name) const { return find(operands, name); }

TensorView Call::result(std::string_view name) const { return find(results, name); }

ConstTensorView Call::vectors(std::string_view name) const {
  const ConstTensorView view = operand(name);
  require(view, std::string(name).c_str(), Numbers::kFloating);
  return is_heads_first() && view.rank == 4 ? transpose(view, 1, 2) : view;
}

TensorView Call::result_vectors(std::string_view name) const {
  const TensorView view = result(name);
  return is_heads_first() && view.rank == 4 ? transpose(view, 1, 2) : view;
}

// Two words of 32 bits, the lower one first.
std::uint64_t Call::seed() const {
  std::uint64_t number = 0;
  if (const ConstTensorView words = operand("seed"); is_given(words)) {
    std::memcpy(&number, words.data, sizeof(number));
  }
  return number;
}

AttentionOptions Call::options() const {
  std::vector<ConstTensorView> arrays;
  for (const auto& [name, view] : operands) {
    if (name == "arrays") arrays.push_back(view);
  }
  std::size_t at = 0;
  const auto next = [&](const char* name, Numbers numbers) {
    if (at == arrays.size()) {
      throw Error(ErrorCode::kInvalidArgument, "mask: expected more arrays");
    }
    require(arrays[at], name, numbers);
    return arrays[at++];
  };
  AttentionOptions options;
  options.mask = decode_mask(attributes->integers("mask"), next);
  options.query_offset = decode_offset(attributes->integer("offset_kind").value_or(0),
                                       attributes->integer("offset_number").value_or(0), next);
  options.scale = attributes->real("scale");
  options.softcap = attributes->real("softcap").value_or(0);
  options.bias = operand("bias");
  options.alibi_slopes = operand("alibi_slopes");
  options.sinks = operand("sinks");
  require(options.bias, "bias", Numbers::kFloating);
  require(options.alibi_slopes, "alibi_slopes", Numbers::kFloating);
  require(options.sinks, "sinks", Numbers::kFloating);
  if (const auto probability = attributes->real("dropout_p")) {
    options.dropout = {*probability, seed()};
  }
  return options;
}

LshOptions Call::hashing() const {
  Hashing hashing;
  hashing.num_hashes = attributes->integer("num_hashes").value_or(hashing.num_hashes);
  hashing.num_buckets = attributes->integers("num_buckets");
  hashing.chunk_len = attributes->integer("chunk_len").value_or(hashing.chunk_len);
  hashing.chunks_before = attributes->integer("chunks_before").value_or(hashing.chunks_before);
  hashing.chunks_after = attributes->integer("chunks_after").value_or(hashing.chunks_after);
  hashing.dedup = attributes->text("dedup");
  hashing.wrap = attributes->text("wrap");
  hashing.key_norm = attributes->text("key_norm");
  hashing.preset = attributes->text("preset");
  hashing.whole_buckets = attributes->integer("whole_buckets") == 1;
  if (const auto sides = attributes->integers("local_window"); sides.size() == 2) {
    hashing.local_window = {sides[0], sides[1]};
  }
  LshOptions options = decode_hashing(hashing);
  options.seed = seed();
  options.rotations = operand("rotations");
  const bool shared = !is_given(operand("key"));
  (shared ? options.buckets : options.query_buckets) = operand("query_buckets");
  options.key_buckets = operand("key_buckets");
  require(options.rotations, "rotations", Numbers::kFloating);
  require(shared ? options.buckets : options.query_buckets, "buckets", Numbers::kInteger);
  require(options.key_buckets, "buckets", Numbers::kInteger);
  return options;
}

Execution Call::execution() const {
  Execution execution;
  execution.threads = threads;
  execution.query_chunk = attributes->integer("query_chunk").value_or(0);
  execution.key_chunk = attributes->integer("key_chunk").value_or(0);
  return execution;
}

Gradients Call::gradients() const {
  return {result_vectors("query"), result_vectors("key"), result_vectors("value"), result("bias"),
          result("sinks")};
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    words.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return words;
}

const std::vector<Callable>& callables() {
  static const std::vector<Callable> list = {
      {"attention", run_exact, check_exact},
      {"attention_backward", run_exact_backward, nullptr},
      {"lsh_attention", run_hashed, check_hashed},
      {"lsh_attention_backward", run_hashed_backward, nullptr},
  };
  return list;
}

}  // namespace longspan::python
