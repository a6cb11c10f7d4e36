// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The steps of LSH attention before any score: keys, rotations, buckets, order, windows.
#pragma once

#include "explain/lsh_view.h"
#include "explain/steps.h"

namespace longspan::explain {

// Keys of shared vectors as attention uses them, [batch, seqlen, heads, head_dim]; else empty.
std::vector<double> normalized(const LshView& view, const LshOptions& options);

void add_input_steps(Steps& steps, const LshView& view, const LshOptions& options,
                     const std::vector<double>& keys);
void add_hash_steps(Steps& steps, const LshView& view, const LshOptions& options);
void add_order_steps(Steps& steps, const LshView& view);
void add_window_steps(Steps& steps, const LshView& view);

}  // namespace longspan::explain
