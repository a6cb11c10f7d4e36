// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Checks of the options of LSH attention that concern no tensor but its own.
#pragma once

#include <string>

#include "longspan/attention.h"
#include "longspan/lsh_attention.h"

namespace longspan::lsh {

enum class Vectors : std::uint8_t { kShared, kSeparate };  // query and key are one tensor, or two

// Numbers in range, choices that go together, buckets of the right kind. Throws
// Error(kInvalidArgument); errors begin with `function`.
void check_options(const std::string& function, const LshOptions& options, Vectors vectors);

// What LSH attention cannot honour among the options of attention: bias tensors and dropout, and a
// scale where keys are normalised.
void check_scores(const std::string& function, const AttentionOptions& options, Vectors vectors);

// Shape [num_heads_kv, head_dim, num_hashes, columns] and dtype of given rotations.
void check_rotations(const std::string& function, const ConstTensorView& rotations,
                     std::int64_t num_heads_kv, std::int64_t head_dim, std::int64_t num_hashes,
                     std::int64_t columns);

void check_threads(const std::string& function, const Execution& execution);

}  // namespace longspan::lsh
