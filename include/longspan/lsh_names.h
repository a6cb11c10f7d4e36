// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The choices of LshOptions, and what LshDiagnostics says, by the names that the command line and
// Python give them.
#pragma once

#include <array>

#include "longspan/lsh_diagnostics.h"

namespace longspan {

template <class Value>
struct NamedChoice {
  const char* name;
  Value value;
};

inline constexpr std::array<NamedChoice<Dedup>, 3> kDedupNames = {
    {{"exact", Dedup::kExact}, {"log-count", Dedup::kLogCount}, {"none", Dedup::kNone}}};
inline constexpr std::array<NamedChoice<Wrap>, 3> kWrapNames = {
    {{"none", Wrap::kNone}, {"round", Wrap::kRound}, {"all", Wrap::kAll}}};
inline constexpr std::array<NamedChoice<KeyNorm>, 2> kKeyNormNames = {
    {{"rms", KeyNorm::kRms}, {"l2", KeyNorm::kL2}}};
inline constexpr std::array<NamedChoice<LshOptions (*)()>, 3> kLshPresetNames = {
    {{"hf-reformer", hf_reformer}, {"lucidrains", lucidrains}, {"lab", lab}}};

// field(name, value) for every member: a number, a struct that has fields, or a vector of such.
template <class Field>
void visit_fields(const Estimate& estimate, const Field& field) {
  field("value", estimate.value);
  field("low", estimate.low);
  field("high", estimate.high);
}
template <class Field>
void visit_fields(const BucketSizes& sizes, const Field& field) {
  field("smallest", sizes.smallest);
  field("mean", sizes.mean);
  field("largest", sizes.largest);
  field("empty", sizes.empty);
  field("over_chunk", sizes.over_chunk);
}
template <class Field>
void visit_fields(const LshDiagnostics& found, const Field& field) {
  field("rows", found.rows);
  field("recalled_mass", found.recalled_mass);
  field("recalled_pairs", found.recalled_pairs);
  field("output_error", found.output_error);
  field("cut_pairs", found.cut_pairs);
  field("finds_per_pair", found.finds_per_pair);
  field("bucket_sizes", found.bucket_sizes);
}

}  // namespace longspan
