// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The options of `--method lsh`: a preset, and what is said beside it.
#pragma once

#include <string>

#include "attend_options.h"
#include "options.h"

namespace longspan::cli {

class AttendInputs;

void add_lsh_options(OptionAdder& add, AttendOptions& options);

// Throws Failure (2) where an option does not go with the method.
void check_lsh_options(const AttendOptions& options);

// The tensors rotations, buckets, query_buckets and key_buckets included.
LshOptions make_lsh_options(const AttendOptions& options, const AttendInputs& inputs);

// The options as they were understood: what no other option says is in the preset.
std::string effective_lsh_options(const AttendOptions& options, const LshOptions& lsh,
                                  std::int64_t seqlen_k);

}  // namespace longspan::cli
