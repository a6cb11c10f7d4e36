// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What a call hands out of its inside when it is asked to (AttentionCall::recorder); in a normal
// run nobody asks. Numbers are in natural units, whatever the kernel works with.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/attention_call.h"

namespace longspan::engine {

// Where the numbers are from: queries of one (batch, head), in one part of the keys. A phase is a
// segment of keys, or what GatheredHead::phase says.
struct RecordedPlace {
  std::int64_t batch = 0;
  std::int64_t head = 0;
  std::int64_t phase = 0;
  std::vector<std::int64_t> queries;  // indices
};

// Queries met a block of keys.
struct RecordedTile : RecordedPlace {
  std::vector<std::int64_t> keys;
  std::vector<double> scores;     // [query][key], -inf where the pair is hidden
  std::vector<double> weights;    // [query][key]: exp(score - reference)
  std::vector<double> reference;  // [query]
  bool again = false;             // it was met before: values were not finite
};

// The summary of a part, or of all parts so far: src/partial/merge_rule-inl.h.
struct RecordedRows : RecordedPlace {
  std::vector<double> reference;  // [query]: the true maximum of the visible scores
  std::vector<double> sum;        // [query]
  std::vector<double> numerator;  // [query][head_dim_v]
};

class Recorder {
 public:
  virtual ~Recorder() = default;
  virtual void tile(const RecordedTile& tile) = 0;
  virtual void part(const RecordedRows& part) = 0;
  // After the part was merged in; of exact attention alone, whose panels keep it.
  virtual void total(const RecordedRows& total) = 0;
};

// The tile that a block has just left in its scratch. The call's operands are numbers of T.
template <class T>
void record_tile(const AttentionCall<T>& call, RecordedPlace place, std::vector<std::int64_t> keys,
                 const kernel::ForwardBlock<T>& block, std::int64_t width);

template <class T>
RecordedRows recorded_rows(const AttentionCall<T>& call, RecordedPlace place,
                           const kernel::PanelState<T>& state, std::int64_t width);

// first, first + 1, ...
std::vector<std::int64_t> consecutive(mask::Range range);

}  // namespace longspan::engine
