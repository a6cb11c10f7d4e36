// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// One thread's part of attention among gathered rows: queries of a group are panels, runs of keys
// are blocks. Runs stay loaded for the groups that follow, of which most meet them again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "engine/gathered_tiles.h"
#include "engine/recorder.h"

namespace longspan::engine {

template <class T>
class GatheredWorker {
 public:
  // `workspace` holds workspace_bytes(call) bytes.
  GatheredWorker(const GatheredCall<T>& call, std::byte* workspace);
  static std::size_t workspace_bytes(const GatheredCall<T>& call);

  // Groups of one list follow; `head` must outlive them.
  void begin(const GatheredForward<T>& head);
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
  struct Panel : GatheredQueries {
    bool fresh = true;     // nothing is in the state yet
    bool partial = false;  // some pair was hidden
    std::byte* query = nullptr;
    kernel::PanelState<T> state;
  };

  void carve(base::Carver& carver);
  void load_queries(const GatheredGroup& group);
  void clear(Panel& panel) const;
  Run& load(const KeyRun& keys);
  RecordedPlace place_of(const Panel& panel) const;
  void meet(const GatheredGroup& group, std::size_t place, std::int64_t panel_number,
            bool skip_hidden_values);
  // What is read soon, the n-th of `parts` parts: rows of results, and of the keys that come next.
  void fetch_ahead(const GatheredGroup& group, std::int64_t n, std::int64_t parts,
                   kernel::ForwardBlock<T>& b) const;

  const GatheredCall<T>& call_;
  const GatheredForward<T>* head_ = nullptr;
  GatheredTiles<T> tiles_;
  std::vector<Run> runs_;
  std::vector<Panel> panels_;
  std::int64_t used_panels_ = 0;
  T* scores_ = nullptr;  // [run_keys][width]
  std::byte* probabilities_ = nullptr;
};

}  // namespace longspan::engine
