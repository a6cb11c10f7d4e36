// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Three examples: two made-up ones, with numbers of two decimals, and the input of the Reformer
// lab.
#include "explain_example.h"

#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "tensor_file.h"

namespace longspan::cli {
namespace {

template <class T>
io::StoredTensor stored(DType dtype, const std::vector<std::int64_t>& shape,
                        const std::vector<T>& numbers) {
  OwnedTensor tensor = make_tensor(dtype, shape);
  std::memcpy(tensor.storage.bytes(), numbers.data(), numbers.size() * sizeof(T));
  return std::move(tensor.storage);
}

// About N(0, 1), rounded so that they can be read.
io::StoredTensor two_decimals(const std::vector<std::int64_t>& shape, std::uint64_t seed) {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  std::vector<double> numbers(static_cast<std::size_t>(count));
  draw_rotations(tensor(numbers.data(), {1, 1, 1, count}), seed);
  for (double& x : numbers) x = std::round(x * 100) / 100;
  return stored(DType::kFloat64, shape, numbers);
}

// Before the choices of the command line, which then prevail.
void suggest(AttendOptions& options, std::int64_t hashes, std::int64_t buckets,
             std::int64_t chunk_len, std::int64_t chunks_before,
             std::optional<Wrap> wrap = std::nullopt) {
  options.lsh_choices.insert(options.lsh_choices.begin(), {"", [=](LshOptions& lsh) {
                                                             lsh.num_hashes = hashes;
                                                             lsh.num_buckets = {buckets};
                                                             lsh.chunk_len = chunk_len;
                                                             lsh.chunks_before = chunks_before;
                                                             if (wrap) lsh.wrap = *wrap;
                                                           }});
}

// 3 queries, 8 keys in chunks of 3, 2 heads.
void give_exact(AttendOptions& options, AttendInputs& inputs) {
  inputs.give(Role::kQuery, two_decimals({3, 2, 4}, 1));
  inputs.give(Role::kKey, two_decimals({8, 2, 4}, 2));
  inputs.give(Role::kValue, two_decimals({8, 2, 3}, 3));
  if (options.key_chunk == 0) options.key_chunk = 3;
  if (!options.offset) options.offset_end = true;
}

// 16 positions of one head. A value is its position and a 1, so that an output is the mean position
// that a row saw.
void give_hashed(AttendOptions& options, AttendInputs& inputs) {
  std::vector<double> value;
  for (int n = 0; n < 16; ++n) value.insert(value.end(), {static_cast<double>(n), 1.0});
  inputs.give(Role::kQueryKey, two_decimals({16, 4}, 4));
  inputs.give(Role::kValue, stored(DType::kFloat64, {16, 2}, value));
  suggest(options, /*hashes=*/2, /*buckets=*/4, /*chunk_len=*/4, /*chunks_before=*/1);
}

// Parts 3.3 and 3.4 of the lab: 8 positions, 2 rounds whose buckets are given, chunks of 2; query
// and key are one, neither normalised nor scaled, and a position sees itself. Chunks see only
// themselves, so that the lab's wrapping around changes nothing; separate query and key have none.
void give_lab(AttendOptions& options, AttendInputs& inputs) {
  std::vector<double> query, value(40, 1.0);
  std::vector<std::int32_t> buckets;
  for (int round = 0; round < 2; ++round) {
    for (int n = 0; n < 8; ++n) buckets.push_back(n % 4);
  }
  for (int n = 0; n < 8; ++n) query.insert(query.end(), 3, static_cast<double>(n % 4));
  inputs.give(Role::kQuery, stored(DType::kFloat64, {8, 3}, query));
  inputs.give(Role::kKey, stored(DType::kFloat64, {8, 3}, query));
  inputs.give(Role::kValue, stored(DType::kFloat64, {8, 5}, value));
  inputs.give(Role::kQueryBuckets, stored(DType::kInt32, {2, 8}, buckets));
  inputs.give(Role::kKeyBuckets, stored(DType::kInt32, {2, 8}, buckets));
  suggest(options, /*hashes=*/2, /*buckets=*/4, /*chunk_len=*/2, /*chunks_before=*/0, Wrap::kNone);
  if (!options.scale) options.scale = 1;
}

}  // namespace

void give_example(AttendOptions& options, AttendInputs& inputs) {
  if (!options.lsh) return give_exact(options, inputs);
  if (options.lsh_preset == &lab) return give_lab(options, inputs);
  give_hashed(options, inputs);
}

}  // namespace longspan::cli
