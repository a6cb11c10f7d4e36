// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Few queries against one segment of keys. All heads that share keys are handled as one list of
// rows, so that every key and value is read from memory once, where it lies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "engine/forward_call.h"
#include "kernels/decode_block.h"

namespace longspan::engine {

template <class T>
class DecodeSegment {
 public:
  // Tasks may have up to `panels` panels, of call.decode_queries queries each.
  DecodeSegment(const ForwardCall<T>& call, std::int64_t panels);
  void carve(base::Carver& carver);

  void load_queries(const ForwardTask& task);

  // states[p] <- the summary of the segment's keys for panel p; the states hold the identity
  // beforehand. `hulls[p]`: keys that it may see.
  void run(const ForwardTask& task, mask::Range segment, const std::vector<mask::Range>& hulls,
           const std::vector<kernel::PanelState<T>>& states);

 private:
  // The panels of one kv head, as rows.
  struct Group {
    std::span<const PanelRows> panels;
    RowSource key;
    RowSource value;
    std::int64_t first_panel = 0;
    std::int64_t first_row = 0;
    std::int64_t rows = 0;
    bool partial = false;  // it met a tile with hidden pairs in this segment
  };

  void clear(const Group& group);
  void run_blocks(const ForwardTask& task, mask::Range segment,
                  const std::vector<mask::Range>& hulls, std::span<Group> groups,
                  bool skip_hidden_values);
  void run_tile(const ForwardTask& task, Group& group, mask::Range keys,
                const kernel::FetchAhead (&ahead)[2], bool skip_hidden_values);
  bool load_terms(const ForwardTask& task, const Group& group, mask::Range keys);
  bool load_visibility(const ForwardTask& task, const Group& group, mask::Range keys);
  void load_bias(const ForwardTask& task, const Group& group, mask::Range keys);
  std::int64_t keys_per_tile(const ForwardTask& task) const;
  T* numerator(std::int64_t row) const noexcept { return numerator_ + row * stride_v_; }

  const ForwardCall<T>& call_;
  std::int64_t most_rows_;
  std::int64_t stride_;    // of a row of queries
  std::int64_t stride_v_;  // of the numerator
  std::vector<Group> groups_;
  std::vector<kernel::ScoreTerms<T>> terms_;  // [rows]
  T* queries_ = nullptr;                      // [rows][stride]
  T* reference_ = nullptr;                    // [rows]
  T* sum_ = nullptr;                          // [rows]
  T* numerator_ = nullptr;                    // [rows][stride_v]
  // Of the tile that was loaded last: one group against at most kDecodeKeys keys.
  bool hides_ = false;  // some pair is hidden
  std::uint64_t visible_[kernel::kDecodeRows] = {};
  T* bias_ = nullptr;  // [kDecodeRows][kDecodeKeys]
  T* query_positions_ = nullptr;
  T* key_positions_ = nullptr;
};

}  // namespace longspan::engine
