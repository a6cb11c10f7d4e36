// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Where a number of a step stands: names of its axes, numbers of its entries, rows of its last
// axis, and which of them are shown where there are too many.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "longspan/explain.h"

namespace longspan::rendering {

// Entries of an axis of which the middle may be left out: the first `head` and the last `tail` of
// `count`.
struct Cut {
  std::int64_t head = 0, tail = 0, count = 0;

  std::int64_t shown() const { return head + tail; }
  std::int64_t left_out() const { return count - shown(); }
  // The entry that is shown in place i.
  std::int64_t at(std::int64_t i) const { return i < head ? i : i + left_out(); }
  // Something was left out between places i - 1 and i.
  bool gap_before(std::int64_t i) const { return i == head && left_out() > 0; }
};
Cut cut_to(std::int64_t count, std::int64_t most);

// on_entry(place, entry) for what is shown, on_gap() where something was left out.
template <class OnEntry, class OnGap>
void walk(const Cut& cut, const OnEntry& on_entry, const OnGap& on_gap) {
  for (std::int64_t i = 0; i < cut.shown(); ++i) {
    if (cut.gap_before(i)) on_gap();
    on_entry(i, cut.at(i));
  }
  if (cut.gap_before(cut.shown())) on_gap();
}

// The index, in the tensors of the call, of an entry of an axis.
std::int64_t entry_number(const ExplainStep& step, std::size_t axis, std::int64_t entry);
std::string entry_name(const ExplainStep& step, std::size_t axis, std::int64_t entry);  // "query 4"
// Entries of some axes, in ascending order, whose flat row-major number among these axes is
// `place`: "query 4, head 1".
std::string place_name(const ExplainStep& step, const std::vector<std::size_t>& axes,
                       std::int64_t place);
// All axes but the first, the last, the last two; none where there are no more.
std::vector<std::size_t> axes_after_first(const ExplainStep& step);
std::vector<std::size_t> axes_before_last(const ExplainStep& step, std::size_t last = 1);

std::string axes_and_shape(const ExplainStep& step);  // "[query 4, head 2, key 8]"

// A step as rows of its last axis; rank 0 is one row of one number, rank 1 one row.
std::int64_t row_count(const ExplainStep& step);
std::int64_t column_count(const ExplainStep& step);

// The same numbers with axes of one entry first, the last axis aside: what a table names once, and
// its rows are what varies.
ExplainStep with_single_entries_first(ExplainStep step);

// -inf is a pair that must not be seen; elsewhere it is the log or the largest of nothing.
bool is_over_pairs(const ExplainStep& step);
bool is_hidden(const ExplainStep& step, double value);

}  // namespace longspan::rendering
