// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Keeps what the engine hands out of the rows that will be shown.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "engine/recorder.h"

namespace longspan::explain {

inline constexpr double kNothing = -std::numeric_limits<double>::infinity();

struct Summary {  // of some keys, for one row: src/partial/merge_rule-inl.h
  explicit Summary(std::int64_t head_dim_v = 0)  // of none
      : numerator(static_cast<std::size_t>(head_dim_v)) {}

  double reference = kNothing;
  double sum = 0;
  std::vector<double> numerator;  // [head_dim_v]

  double lse() const noexcept;
  std::vector<double> output() const;  // 0 of no keys
  void merge(const Summary& part);
};

struct Pair {
  double score = kNothing;  // hidden
  double weight = 0;        // exp(score - reference of the part), as often as the pair stands there
};

// One row in one phase.
struct RowPart {
  Summary part;
  Summary total;  // of this phase and those before, in exact attention
  Pair pair(std::int64_t key) const;

 private:
  friend class Recording;
  struct Met : Pair {
    std::int64_t key = 0;
    double reference = 0;
  };
  std::vector<Met> met_;  // ascending keys once the part is done
};

struct RecordedShape {
  std::int64_t batch = 0;  // the entry
  mask::Range heads;
  std::int64_t phases = 0;
  std::int64_t head_dim_v = 0;
};

class Recording : public engine::Recorder {
 public:
  // `rows`: queries, in ascending order.
  Recording(const RecordedShape& shape, std::span<const std::int64_t> rows, std::int64_t seqlen_q);

  const RowPart& at(std::int64_t phase, std::int64_t head, std::int64_t row) const;

  void tile(const engine::RecordedTile& tile) override;
  void part(const engine::RecordedRows& part) override;
  void total(const engine::RecordedRows& total) override;

 private:
  RowPart* find(const engine::RecordedPlace& place, std::size_t n);
  std::size_t index(std::int64_t phase, std::int64_t head, std::int64_t place) const noexcept {
    return static_cast<std::size_t>(
        (phase * shape_.heads.size() + head - shape_.heads.begin) * rows_ + place);
  }
  Summary summary(const engine::RecordedRows& rows, std::size_t n) const;

  RecordedShape shape_;
  std::int64_t rows_;
  std::vector<std::int64_t> place_of_row_;  // [seqlen_q], -1: not kept
  std::vector<RowPart> parts_;
};

}  // namespace longspan::explain
