// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Who may add to the gradients of keys at the same time. The queries of a phase are cut into
// shares; those of one turn meet no key in common, and turns follow one another, so that every sum
// is taken in one order.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lsh/rounds.h"
#include "mask/bound_mask.h"
#include "mask/tile.h"

namespace longspan::lsh {

class KeyShares {
 public:
  // Of a round: the queries whose windows stand at consecutive keys of its order.
  explicit KeyShares(const Rounds& rounds);
  // Of a phase that is a mask: consecutive queries. Runs of keys begin at multiples of run_keys.
  KeyShares(const Rounds& rounds, const mask::BoundMask& mask, std::int64_t run_keys);

  const std::vector<std::vector<std::int64_t>>& turns() const noexcept { return turns_; }
  // Places of the queries of a share: in the order of the round, or, of a mask, positions.
  mask::Range places(std::int64_t b, std::int64_t h, std::int64_t round, std::int64_t share) const;

 private:
  void choose_turns(std::span<const mask::Range> met);

  const Rounds& rounds_;
  bool by_window_;
  std::int64_t length_;  // of a share, in keys of the order or in queries
  std::vector<std::vector<std::int64_t>> turns_;
};

}  // namespace longspan::lsh
