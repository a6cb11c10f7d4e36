// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// One thread's part of a forward call: panels of queries meet the key blocks of a segment, and the
// summaries of the segments are merged and written out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/decode_segment.h"
#include "engine/forward_call.h"
#include "engine/recorder.h"
#include "engine/tile_terms.h"

namespace longspan::engine {

template <class T>
class ForwardWorker {
 public:
  // `workspace` holds workspace_bytes(call, panels) bytes; tasks may have up to `panels` panels.
  ForwardWorker(const ForwardCall<T>& call, std::int64_t panels, std::byte* workspace);
  static std::size_t workspace_bytes(const ForwardCall<T>& call, std::int64_t panels);

  // All segments of the task, merged in ascending order, and its results written.
  void run(const ForwardTask& task);

  // The same in two steps, for tasks whose segments are shared among threads: the summary of one
  // segment goes to `states` (state_bytes(call, panels) bytes), and the summaries of all segments,
  // one after the other in memory, become the result.
  static std::size_t state_bytes(const ForwardCall<T>& call, std::int64_t panels);
  void summarize(const ForwardTask& task, std::int64_t segment, std::byte* states);
  void merge(const ForwardTask& task, std::byte* states);

 private:
  using State = kernel::PanelState<T>;
  struct Block {  // the part of a key block that one panel meets
    mask::Range keys;
    kernel::OperandRows key;
    kernel::OperandRows value;
    std::int64_t first = 0;  // the row of key and value that is keys.begin
    bool skip_hidden_values = false;
    const PanelRows* next = nullptr;  // the panel that meets these keys next
  };

  void carve(base::Carver& carver);
  std::vector<State> carve_states(std::byte* memory) const;
  std::int64_t width_of(const PanelRows& rows) const noexcept;
  void load_queries(const ForwardTask& task);
  void clear(const ForwardTask& task, std::int64_t panel, const State& state) const;
  bool run_segment(const ForwardTask& task, mask::Range segment, const std::vector<State>& states);
  void run_blocks(const ForwardTask& task, mask::Range segment, std::int64_t first_panel,
                  std::int64_t last_panel, const std::vector<State>& states,
                  bool skip_hidden_values);
  void run_block(const ForwardTask& task, std::int64_t panel, const Block& block,
                 const State& state);
  void record_rows(const ForwardTask& task, std::int64_t segment, const std::vector<State>& states,
                   void (Recorder::*tell)(const RecordedRows&)) const;
  void merge_into(const ForwardTask& task, const std::vector<State>& into,
                  const std::vector<State>& part) const;
  void finish(const ForwardTask& task, const std::vector<State>& states) const;

  const ForwardCall<T>& call_;
  std::int64_t panels_;
  std::int64_t panel_width_;
  TileTerms<T> terms_;
  DecodeSegment<T> decode_;
  std::vector<State> total_;
  std::vector<State> part_;
  std::vector<mask::Range> hulls_;     // keys that a panel may see
  std::vector<std::uint8_t> fresh_;    // nothing is in the panel's state yet
  std::vector<std::uint8_t> partial_;  // the panel met a tile with hidden pairs in this segment
  std::int64_t query_bytes_ = 0;       // of one packed panel
  std::byte* queries_ = nullptr;       // packed panels
  T* scores_ = nullptr;                // [key_block][width]
  std::byte* probabilities_ = nullptr;
  std::byte* keys_ = nullptr;  // of one block, when packed
  std::byte* values_ = nullptr;
};

}  // namespace longspan::engine
