// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The steps of LSH attention before any score: keys, rotations, buckets, order, windows.
#pragma once

#include <cstdint>
#include <vector>

#include "explain/lsh_view.h"
#include "explain/steps.h"

namespace longspan::explain {

// Keys as attention uses them: those of shared vectors are normalised.
class KeyNumbers {
 public:
  KeyNumbers(const LshView& view, const LshOptions& options);
  double at(std::int64_t head, std::int64_t key, std::int64_t component) const;

 private:
  const LshView& view_;
  std::vector<double> factors_;  // [heads that are shown][seqlen], of shared vectors
};

void add_input_steps(Steps& steps, const LshView& view, const LshOptions& options,
                     const KeyNumbers& keys);
void add_hash_steps(Steps& steps, const LshView& view, const LshOptions& options);
void add_order_steps(Steps& steps, const LshView& view);
void add_window_steps(Steps& steps, const LshView& view);

}  // namespace longspan::explain
