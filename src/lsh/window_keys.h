// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The keys that one query meets, in all rounds: a list, where groups of queries have runs and tests
// (groups.h). Every query asks for itself, so it is for few of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "longspan/lsh_attention.h"
#include "lsh/growing_order.h"
#include "mask/tile.h"

namespace longspan::lsh {

struct WindowQuery {
  std::span<const std::int32_t> buckets;  // in each round
  std::int64_t position = 0;              // the key that it is level with
  mask::Range local;                      // keys that count once and are no pairs of rounds
};

class WindowKeys {
 public:
  // `shared`: queries are keys, and do not meet themselves.
  WindowKeys(const LshOptions& options, bool shared) : options_(options), shared_(shared) {}

  // Each key as often as it counts; valid until the next call.
  std::span<const std::int32_t> find(const GrowingOrder& order, const WindowQuery& query);
  // How often a shared query would have met itself.
  double own_count() const noexcept { return own_count_; }

 private:
  void drop_repeats();
  void append_window(const GrowingOrder& order, const WindowQuery& query, std::int64_t round);

  const LshOptions& options_;
  bool shared_;
  double own_count_ = 1;
  std::vector<std::int32_t> keys_;
  std::vector<std::int32_t> seen_;
};

}  // namespace longspan::lsh
