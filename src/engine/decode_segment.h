// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Few queries against one segment of keys: all panels of a task, which are the heads that share
// keys, are handled as one list of rows, so that every key and value is read from memory once.
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
  explicit DecodeSegment(const ForwardCall<T>& call) : call_(call) {}
  void carve(base::Carver& carver);

  // The queries of a task, at most kernel::kDecodeRows together.
  void load_queries(const ForwardTask& task);

  // states[p] <- the summary of the segment's keys for panel p. `hulls[p]`: keys that it may see.
  // The states hold the identity beforehand.
  void run(const ForwardTask& task, mask::Range segment, const std::vector<mask::Range>& hulls,
           const std::vector<kernel::PanelState<T>>& states);

 private:
  void run_blocks(const ForwardTask& task, mask::Range segment,
                  const std::vector<mask::Range>& hulls, bool skip_hidden_values);
  bool load_terms(const ForwardTask& task, mask::Range keys);
  bool load_visibility(const ForwardTask& task, mask::Range keys);
  void load_bias(const ForwardTask& task, mask::Range keys);
  void load_positions(const ForwardTask& task, mask::Range keys);

  const ForwardCall<T>& call_;
  std::int64_t rows_ = 0;
  std::int64_t stride_ = 0;  // of a row of queries, of the numerator
  std::int64_t stride_v_ = 0;
  bool hides_ = false;    // of the tile that was loaded last: some pair is hidden
  bool partial_ = false;  // of any tile since the segment began
  T* queries_ = nullptr;  // [rows][stride]
  T* reference_ = nullptr;
  T* sum_ = nullptr;
  T* numerator_ = nullptr;  // [rows][stride_v]
  T* bias_ = nullptr;       // [rows][kDecodeKeys]
  T* query_positions_ = nullptr;
  T* key_positions_ = nullptr;
  std::uint64_t visible_[kernel::kDecodeRows] = {};
  kernel::ScoreTerms<T> terms_[kernel::kDecodeRows];
};

}  // namespace longspan::engine
