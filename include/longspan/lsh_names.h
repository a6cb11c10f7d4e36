// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The choices of LshOptions by the names that the command line and Python give them.
#pragma once

#include <array>

#include "longspan/lsh_attention.h"

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

}  // namespace longspan
