// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What tiles of gathered rows need before a kernel can meet them, forward or backward: keys
// normalised, which pairs are visible, where queries and keys stand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "engine/gathered_call.h"

namespace longspan::engine {

// Queries of a group that are the lanes of one panel.
struct GatheredQueries {
  std::span<const std::int32_t> queries;
  std::int64_t first = 0;  // in the group
  std::int64_t width = 0;
  mask::Range keys;  // indices of the keys that the mask leaves to some of them
};

// What a panel sees of a run.
struct VisibleKeys {
  mask::Range places;                    // in the run: no other key is seen
  const std::uint64_t* words = nullptr;  // by place; null when all pairs are visible
};

// The n-th of `parts` equal parts.
inline std::span<const std::int32_t> part_of(std::span<const std::int32_t> index, std::int64_t n,
                                             std::int64_t parts) noexcept {
  const auto size = static_cast<std::int64_t>(index.size());
  const std::int64_t begin = size * n / parts, end = size * (n + 1) / parts;
  return index.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
}

// Runs of keys stay loaded for the groups that follow, of which most meet them again: each has its
// place.
inline std::size_t place_of_run(std::int64_t tag, std::int64_t runs_kept) noexcept {
  return static_cast<std::size_t>((tag % runs_kept + runs_kept) % runs_kept);
}

template <class T>
class GatheredTiles {
 public:
  explicit GatheredTiles(const GatheredCall<T>& call) : call_(call) {}
  void carve(base::Carver& carver);

  // `head` must outlive its groups.
  void begin(const GatheredHead<T>& head) { head_ = &head; }
  // The group's panels, and the intervals of keys that the mask leaves to its queries.
  std::span<const GatheredQueries> split(const GatheredGroup& group);

  // The rows of keys; where they have factors, times these, side by side in the kernel's numbers,
  // rounded once: in `into` (as keys that a kernel can read as they are) or, where that is null,
  // valid until the next call.
  RowSource key_rows(std::span<const std::int32_t> index, std::byte* into = nullptr) const;
  // into[column * run_keys + key]
  void load_numbers(std::span<const std::int32_t> index, std::int32_t* into) const;

  VisibleKeys load_visible(const GatheredGroup& group, const KeyRun& keys,
                           const std::int32_t* numbers, const GatheredQueries& panel);
  // Terms of the scores of a tile; null when there are none.
  const kernel::ScoreTerms<T>* load_terms(std::span<const std::int32_t> keys,
                                          const GatheredQueries& panel);

 private:
  struct Lanes {  // intervals of the group's queries
    std::int32_t* first = nullptr;
    std::int32_t* count = nullptr;
    bool needed = false;
  };

  void load_mask();
  void load_positions(std::span<const std::int32_t> keys, const GatheredQueries& panel);

  const GatheredCall<T>& call_;
  const GatheredHead<T>* head_ = nullptr;
  kernel::ScoreTerms<T> terms_;
  std::vector<GatheredQueries> panels_;
  std::vector<kernel::IntervalTest> tests_;
  Lanes band_;
  Lanes own_;
  std::byte* normalized_ = nullptr;  // keys
  T* factors_ = nullptr;             // [run_keys], theirs
  std::uint64_t* words_ = nullptr;   // [run_keys]
  T* query_positions_ = nullptr;     // [width], with ALiBi
  T* key_positions_ = nullptr;       // [run_keys]
};

}  // namespace longspan::engine
