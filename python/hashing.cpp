// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What the words of hashing mean.
#include "hashing.h"

#include "longspan/lsh_names.h"

namespace longspan::python {
namespace {

// Sets `value` to what is named, leaves it when nothing is.
template <class Choices, class Value>
void choose(const char* option, const Choices& choices, const OptionalName& name, Value& value) {
  if (!name) return;
  std::string names;
  for (const auto& choice : choices) {
    if (*name == choice.name) {
      value = choice.value;
      return;
    }
    names.append(names.empty() ? "" : ", ").append(choice.name);
  }
  throw Error(ErrorCode::kInvalidArgument,
              std::string(option) + " must be one of " + names + "; found \"" + *name + "\"");
}

}  // namespace

LshOptions decode_hashing(const Hashing& hashing) {
  LshOptions (*defaults)() = [] { return LshOptions{}; };
  choose("preset", kLshPresetNames, hashing.preset, defaults);
  LshOptions options = defaults();
  options.num_hashes = hashing.num_hashes;
  options.num_buckets = hashing.num_buckets;
  options.chunk_len = hashing.chunk_len;
  options.chunks_before = hashing.chunks_before;
  options.chunks_after = hashing.chunks_after;
  choose("dedup", kDedupNames, hashing.dedup, options.dedup);
  choose("wrap", kWrapNames, hashing.wrap, options.wrap);
  choose("key_norm", kKeyNormNames, hashing.key_norm, options.key_norm);
  options.whole_buckets = hashing.whole_buckets;
  options.local_window = hashing.local_window;
  return options;
}

void hash_into(const ConstTensorView& query, const ConstTensorView& key, TensorView query_buckets,
               TensorView key_buckets, LshOptions& options, const Mask& mask,
               const Execution& execution) {
  if (is_given(key)) {
    hash_vectors(query, key, query_buckets, key_buckets, options, mask, execution);
    options.query_buckets = query_buckets;
    options.key_buckets = key_buckets;
  } else {
    hash_vectors(query, query_buckets, options, mask, execution);
    options.buckets = query_buckets;
  }
  options.rotations = {};
}

}  // namespace longspan::python
