// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// One row of LSH attention beside exact attention: every pair that the mask shows, in float64, and
// how often windows hold it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/buffer.h"
#include "engine/checked_call.h"
#include "engine/checked_result.h"
#include "lsh/groups.h"
#include "lsh/rounds.h"
#include "mask/bound_mask.h"

namespace longspan::compose {

// What all rows have in common.
struct DiagnosedCall {
  DiagnosedCall(const engine::CheckedCall& call, bool is_shared, const LshOptions& lsh_options,
                const AttentionOptions& attention);

  // A range that holds every key that the row sees.
  mask::Range keys_of(std::int64_t b, std::int64_t query) const noexcept;

  const engine::CheckedCall& checked;
  bool shared;
  LshOptions options;
  double softcap;
  double scale;
  mask::BoundMask mask;
  std::optional<mask::BoundMask> local;  // the mask and the local window
  std::optional<mask::BoundMask> own;    // what decides whether a position sees itself
  lsh::Rounds rounds;                    // every occurrence of a pair is looked for
  engine::TensorAxes output;
};

struct RowCounts {
  bool sees = false;  // a key; all else is 0 without
  double recalled_mass = 0;
  double recalled_pairs = 0;
  double error_squares = 0;  // |output - exact|^2
  double exact_squares = 0;  // |exact|^2
  std::int64_t in_one_bucket = 0, cut = 0;
  std::int64_t found = 0, finds = 0;
};

class RowAgainstExact {
 public:
  // Takes workspace_bytes(). `call.rounds` are sorted before the first row.
  RowAgainstExact(const DiagnosedCall& call, base::Carver& carver);
  static std::size_t workspace_bytes(const DiagnosedCall& call) noexcept;

  RowCounts count(std::int64_t b, std::int64_t h, std::int64_t query);

 private:
  struct Memory {
    Memory(base::Carver& carver, const DiagnosedCall& call) noexcept;
    std::uint64_t* visible;  // [seqlen_k], 0 or 1
    std::uint64_t* local;    // likewise; with a local window
    double* weights;         // [seqlen_k]: scores, then their exponentials
    std::int32_t* finds;     // [seqlen_k]
    std::int32_t* held_by;   // [seqlen_k]: the last round whose window holds the key, or -1
    double* query;           // [head_dim]
    double* exact;           // [head_dim_v]
  };
  void find_visible();
  void find_in_rounds(RowCounts& counts);
  void score_keys();
  double bent(double product, std::int64_t key) const;
  void compare(RowCounts& counts);
  bool is_own(std::int64_t key) const noexcept { return call_.shared && key == query_; }
  // body(key) for all visible keys, ascending.
  template <class Body>
  void for_visible(const Body& body) const {
    for (std::int64_t key = keys_.begin; key < keys_.end; ++key) {
      if (memory_.visible[key] != 0) body(key);
    }
  }

  const DiagnosedCall& call_;
  Memory memory_;
  lsh::Groups groups_;
  std::int64_t b_ = 0, h_ = 0, query_ = 0;
  mask::Range keys_;
};

}  // namespace longspan::compose
