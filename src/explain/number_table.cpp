// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The numbers of a step as lines of text. Rows are the last axis; indices of the axes before the
// last two stand above the rows that share them.
#include "explain/number_table.h"

#include <algorithm>

#include "explain/axes.h"
#include "explain/numbers.h"
#include "explain/plain_text.h"

namespace longspan::rendering {
namespace {

constexpr std::int64_t kMostRows = 24;
constexpr std::size_t kWidestCell = 16;  // an integer below 1e15 with its sign
constexpr const char* kGap = "...";
constexpr const char* kHidden = ".";

class NumberTable {
 public:
  NumberTable(const ExplainStep& step, std::size_t width)
      : step_(step),
        form_(step.values, step.whole_numbers),
        rows_(cut_to(row_count(step), kMostRows)) {
    measure(width);
  }

  std::vector<Line> lines() {
    if (!step_.shape.empty()) write_header();
    walk(
        rows_,
        [&](std::int64_t place, std::int64_t row) {
          write_heading(place);
          write_row(row);
        },
        [&] {
          const std::string count = std::to_string(rows_.left_out());
          add({{indent_ + kGap + ' ' + count + " more rows", Ink::kFaint}});
        });
    write_legend();
    return std::move(lines_);
  }

 private:
  std::size_t rank() const { return step_.shape.size(); }

  double value(std::int64_t row, std::int64_t column) const {
    return step_.values[static_cast<std::size_t>(row * column_count(step_) + column)];
  }

  std::string cell(double value) const {
    if (is_hidden(step_, value)) return kHidden;
    if (step_.picture == Picture::kCoverage) {
      if (value == 0) return ".";
      if (value == 1) return "/";
      if (value == 2) return "#";
    }
    return form_(value);
  }

  std::string row_label(std::int64_t row) const {
    return rank() < 2 ? "" : entry_name(step_, rank() - 2, row % step_.shape[rank() - 2]);
  }

  // How wide labels and cells are, and how many columns fit.
  void measure(std::size_t width) {
    if (rank() > 2) indent_ = "  ";
    if (rank() > 0) label_width_ = width_of(step_.axes.back());
    const std::int64_t columns = column_count(step_);
    for (std::int64_t i = 0; i < rows_.shown(); ++i) {
      const std::int64_t row = rows_.at(i);
      label_width_ = std::max(label_width_, width_of(row_label(row)));
      for (std::int64_t c = 0; c < columns; ++c) {
        cell_width_ = std::max(cell_width_, cell(value(row, c)).size());
      }
    }
    for (std::int64_t c = 0; rank() > 0 && c < columns; ++c) {
      cell_width_ =
          std::max(cell_width_, std::to_string(entry_number(step_, rank() - 1, c)).size());
    }
    label_width_ = std::min(label_width_, width / 3);
    cell_width_ = std::min(cell_width_, kWidestCell);
    if (rank() == 0) {
      columns_ = cut_to(1, 1);
      return;
    }
    const std::size_t room = width - indent_.size() - label_width_;
    const auto count = static_cast<std::size_t>(columns);
    for (const std::size_t space : {2, 1}) {
      space_ = std::string(space, ' ');
      columns_ = cut_to(columns, columns);
      if (count * (cell_width_ + space) <= room) return;
    }
    space_ = "  ";
    const std::size_t gap = space_.size() + width_of(kGap);
    const std::size_t fitting = (room - gap) / (cell_width_ + space_.size());
    columns_ = cut_to(columns, static_cast<std::int64_t>(std::max<std::size_t>(fitting, 1)));
  }

  void add(Line line) { lines_.push_back(std::move(line)); }

  // Appends the piece of each column.
  template <class PieceOf>
  void walk_columns(Line& line, const PieceOf& piece_of) const {
    walk(
        columns_,
        [&](std::int64_t, std::int64_t column) {
          const Piece piece = piece_of(column);
          line.push_back(
              {space_ + right_aligned(clipped(piece.text, cell_width_), cell_width_), piece.ink});
        },
        [&] {
          line.push_back({space_ + kGap, Ink::kFaint});
        });
  }

  void write_header() {
    Line line = {{indent_ + right_aligned(clipped(step_.axes.back(), label_width_), label_width_),
                  Ink::kFaint}};
    walk_columns(line, [&](std::int64_t column) {
      return Piece{std::to_string(entry_number(step_, rank() - 1, column)), Ink::kFaint};
    });
    add(std::move(line));
  }

  // Above the first row of each group, and the first after a gap.
  void write_heading(std::int64_t i) {
    if (rank() < 3) return;
    const std::int64_t rows_in_group = step_.shape[rank() - 2];
    const std::int64_t group = rows_.at(i) / rows_in_group;
    if (i > 0 && !rows_.gap_before(i) && rows_.at(i - 1) / rows_in_group == group) return;
    add({{clipped(place_name(step_, axes_before_last(step_, 2), group), 36), Ink::kFaint}});
  }

  void write_row(std::int64_t row) {
    const std::string label = clipped(row_label(row), label_width_);
    Line line = {{indent_ + label + std::string(label_width_ - width_of(label), ' '), Ink::kFaint}};
    walk_columns(line, [&](std::int64_t column) {
      const double number = value(row, column);
      const bool hides = is_hidden(step_, number);
      hides_ = hides_ || hides;
      return Piece{cell(number), hides ? Ink::kFaint : Ink::kPlain};
    });
    add(std::move(line));
  }

  void write_legend() {
    if (step_.picture == Picture::kCoverage) {
      add({{". hidden   / some pairs hidden", Ink::kFaint}});
      add({{"# all pairs visible", Ink::kFaint}});
    } else if (hides_) {
      add({{std::string(kHidden) + " hidden (-inf)", Ink::kFaint}});
    }
  }

  const ExplainStep& step_;
  NumberForm form_;
  Cut rows_, columns_;
  std::string indent_, space_;
  std::size_t label_width_ = 0, cell_width_ = 1;
  bool hides_ = false;
  std::vector<Line> lines_;
};

}  // namespace

std::vector<Line> number_table(const ExplainStep& step, std::size_t width) {
  if (step.values.empty()) return {{{"empty: there are no numbers", Ink::kFaint}}};
  return NumberTable(with_single_entries_first(step), width).lines();
}

}  // namespace longspan::rendering
