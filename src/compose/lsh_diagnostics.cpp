// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Diagnostics of LSH attention: draws rows, has them counted, adds up.
#include "longspan/lsh_diagnostics.h"

#include <algorithm>
#include <limits>
#include <string>

#include "base/check.h"
#include "base/fit_memory.h"
#include "base/parallel_for.h"
#include "base/philox.h"
#include "compose/estimate.h"
#include "compose/row_against_exact.h"
#include "lsh/bucket_rule.h"

namespace longspan {
namespace compose {
namespace {

constexpr const char* kFunction = "diagnose_lsh";

struct SampledRow {
  std::int64_t b = 0, h = 0, query = 0;
};

// body(row) for every row that may see a key, in order.
template <class Body>
void for_rows(const DiagnosedCall& call, const Body& body) {
  if (call.checked.num_heads * call.checked.seqlen_q == 0) return;
  for (std::int64_t b = 0; b < call.checked.batch; ++b) {
    for (std::int64_t h = 0; h < call.checked.num_heads; ++h) {
      for (std::int64_t query = 0; query < call.checked.seqlen_q; ++query) {
        if (!call.keys_of(b, query).empty()) body(SampledRow{b, h, query});
      }
    }
  }
}

struct Sample {
  std::int64_t population = 0;
  std::vector<SampledRow> rows;
  double share() const noexcept {
    return static_cast<double>(rows.size()) / static_cast<double>(population);
  }
};

// A row from each of `count` parts that are as equal as can be.
Sample draw_rows(const DiagnosedCall& call, std::int64_t count) {
  Sample sample;
  for_rows(call, [&](const SampledRow&) { ++sample.population; });
  if (sample.population == 0) return sample;
  const std::int64_t parts = std::min(count, sample.population);
  const std::int64_t least = sample.population / parts, larger = sample.population % parts;
  const auto draw_from = [&](std::int64_t part) {
    constexpr std::uint32_t kStream = 0x726F7773;  // "rows": rotations have the highest bit
    const std::uint32_t word = base::philox(
        {static_cast<std::uint32_t>(part), static_cast<std::uint32_t>(part >> 32), 0, kStream},
        base::philox_key(call.options.seed))[0];
    const std::int64_t size = least + (part < larger ? 1 : 0);
    return part * least + std::min(part, larger) +
           static_cast<std::int64_t>(static_cast<double>(word) * 0x1p-32 *
                                     static_cast<double>(size));
  };
  std::int64_t next = draw_from(0), number = 0;
  for_rows(call, [&](const SampledRow& row) {
    if (number++ != next) return;
    sample.rows.push_back(row);
    const auto part = static_cast<std::int64_t>(sample.rows.size());
    next = part < parts ? draw_from(part) : -1;
  });
  return sample;
}

BucketSizes sizes_of_round(const DiagnosedCall& call, std::int64_t round, std::int64_t buckets) {
  const lsh::RoundsShape& shape = call.rounds.shape();
  const std::int64_t group = shape.num_heads_kv > 0 ? shape.num_heads / shape.num_heads_kv : 1;
  if (shape.num_heads * shape.seqlen_k == 0) {
    return {0, 0, 0, shape.batch * shape.num_heads_kv * buckets, 0};
  }
  BucketSizes sizes;
  sizes.smallest = std::numeric_limits<std::int64_t>::max();
  std::int64_t keys = 0, filled = 0, over = 0;
  const auto add_bucket = [&](std::int64_t size) {
    ++filled;
    keys += size;
    sizes.smallest = std::min(sizes.smallest, size);
    sizes.largest = std::max(sizes.largest, size);
    if (size > call.options.chunk_len) over += size;
  };
  for (std::int64_t b = 0; b < shape.batch; ++b) {
    for (std::int64_t h = 0; h < shape.num_heads; h += group) {
      const std::vector<std::int32_t> order = call.rounds.keys_by_bucket(b, h, round);
      const std::int32_t* bucket = call.rounds.key_buckets(b, h, round).data();
      for (std::size_t begin = 0, end = 0; begin < order.size(); begin = end) {
        while (end < order.size() && bucket[order[end]] == bucket[order[begin]]) ++end;
        const bool padding = bucket[order[begin]] == buckets;
        if (!padding) add_bucket(static_cast<std::int64_t>(end - begin));
      }
    }
  }
  sizes.empty = shape.batch * shape.num_heads_kv * buckets - filled;
  if (filled == 0) return {0, 0, 0, sizes.empty, 0};
  sizes.mean = static_cast<double>(keys) / static_cast<double>(filled);
  sizes.over_chunk = static_cast<double>(over) / static_cast<double>(keys);
  return sizes;
}

// What lsh_attention() refuses is refused here.
engine::CheckedCall check_call(const ConstTensorView& query, const ConstTensorView& key,
                               const ConstTensorView& value, const LshOptions& options,
                               const AttentionOptions& attention, const Execution& execution) {
  plan_lsh_attention(query, key, value, options, attention, execution);
  return engine::check_call(kFunction, query, is_given(key) ? key : query, value, attention,
                            execution);
}

class Diagnosis {
 public:
  Diagnosis(const ConstTensorView& query, const ConstTensorView& key, const ConstTensorView& value,
            const LshOptions& options, const AttentionOptions& attention,
            const Execution& execution, std::int64_t rows)
      : query_(query),
        key_(key),
        attention_(attention),
        execution_(execution),
        rows_(rows),
        checked_(check_call(query, key, value, options, attention, execution)),
        factors_(lsh::bucket_factors(kFunction, options, checked_.seqlen_k)),
        call_(checked_, !is_given(key), options, attention) {
    base::require(rows >= 1, [&] {
      return std::string(kFunction) + ": rows must be at least 1; found " + std::to_string(rows);
    });
    const std::int64_t all_rows = checked_.batch * checked_.num_heads * checked_.seqlen_q;
    threads_ = base::resolve_threads(execution.threads, std::min(rows, all_rows));
    base::fit_memory(
        kFunction, execution.memory_limit, [&] { return workspace_bytes(); },
        [&] { return base::give_up_thread(threads_); });
  }

  std::size_t workspace_bytes() {
    base::Carver counted;
    carve(counted);
    return counted.used() +
           static_cast<std::size_t>(threads_) * RowAgainstExact::workspace_bytes(call_) +
           sorting_bytes();
  }

  LshDiagnostics run(const ConstTensorView& output) {
    engine::ResultChecker checker(checked_);
    call_.output = checker.output_input("output", output);
    const base::Buffer workspace(workspace_bytes() - sorting_bytes());
    base::Carver carver(workspace.data());
    carve(carver);
    std::vector<RowAgainstExact> workers;
    workers.reserve(static_cast<std::size_t>(threads_));
    for (int w = 0; w < threads_; ++w) workers.emplace_back(call_, carver);
    call_.rounds.sort(query_, key_, attention_.mask, call_.mask, execution_, threads_);
    const Sample sample = draw_rows(call_, rows_);
    const auto count = static_cast<std::int64_t>(sample.rows.size());
    if (execution_.progress != nullptr) execution_.progress->total += count;
    std::vector<RowCounts> counts(sample.rows.size());
    base::parallel_for(count, threads_, [&](std::int64_t n, int w) {
      base::check_stop(execution_.stop, kFunction);
      const SampledRow& row = sample.rows[static_cast<std::size_t>(n)];
      counts[static_cast<std::size_t>(n)] =
          workers[static_cast<std::size_t>(w)].count(row.b, row.h, row.query);
      if (execution_.progress != nullptr) ++execution_.progress->done;
    });
    std::erase_if(counts, [](const RowCounts& row) { return !row.sees; });
    return add_up(counts, sample.share());
  }

 private:
  std::size_t sorting_bytes() const {
    return call_.rounds.sorting_bytes(checked_.query.dtype, checked_.head_dim, factors_, execution_,
                                      threads_);
  }

  void carve(base::Carver& carver) { call_.rounds.carve(carver); }

  LshDiagnostics add_up(const std::vector<RowCounts>& rows, double share) const {
    constexpr double kInf = std::numeric_limits<double>::infinity();
    const auto ratio = [&](const auto& numerator, const auto& denominator, double least,
                           double most) {
      return estimate_ratio(std::span<const RowCounts>(rows), share, numerator, denominator, least,
                            most);
    };
    LshDiagnostics all;
    all.rows = static_cast<std::int64_t>(rows.size());
    all.recalled_mass = ratio([](const RowCounts& row) { return row.recalled_mass; },
                              [](const RowCounts&) { return 1; }, 0, 1);
    all.recalled_pairs = ratio([](const RowCounts& row) { return row.recalled_pairs; },
                               [](const RowCounts&) { return 1; }, 0, 1);
    all.output_error =
        root_of(ratio([](const RowCounts& row) { return row.error_squares; },
                      [](const RowCounts& row) { return row.exact_squares; }, 0, kInf));
    all.cut_pairs = ratio([](const RowCounts& row) { return row.cut; },
                          [](const RowCounts& row) { return row.in_one_bucket; }, 0, 1);
    all.finds_per_pair = ratio([](const RowCounts& row) { return row.finds; },
                               [](const RowCounts& row) { return row.found; }, 1, kInf);
    for (std::int64_t round = 0; round < call_.rounds.count(); ++round) {
      all.bucket_sizes.push_back(sizes_of_round(call_, round, factors_.buckets));
    }
    return all;
  }

  const ConstTensorView query_;
  const ConstTensorView key_;
  const AttentionOptions& attention_;
  const Execution& execution_;
  const std::int64_t rows_;
  const engine::CheckedCall checked_;
  const lsh::BucketFactors factors_;
  DiagnosedCall call_;
  int threads_ = 1;
};

}  // namespace
}  // namespace compose

LshDiagnostics diagnose_lsh(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                            ConstTensorView output, const LshOptions& options,
                            const AttentionOptions& attention, const Execution& execution,
                            std::int64_t rows) {
  return compose::Diagnosis(query, key, value, options, attention, execution, rows).run(output);
}

std::size_t lsh_diagnostics_workspace(ConstTensorView query, ConstTensorView key,
                                      ConstTensorView value, const LshOptions& options,
                                      const AttentionOptions& attention, const Execution& execution,
                                      std::int64_t rows) {
  return compose::Diagnosis(query, key, value, options, attention, execution, rows)
      .workspace_bytes();
}

}  // namespace longspan
