// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Diagnoses, says what was found, and fills in the buckets.
#include "lsh_diagnosis.h"

#include <fmt/format.h>

#include <vector>

#include "longspan/lsh_names.h"

namespace longspan::cli {
namespace {

Json record_of(std::int64_t number) { return number; }
Json record_of(double number) { return json_number(number); }
template <class T>
Json record_of(const std::vector<T>& values);

template <class T>
Json record_of(const T& fields) {
  Json record = Json::object();
  visit_fields(fields,
               [&](const char* name, const auto& value) { record[name] = record_of(value); });
  return record;
}

template <class T>
Json record_of(const std::vector<T>& values) {
  Json records = Json::array();
  for (const T& value : values) records.push_back(record_of(value));
  return records;
}

std::string estimate_text(const char* name, const Estimate& estimate) {
  return fmt::format("  {:<15}{:.4g}  ({:.4g} .. {:.4g})\n", name, estimate.value, estimate.low,
                     estimate.high);
}

}  // namespace

LshDiagnostics diagnose(const AttendCall& call, const AttendOutputs& outputs,
                        const Execution& execution) {
  return diagnose_lsh(call.query, key_of(call), call.value, outputs.result().output, call.lsh,
                      call.options, execution);
}

AttentionPlan plan_diagnosis(const AttendCall& call, const Execution& execution) {
  AttentionPlan plan;
  plan.workspace_bytes = lsh_diagnostics_workspace(call.query, key_of(call), call.value, call.lsh,
                                                   call.options, execution);
  return plan;
}

Json diagnosis_record(const LshDiagnostics& found) { return record_of(found); }

std::string diagnosis_text(const LshDiagnostics& found) {
  std::string text =
      fmt::format("against exact attention, {} rows (95 % intervals):\n", found.rows);
  text += estimate_text("recalled mass", found.recalled_mass);
  text += estimate_text("recalled pairs", found.recalled_pairs);
  text += estimate_text("output error", found.output_error);
  text += estimate_text("cut pairs", found.cut_pairs);
  text += estimate_text("finds per pair", found.finds_per_pair);
  text += "buckets    smallest      mean   largest     empty   in buckets above a chunk\n";
  for (std::size_t n = 0; n < found.bucket_sizes.size(); ++n) {
    const BucketSizes& round = found.bucket_sizes[n];
    text += fmt::format("  round {:<3}{:>8}{:>10.1f}{:>10}{:>10}{:>10.1f} %\n", n, round.smallest,
                        round.mean, round.largest, round.empty, 100 * round.over_chunk);
  }
  return text;
}

void fill_buckets(const AttendCall& call, const AttendOutputs& outputs,
                  const Execution& execution) {
  if (call.shared) {
    hash_vectors(call.query, outputs.view("buckets"), call.lsh, call.options.mask, execution);
  } else {
    hash_vectors(call.query, call.key, outputs.view("query_buckets"), outputs.view("key_buckets"),
                 call.lsh, call.options.mask, execution);
  }
}

}  // namespace longspan::cli
