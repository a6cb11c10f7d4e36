// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Rows of coloured squares with numbers in them, and stacked bars of shares.
#include <algorithm>
#include <cmath>
#include <set>

#include "explain/axes.h"
#include "explain/numbers.h"
#include "explain/pictures.h"
#include "explain/plain_text.h"

namespace longspan::rendering {
namespace {

constexpr std::size_t kLongestName = 40;

// Squares of a kColours picture: rows of the last axis, each below its name.
class ColourPicture {
 public:
  ColourPicture(Markup& markup, const ExplainStep& step)
      : markup_(markup),
        step_(step),
        squares_(cut_to(column_count(step), kMostSquares)),
        rows_(cut_to(row_count(step),
                     std::clamp<std::int64_t>(kMostInAll / squares_.count, 2, kMostRows))) {
    std::set<double> different;
    for (const double value : step.values) {
      if (!std::isfinite(value)) continue;
      different.insert(value);
      highest_ = std::max(highest_, value);
    }
    // More values than colours: the order says more than colours that come again.
    is_ramp_ = different.size() > kColourCount;
    per_line_ = squares_.count <= kLongLine ? squares_.count : kShortLine;
  }

  std::string draw() {
    place_rows();
    const auto svg = open_svg(
        markup_, width_ + 1, height_, step_.name,
        std::to_string(rows_.count) + " rows of " + std::to_string(squares_.count) + " numbers");
    for (const Heading& heading : headings_) {
      write_label(markup_, 0, heading.y, "start", "strong", heading.text);
    }
    for (std::int64_t i = 0; i < rows_.shown(); ++i) {
      draw_row(rows_.at(i), corners_[static_cast<std::size_t>(i)]);
    }
    std::string words;
    if (!step_.axes.empty()) {
      words = "Above each square its " + clipped(step_.axes.back(), kLongestName) + ". ";
    }
    words += is_ramp_ ? "The larger a number, the stronger its colour. "
                      : "Equal numbers have equal colours. ";
    return words + shown_of(rows_.shown(), rows_.count, "rows") +
           shown_of(squares_.shown(), squares_.count, "columns");
  }

 private:
  static constexpr std::size_t kColourCount = 9;
  static constexpr std::int64_t kMostSquares = 128, kMostInAll = 1024, kMostRows = 64;
  static constexpr std::int64_t kLongLine = 20, kShortLine = 16, kSideBySide = 6;
  static constexpr double kPitch = 30, kSquare = 27, kNameHeight = 18, kNumberHeight = 14;
  static constexpr double kRowSpace = 12, kGroupSpace = 24, kWidest = 480;

  struct Heading {
    double y;
    std::string text;
  };
  struct Corner {
    double x, y;
  };

  // Rows that are short stand side by side as long as the first axis stays, below its name.
  bool has_groups() const { return step_.shape.size() > 2 && squares_.count <= kSideBySide; }

  std::string name_of(std::int64_t row) const {
    std::vector<std::size_t> axes = axes_before_last(step_);
    if (has_groups()) {
      axes.erase(axes.begin());
      row %= row_count(step_) / step_.shape[0];
    }
    return clipped(place_name(step_, axes, row), kLongestName);
  }

  void place_rows() {
    const std::int64_t lines = (squares_.shown() + per_line_ - 1) / per_line_;
    const double row_height = (step_.shape.size() < 2 ? 0 : kNameHeight) +
                              static_cast<double>(lines) * (kNumberHeight + kPitch);
    const double squares_width =
        static_cast<double>(std::min(per_line_, squares_.shown())) * kPitch;
    const std::int64_t rows_in_group = has_groups() ? rows_.count / step_.shape[0] : rows_.count;
    double x = 0, y = 0;
    for (std::int64_t i = 0; i < rows_.shown(); ++i) {
      const std::int64_t row = rows_.at(i), group = row / rows_in_group;
      const double width = std::max(squares_width, label_width(name_of(row)));
      const bool begins = i == 0 || rows_.gap_before(i) || rows_.at(i - 1) / rows_in_group != group;
      if (i > 0 && (begins || squares_.count > kSideBySide || x + width > kWidest)) {
        x = 0;
        y += row_height + kRowSpace;
      }
      if (begins && has_groups()) {
        headings_.push_back({y + 12, clipped(entry_name(step_, 0, group), kLongestName)});
        y += kNameHeight + 2;
      }
      corners_.push_back({x, y});
      width_ = std::max(width_, x + width);
      x += width + kGroupSpace;
    }
    height_ = y + row_height;
  }

  void draw_row(std::int64_t row, const Corner& corner) {
    const std::string name = name_of(row);
    double top = corner.y;
    if (!name.empty()) {
      write_label(markup_, corner.x, top + 12, "start", has_groups() ? "plain" : "strong", name);
      top += kNameHeight;
    }
    for (std::int64_t i = 0; i < squares_.shown(); ++i) {
      const std::int64_t column = squares_.at(i);
      const std::int64_t line = i / per_line_;
      const double x = corner.x + kPitch * static_cast<double>(i - line * per_line_);
      const double y = top + (kNumberHeight + kPitch) * static_cast<double>(line);
      draw_number(x, y, row, column);
    }
  }

  void draw_number(double x, double y, std::int64_t row, std::int64_t column) {
    const double value = step_.values[static_cast<std::size_t>(row * column_count(step_) + column)];
    std::string caption = short_or_whole(value);
    if (!step_.axes.empty()) {
      const std::size_t axis = step_.axes.size() - 1;
      write_label(markup_, x + kSquare / 2, y + 10, "middle", "faint",
                  std::to_string(entry_number(step_, axis, column)));
      caption = entry_name(step_, axis, column) + ": " + caption;
    }
    const bool has_colour = std::isfinite(value);
    std::string kind = "cell";
    double opacity = 0;
    if (has_colour && is_ramp_) {
      kind += " plus";
      opacity = highest_ > 0 ? 0.78 * std::clamp(value / highest_, 0.0, 1.0) : 0;
    } else if (has_colour) {
      kind += ' ' + colour_of(static_cast<std::int64_t>(std::fmod(value, kColourCount)));
      opacity = 1;
    }
    draw_square(markup_, x, y + kNumberHeight, kSquare, kSquare, kind, opacity, caption);
    write_label(markup_, x + kSquare / 2, y + kNumberHeight + kSquare / 2 + 4.5, "middle",
                has_colour && !is_ramp_ ? "dark" : "number", short_or_whole(value));
  }

  static std::string short_or_whole(double value) {
    return value == std::trunc(value) && std::abs(value) < 1e4 ? trimmed_number(value, 0)
                                                               : short_number(value);
  }

  Markup& markup_;
  const ExplainStep& step_;
  Cut squares_, rows_;
  std::int64_t per_line_ = 1;
  bool is_ramp_ = false;
  double highest_ = 0, width_ = 0, height_ = 0;
  std::vector<Heading> headings_;
  std::vector<Corner> corners_;
};

class BarPicture {
 public:
  BarPicture(Markup& markup, const ExplainStep& step) : markup_(markup), step_(step) {
    shares_ = step.shape.empty() ? 1 : step.shape[0];
    bars_ = cut_to(static_cast<std::int64_t>(step.values.size()) / shares_, kMostBars);
  }

  std::string draw() {
    double left = 0;
    for (std::int64_t i = 0; i < bars_.shown(); ++i) {
      left = std::max(left, label_width(name_of(bars_.at(i))));
    }
    left += left > 0 ? 10 : 1;
    {
      const auto svg =
          open_svg(markup_, left + kLength + 14,
                   static_cast<double>(bars_.shown()) * kPitch + kScaleHeight, step_.name,
                   std::to_string(bars_.count) + " bars of " + std::to_string(shares_) + " shares");
      for (std::int64_t i = 0; i < bars_.shown(); ++i) {
        draw_bar(bars_.at(i), left, static_cast<double>(i) * kPitch);
      }
      draw_scale(left, static_cast<double>(bars_.shown()) * kPitch);
    }
    write_legend();
    return "Shares of 1. " + shown_of(bars_.shown(), bars_.count, "bars");
  }

 private:
  static constexpr std::int64_t kMostBars = 24, kMostInLegend = 12;
  static constexpr double kLength = 360, kPitch = 26, kThickness = 20, kScaleHeight = 22;

  double share(std::int64_t number, std::int64_t bar) const {
    const double value = step_.values[static_cast<std::size_t>(number * bars_.count + bar)];
    return std::isfinite(value) && value > 0 ? value : 0;
  }

  std::string name_of(std::int64_t bar) const {
    return clipped(place_name(step_, axes_after_first(step_), bar), kLongestName);
  }

  std::string share_name(std::int64_t number) const {
    return step_.axes.empty() ? "share" : clipped(entry_name(step_, 0, number), kLongestName);
  }

  void draw_bar(std::int64_t bar, double left, double top) {
    write_label(markup_, left - 10, top + kThickness / 2 + 4, "end", "plain", name_of(bar));
    double sum = 0;
    for (std::int64_t number = 0; number < shares_; ++number) sum += share(number, bar);
    const double length = kLength / std::max(1.0, sum);
    double x = left;
    for (std::int64_t number = 0; number < shares_; ++number) {
      const double value = share(number, bar), width = value * length;
      if (!(width > 0)) continue;
      draw_square(markup_, x, top, width, kThickness, "cell " + colour_of(number), 1,
                  share_name(number) + ": " + NumberForm({value}, false)(value));
      const std::string text = short_number(value);
      if (label_width(text) + 4 <= width) {
        write_label(markup_, x + width / 2, top + kThickness / 2 + 4, "middle", "dark", text);
      }
      x += width;
    }
  }

  void draw_scale(double left, double top) {
    for (const double at : {0.0, 0.25, 0.5, 0.75, 1.0}) {
      const double x = left + at * kLength;
      markup_.empty("line",
                    {{"x1", x}, {"y1", top - 4}, {"x2", x}, {"y2", top + 1}, {"class", "axis"}});
      write_label(markup_, x, top + 16, "middle", "faint", trimmed_number(at, 2));
    }
  }

  void write_legend() {
    const auto box = markup_.open("div", {{"class", "legend"}});
    for (std::int64_t number = 0; number < std::min(shares_, kMostInLegend); ++number) {
      const std::string name = share_name(number);
      const auto svg = open_svg(markup_, 25 + label_width(name), 20, "legend", name);
      draw_square(markup_, 1, 2, 16, 16, "cell " + colour_of(number), 1, name);
      write_label(markup_, 23, 14, "start", "plain", name);
    }
  }

  Markup& markup_;
  const ExplainStep& step_;
  std::int64_t shares_ = 0;
  Cut bars_;
};

}  // namespace

std::string draw_colours(Markup& markup, const ExplainStep& step) {
  return ColourPicture(markup, step).draw();
}

std::string draw_bars(Markup& markup, const ExplainStep& step) {
  return BarPicture(markup, step).draw();
}

}  // namespace longspan::rendering
