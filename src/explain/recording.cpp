// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The recorder of explain.
#include "explain/recording.h"

#include <algorithm>
#include <cmath>

#include "partial/scalar_rule.h"

namespace longspan::explain {

double Summary::lse() const noexcept { return sum == 0 ? kNothing : reference + std::log(sum); }

std::vector<double> Summary::output() const {
  std::vector<double> output = numerator;
  for (double& x : output) x = sum == 0 ? 0.0 : x / sum;
  return output;
}

void Summary::merge(const Summary& part) {
  const auto weights = partial::ScalarRule::merge(reference, sum, part.reference, part.sum);
  for (std::size_t d = 0; d < numerator.size(); ++d) {
    numerator[d] = partial::ScalarRule::combine(weights, numerator[d], part.numerator[d]);
  }
}

Pair RowPart::pair(std::int64_t key) const {
  auto at = std::lower_bound(met_.begin(), met_.end(), key,
                             [](const Met& met, std::int64_t k) { return met.key < k; });
  Pair found;
  for (; at != met_.end() && at->key == key; ++at) {
    found.score = at->score;
    found.weight += at->weight;
  }
  return found;
}

Recording::Recording(const RecordedShape& shape, std::span<const std::int64_t> rows,
                     std::int64_t seqlen_q)
    : shape_(shape),
      rows_(static_cast<std::int64_t>(rows.size())),
      place_of_row_(static_cast<std::size_t>(seqlen_q), -1),
      parts_(static_cast<std::size_t>(shape.phases * shape.heads.size() * rows_)) {
  for (std::size_t n = 0; n < rows.size(); ++n) {
    place_of_row_[static_cast<std::size_t>(rows[n])] = static_cast<std::int64_t>(n);
  }
  for (RowPart& part : parts_) part.part = part.total = Summary(shape.head_dim_v);
}

const RowPart& Recording::at(std::int64_t phase, std::int64_t head, std::int64_t row) const {
  return parts_[index(phase, head, place_of_row_[static_cast<std::size_t>(row)])];
}

RowPart* Recording::find(const engine::RecordedPlace& place, std::size_t n) {
  const std::int64_t row = place_of_row_[static_cast<std::size_t>(place.queries[n])];
  const bool kept = row >= 0 && place.batch == shape_.batch && place.head >= shape_.heads.begin &&
                    place.head < shape_.heads.end;
  return kept ? &parts_[index(place.phase, place.head, row)] : nullptr;
}

void Recording::tile(const engine::RecordedTile& tile) {
  if (tile.again) return;  // the same scores
  const std::size_t keys = tile.keys.size();
  for (std::size_t n = 0; n < tile.queries.size(); ++n) {
    RowPart* row = find(tile, n);
    if (row == nullptr) continue;
    for (std::size_t k = 0; k < keys; ++k) {
      const double score = tile.scores[n * keys + k];
      if (score == kNothing) continue;
      row->met_.push_back({{score, tile.weights[n * keys + k]}, tile.keys[k], tile.reference[n]});
    }
  }
}

// Weights that are relative to the reference of their tile are brought to that of the part, as the
// engine did with their sum.
void Recording::part(const engine::RecordedRows& part) {
  for (std::size_t n = 0; n < part.queries.size(); ++n) {
    RowPart* row = find(part, n);
    if (row == nullptr) continue;
    row->part = summary(part, n);
    auto& met = row->met_;
    for (auto& pair : met) {
      pair.weight *= partial::ScalarRule::weight(pair.reference, row->part.reference);
      pair.reference = row->part.reference;
    }
    std::stable_sort(met.begin(), met.end(),
                     [](const auto& a, const auto& b) { return a.key < b.key; });
  }
}

void Recording::total(const engine::RecordedRows& total) {
  for (std::size_t n = 0; n < total.queries.size(); ++n) {
    if (RowPart* row = find(total, n)) row->total = summary(total, n);
  }
}

Summary Recording::summary(const engine::RecordedRows& rows, std::size_t n) const {
  const auto first = rows.numerator.begin() + static_cast<std::ptrdiff_t>(n) * shape_.head_dim_v;
  Summary summary;
  summary.reference = rows.reference[n];
  summary.sum = rows.sum[n];
  summary.numerator.assign(first, first + shape_.head_dim_v);
  return summary;
}

}  // namespace longspan::explain
