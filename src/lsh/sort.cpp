// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Sorting by bucket, and back.
#include "lsh/sort.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/parallel_for.h"
#include "longspan/lsh_attention.h"
#include "lsh/checked_options.h"

namespace longspan {
namespace lsh {
namespace {

constexpr int kDigitBits = 11;  // 2048 counters of 8 bytes: half of a first level cache
constexpr std::int64_t kDigits = std::int64_t{1} << kDigitBits;

}  // namespace

BucketSort::Scratch BucketSort::carve(base::Carver& carver) const noexcept {
  Scratch scratch;
  scratch.starts = carver.take<std::int64_t>(kDigits);
  for (std::int64_t*& order : scratch.order) order = carver.take<std::int64_t>(seqlen_);
  return scratch;
}

std::size_t BucketSort::bytes() const noexcept {
  base::Carver carver;
  carve(carver);
  return carver.used();
}

void BucketSort::sort(const IndexRow& buckets, const IndexRow& positions,
                      std::byte* memory) const noexcept {
  base::Carver carver(memory);
  Scratch scratch = carve(carver);
  std::int64_t most = 0;
  for (std::int64_t n = 0; n < seqlen_; ++n) most = std::max(most, buckets[n]);
  const int bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(most)));
  auto [order, next] = scratch.order;
  for (std::int64_t n = 0; n < seqlen_; ++n) order[n] = n;
  for (int shift = 0; shift < bits; shift += kDigitBits) {
    const auto digit = [&](std::int64_t n) { return buckets[n] >> shift & (kDigits - 1); };
    std::fill(scratch.starts, scratch.starts + kDigits, 0);
    for (std::int64_t n = 0; n < seqlen_; ++n) ++scratch.starts[digit(n)];
    std::int64_t start = 0;
    for (std::int64_t d = 0; d < kDigits; ++d) start += std::exchange(scratch.starts[d], start);
    for (std::int64_t n = 0; n < seqlen_; ++n) next[scratch.starts[digit(order[n])]++] = order[n];
    std::swap(order, next);
  }
  for (std::int64_t n = 0; n < seqlen_; ++n) positions.set(n, order[n]);
}

namespace {

// Two tensors of one shape, an input and a result that holds positions.
std::pair<IndexGrid, IndexGrid> check_pair(const char* function, const char* name,
                                           const ConstTensorView& input, const char* result_name,
                                           const TensorView& result, const Execution& execution) {
  check_threads(function, execution);
  const IndexGrid from = check_index_input(function, name, input);
  const IndexGrid to = check_index_result(function, result_name, result,
                                          std::max<std::int64_t>(from.shape[3], 1) - 1);
  require_shape(function, result_name, result, "that of the input", input);
  require_apart(function, result_name, result, name, input);
  return {from, to};
}

std::string found_at(std::int64_t value, std::int64_t row, std::int64_t n) {
  return "; found " + std::to_string(value) + " in row " + std::to_string(row) + ", place " +
         std::to_string(n);
}

}  // namespace
}  // namespace lsh

void sort_by_bucket(ConstTensorView buckets, TensorView sorted_positions,
                    const Execution& execution) {
  const auto [from, to] = lsh::check_pair("sort_by_bucket", "buckets", buckets, "sorted_positions",
                                          sorted_positions, execution);
  const lsh::IndexGrid &in = from, &out = to;
  const std::int64_t seqlen = in.shape[3];
  const lsh::BucketSort sort(seqlen);
  const int threads = base::resolve_threads(execution.threads, in.rows());
  const base::Buffer workspace(static_cast<std::size_t>(threads) * sort.bytes());
  base::parallel_for(in.rows(), threads, [&](std::int64_t row, int worker) {
    base::check_stop(execution.stop, "sort_by_bucket");
    const lsh::IndexRow numbers = in.row(row);
    for (std::int64_t n = 0; n < seqlen; ++n) {
      base::require(numbers[n] >= 0, [&] {
        return "sort_by_bucket: buckets must not be negative" + lsh::found_at(numbers[n], row, n);
      });
    }
    sort.sort(numbers, out.row(row),
              workspace.data() + static_cast<std::size_t>(worker) * sort.bytes());
  });
}

void undo_sort(ConstTensorView sorted_positions, TensorView places, const Execution& execution) {
  const auto [from, to] = lsh::check_pair("undo_sort", "sorted_positions", sorted_positions,
                                          "places", places, execution);
  const lsh::IndexGrid &in = from, &out = to;
  const std::int64_t seqlen = in.shape[3];
  const int threads = base::resolve_threads(execution.threads, in.rows());
  base::parallel_for(in.rows(), threads, [&](std::int64_t row, int) {
    base::check_stop(execution.stop, "undo_sort");
    const lsh::IndexRow positions = in.row(row), inverse = out.row(row);
    constexpr std::int64_t kUnset = -1;
    for (std::int64_t n = 0; n < seqlen; ++n) inverse.set(n, kUnset);
    for (std::int64_t n = 0; n < seqlen; ++n) {
      const std::int64_t p = positions[n];
      base::require(p >= 0 && p < seqlen && inverse[p] == kUnset, [&] {
        return "undo_sort: sorted_positions must hold each of 0.." + std::to_string(seqlen - 1) +
               " once" + lsh::found_at(p, row, n);
      });
      inverse.set(p, n);
    }
  });
}

}  // namespace longspan
