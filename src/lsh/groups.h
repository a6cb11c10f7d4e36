// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// From sorted rounds to the groups that the engine runs: consecutive queries with one window, the
// runs of keys that they meet, and the tests that hide pairs which were counted before.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "engine/gathered_call.h"
#include "lsh/rounds.h"

namespace longspan::lsh {

class Groups {
 public:
  struct Sizes {
    std::int64_t queries = 1;  // of a group, at most
    std::int64_t keys = 1;     // of a run, at most
  };
  using Body = std::function<void(const engine::GatheredGroup&)>;

  // `local`: pairs inside it are no pairs of rounds; may be null.
  Groups(const Rounds& rounds, Sizes sizes, const mask::BoundMask* local);

  // Columns of key numbers that tests of a round name.
  static std::int64_t columns(const Rounds& rounds, std::int64_t round) noexcept;
  // Runs that one group may meet, or a bound of what is worth keeping.
  static std::int64_t runs_of_window(const Rounds& rounds, std::int64_t run_keys) noexcept;

  // The groups of the queries at these places of the order of a round.
  void of_round(std::int64_t b, std::int64_t h, std::int64_t round, mask::Range places,
                const Body& body);
  // The groups of these queries among all keys that `mask` shows them. `all`: 0, 1, 2, ...
  void of_mask(std::int64_t b, mask::Range queries, const mask::BoundMask& mask,
               std::span<const std::int32_t> all, const Body& body);

 private:
  struct Test {
    std::int64_t column = 0;
    std::int64_t part = 0;  // a window may have two intervals in a column
    std::vector<std::int32_t> first, count;
  };
  Test& test(std::int64_t column, std::int64_t part);
  void load_tests(std::int64_t b, std::int64_t h, std::int64_t round,
                  std::span<const std::int32_t> queries);
  void load_runs(std::int64_t b, std::int64_t h, std::int64_t round, std::int64_t number);
  void add_runs(std::span<const std::int32_t> keys, std::int64_t tag, std::int64_t step,
                std::span<const engine::PairTest> further);
  void load_wrapped_runs(std::int64_t b, std::int64_t h, std::int64_t round, std::int64_t number);
  std::span<const engine::PairTest> members_before(std::int64_t round, std::int64_t number,
                                                   std::int64_t n);
  std::span<const std::int32_t> next_keys(std::int64_t b, std::int64_t h, std::int64_t round,
                                          std::int64_t number) const noexcept;
  std::span<const std::int32_t> chunk(std::int64_t b, std::int64_t h, ChunkPlace at) const noexcept;

  const Rounds& rounds_;
  Sizes sizes_;
  const mask::BoundMask* local_;
  std::int64_t pieces_;  // runs of a chunk
  std::size_t used_tests_ = 0;
  std::deque<Test> pool_;
  std::vector<Segment> segments_;
  std::vector<engine::PairTest> tests_;
  std::vector<engine::KeyRun> runs_;
  std::deque<std::vector<engine::PairTest>> further_;
};

}  // namespace longspan::lsh
