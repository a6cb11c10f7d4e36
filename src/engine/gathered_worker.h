// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// One thread's part of attention among gathered rows: queries of a group are panels, runs of keys
// are blocks. Runs stay loaded for the groups that follow, of which most meet them again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "engine/gathered_call.h"

namespace longspan::engine {

template <class T>
class GatheredWorker {
 public:
  // `workspace` holds workspace_bytes(call) bytes.
  GatheredWorker(const GatheredCall<T>& call, std::byte* workspace);
  static std::size_t workspace_bytes(const GatheredCall<T>& call);

  // Groups of one list follow; `head` must outlive them.
  void begin(const GatheredHead<T>& head);
  // What the queries see of the keys is merged into their rows.
  void run(const GatheredGroup& group);

 private:
  struct Run {  // loaded
    std::int64_t tag = 0;
    bool used = false;
    kernel::OperandRows key;
    kernel::OperandRows value;
    std::byte* key_memory = nullptr;
    std::byte* value_memory = nullptr;
    std::int32_t* numbers = nullptr;  // [columns][run_keys]
  };
  struct Panel {
    std::span<const std::int32_t> queries;
    std::int64_t first = 0;  // in the group
    std::int64_t width = 0;
    bool fresh = true;     // nothing is in the state yet
    bool partial = false;  // some pair was hidden
    std::byte* query = nullptr;
    kernel::PanelState<T> state;
  };
  struct Lanes {  // intervals of the group's queries
    std::int32_t* first = nullptr;
    std::int32_t* count = nullptr;
    bool needed = false;
  };

  void carve(base::Carver& carver);
  void load_queries(const GatheredGroup& group);
  void load_mask();
  void clear(Panel& panel) const;
  Run& load(const KeyRun& keys);
  RowSource gather(const RowSource& source, std::span<const std::int32_t> index, std::int64_t dim);
  RowSource normalize(const RowSource& rows, std::span<const std::int32_t> index, std::byte* into);
  void meet(const GatheredGroup& group, std::size_t place, std::int64_t panel_number,
            bool skip_hidden_values);
  // The words of a tile, null when all is visible; false when nothing is.
  bool load_visible(const GatheredGroup& group, const KeyRun& keys, const Run& run,
                    const Panel& panel, const std::uint64_t*& words);
  // What is read soon, the n-th of `parts` parts: rows of results, and of the keys that come next.
  void fetch_ahead(const GatheredGroup& group, std::int64_t n, std::int64_t parts,
                   kernel::ForwardBlock<T>& b) const;
  void load_positions(const KeyRun& keys, const Panel& panel);
  void merge(Panel& panel);

  const GatheredCall<T>& call_;
  const GatheredHead<T>* head_ = nullptr;
  kernel::ScoreTerms<T> terms_;
  std::vector<Run> runs_;
  std::vector<Panel> panels_;
  std::int64_t used_panels_ = 0;
  std::vector<kernel::IntervalTest> tests_;
  Lanes band_;
  Lanes own_;
  std::byte* staged_ = nullptr;      // gathered rows
  std::byte* normalized_ = nullptr;  // keys, where they are packed afterwards
  T* scores_ = nullptr;              // [run_keys][width]
  std::byte* probabilities_ = nullptr;
  std::uint64_t* words_ = nullptr;  // [run_keys]
  T* query_positions_ = nullptr;    // [width], with ALiBi
  T* key_positions_ = nullptr;      // [run_keys]
  T* rows_ = nullptr;               // [width][head_dim_v]
};

}  // namespace longspan::engine
