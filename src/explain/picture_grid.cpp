// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Heat maps and coverage: maps of squares, one for each index of the axes that are neither rows nor
// columns.
#include <algorithm>
#include <cmath>
#include <optional>

#include "explain/axes.h"
#include "explain/numbers.h"
#include "explain/pictures.h"
#include "explain/plain_text.h"

namespace longspan::rendering {
namespace {

constexpr std::int64_t kMostMaps = 16, kMostSquares = 32, kMostWithNumbers = 16;
constexpr double kGap = 16;            // where squares were left out
constexpr double kFullOpacity = 0.78;  // leaves text on it readable
constexpr std::size_t kLongestName = 18;

// Which axes of a step are the rows, the columns and the maps. Rows are the queries where there are
// some: a tile of scores is [query, key] to its reader wherever the heads stand.
class GridAxes {
 public:
  explicit GridAxes(const ExplainStep& step) : step_(step), strides_(step.shape.size(), 1) {
    const std::size_t rank = step.shape.size();
    for (std::size_t axis = rank; axis-- > 1;) {
      strides_[axis - 1] = strides_[axis] * step.shape[axis];
    }
    if (rank > 0) column_ = rank - 1;
    if (rank > 1) row_ = rank - 2;
    for (std::size_t axis = 0; axis + 1 < rank; ++axis) {
      if (step.axes[axis].starts_with("query")) row_ = axis;
    }
    for (std::size_t axis = 0; axis < rank; ++axis) {
      if (axis != row_ && axis != column_) others_.push_back(axis);
    }
  }

  std::int64_t rows() const { return size(row_); }
  std::int64_t columns() const { return size(column_); }
  std::int64_t maps() const {
    std::int64_t count = 1;
    for (const std::size_t axis : others_) count *= step_.shape[axis];
    return count;
  }

  double value(std::int64_t map, std::int64_t row, std::int64_t column) const {
    std::int64_t place = stride(row_) * row + stride(column_) * column;
    for (std::size_t i = others_.size(); i-- > 0;) {
      place += strides_[others_[i]] * (map % step_.shape[others_[i]]);
      map /= step_.shape[others_[i]];
    }
    return step_.values[static_cast<std::size_t>(place)];
  }

  // "head 1", "round 0, head 1"; empty where there is one map.
  std::string map_name(std::int64_t map) const { return place_name(step_, others_, map); }
  std::string row_axis() const { return axis_name(row_); }
  std::string column_axis() const { return axis_name(column_); }
  std::string row_number(std::int64_t row) const { return number(row_, row); }
  std::string column_number(std::int64_t column) const { return number(column_, column); }

 private:
  std::int64_t size(std::optional<std::size_t> axis) const { return axis ? step_.shape[*axis] : 1; }
  std::int64_t stride(std::optional<std::size_t> axis) const { return axis ? strides_[*axis] : 0; }
  std::string axis_name(std::optional<std::size_t> axis) const {
    return axis ? clipped(step_.axes[*axis], kLongestName) : "";
  }
  std::string number(std::optional<std::size_t> axis, std::int64_t entry) const {
    return axis ? std::to_string(entry_number(step_, *axis, entry)) : "";
  }

  const ExplainStep& step_;
  std::vector<std::int64_t> strides_;
  std::optional<std::size_t> row_, column_;
  std::vector<std::size_t> others_;
};

// Oblique lines over a rectangle, as the data of a path.
std::string hatching(double x, double y, double width, double height) {
  constexpr double kSpace = 6;
  std::string data;
  for (int line = 1; line * kSpace < width + height; ++line) {
    const double start = line * kSpace - height;
    const double from = std::max(0.0, -start), to = std::min(height, width - start);
    if (from >= to) continue;
    const auto point = [&](double along) {
      return trimmed_number(x + start + along, 1) + ' ' + trimmed_number(y + height - along, 1);
    };
    data += 'M' + point(from) + 'L' + point(to);
  }
  return data;
}

struct Square {
  double x, y, width, height;
};

void draw_hidden(Markup& markup, const Square& square, const std::string& caption) {
  draw_square(markup, square.x, square.y, square.width, square.height, "cell", 0, caption);
  markup.empty("path", {{"d", hatching(square.x, square.y, square.width, square.height)},
                        {"class", "hatch"}});
}

// Maps with names of their axes; draw(square, value, caption) fills a square.
class GridPicture {
 public:
  GridPicture(Markup& markup, const ExplainStep& step, double width, double height)
      : markup_(markup),
        step_(step),
        axes_(step),
        width_(width),
        height_(height),
        rows_(cut_to(axes_.rows(), kMostSquares)),
        columns_(cut_to(axes_.columns(), kMostSquares)),
        maps_(cut_to(axes_.maps(), kMostMaps)) {}

  template <class Draw>
  void draw_maps(const Draw& draw) const {
    for (std::int64_t i = 0; i < maps_.shown(); ++i) draw_map(maps_.at(i), draw);
  }

  std::string words() const {
    return shown_of(rows_.shown(), rows_.count, "rows") +
           shown_of(columns_.shown(), columns_.count, "columns") +
           shown_of(maps_.shown(), maps_.count, "maps");
  }

 private:
  static double extent(const Cut& cut, double size) {
    return static_cast<double>(cut.shown()) * size + (cut.left_out() > 0 ? kGap : 0);
  }
  static double place_of(const Cut& cut, std::int64_t i, double size) {
    return static_cast<double>(i) * size + (cut.left_out() > 0 && i >= cut.head ? kGap : 0);
  }

  template <class Draw>
  void draw_map(std::int64_t map, const Draw& draw) const {
    const std::string name = axes_.map_name(map);
    double left = label_width(axes_.row_axis());
    for (std::int64_t i = 0; i < rows_.shown(); ++i) {
      left = std::max(left, label_width(axes_.row_number(rows_.at(i))));
    }
    left += left > 0 ? 8 : 1;
    const double name_height = name.empty() ? 0 : 20;
    const double top = name_height + (axes_.column_axis().empty() ? 1 : 36);
    const double right = left + extent(columns_, width_);
    const double total =
        std::max({right + 1, label_width(name), left + label_width(axes_.column_axis())});
    const auto svg = open_svg(
        markup_, total, top + extent(rows_, height_) + 1,
        step_.name + (name.empty() ? "" : ", " + name),
        std::to_string(axes_.rows()) + " rows, " + std::to_string(axes_.columns()) + " columns");
    if (!name.empty()) write_label(markup_, 0, 13, "start", "strong", name);
    write_numbers(left, top);
    for (std::int64_t r = 0; r < rows_.shown(); ++r) {
      for (std::int64_t c = 0; c < columns_.shown(); ++c) {
        const double value = axes_.value(map, rows_.at(r), columns_.at(c));
        draw(Square{left + place_of(columns_, c, width_), top + place_of(rows_, r, height_), width_,
                    height_},
             value, caption(rows_.at(r), columns_.at(c), value));
      }
    }
  }

  std::string caption(std::int64_t row, std::int64_t column, double value) const {
    std::string place;
    if (!axes_.row_axis().empty()) place = axes_.row_axis() + ' ' + axes_.row_number(row) + ", ";
    if (!axes_.column_axis().empty()) {
      place += axes_.column_axis() + ' ' + axes_.column_number(column) + ": ";
    }
    return place + (is_hidden(step_, value) ? "hidden" : NumberForm({value}, false)(value));
  }

  void write_numbers(double left, double top) const {
    const auto write_gap = [&](double x, double y) {
      write_label(markup_, x, y, "middle", "faint", "...");
    };
    if (!axes_.column_axis().empty()) {
      write_label(markup_, left, top - 22, "start", "faint", axes_.column_axis());
      double widest = 0;
      for (std::int64_t i = 0; i < columns_.shown(); ++i) {
        widest = std::max(widest, label_width(axes_.column_number(columns_.at(i))) + 4);
      }
      const auto every =
          std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(widest / width_)));
      for (std::int64_t i = 0; i < columns_.shown(); i += every) {
        write_label(markup_, left + place_of(columns_, i, width_) + width_ / 2, top - 6, "middle",
                    "plain", axes_.column_number(columns_.at(i)));
      }
      if (columns_.left_out() > 0) {
        write_gap(left + place_of(columns_, columns_.head, width_) - kGap / 2, top + height_ / 2);
      }
    }
    if (axes_.row_axis().empty()) return;
    write_label(markup_, left - 8, top - 6, "end", "faint", axes_.row_axis());
    for (std::int64_t i = 0; i < rows_.shown(); ++i) {
      write_label(markup_, left - 8, top + place_of(rows_, i, height_) + height_ / 2 + 4, "end",
                  "plain", axes_.row_number(rows_.at(i)));
    }
    if (rows_.left_out() > 0) {
      write_gap(left + width_ / 2, top + place_of(rows_, rows_.head, height_) - kGap / 2 + 3);
    }
  }

  Markup& markup_;
  const ExplainStep& step_;
  GridAxes axes_;
  double width_, height_;
  Cut rows_, columns_, maps_;
};

struct Range {
  double lowest = 0, highest = 0, size = 0;  // size: the largest |value|; all finite
  bool hides = false;
};

Range range_of(const ExplainStep& step) {
  Range range;
  for (const double value : step.values) {
    range.hides = range.hides || is_hidden(step, value);
    if (!std::isfinite(value)) continue;
    range.lowest = std::min(range.lowest, value);
    range.highest = std::max(range.highest, value);
    range.size = std::max(range.size, std::abs(value));
  }
  return range;
}

double opacity_of(double value, const Range& range) {
  return range.size > 0 ? kFullOpacity * std::abs(value) / range.size : 0;
}

const char* kind_of(double value) { return value < 0 ? "cell minus" : "cell plus"; }

// Squares of a legend with words beside them.
class Legend {
 public:
  explicit Legend(Markup& markup) : markup_(markup) {}

  template <class Draw>
  void add(const std::string& words, const Draw& draw) {
    {
      const auto svg = open_svg(markup_, 25 + label_width(words), 20, "legend", words);
      draw(Square{1, 2, 16, 16});
      write_label(markup_, 23, 14, "start", "plain", words);
    }
  }

 private:
  Markup& markup_;
};

// A scale from the lowest to the highest number, and what a hatched square is.
void draw_scale(Markup& markup, const Range& range) {
  const auto box = markup.open("div", {{"class", "legend"}});
  if (range.size > 0) {
    const std::string low = short_number(range.lowest), high = short_number(range.highest);
    const int steps = range.lowest < 0 && range.highest > 0 ? 9 : 5;
    const double left = label_width(low) + 6, right = left + 16 * steps;
    const auto svg =
        open_svg(markup, right + 6 + label_width(high), 20, "scale", "from " + low + " to " + high);
    write_label(markup, 0, 14, "start", "plain", low);
    for (int i = 0; i < steps; ++i) {
      const double share = static_cast<double>(i) / (steps - 1);
      const double value = (1 - share) * range.lowest + share * range.highest;
      draw_square(markup, left + 16 * i, 2, 16, 16, kind_of(value), opacity_of(value, range),
                  short_number(value));
    }
    write_label(markup, right + 6, 14, "start", "plain", high);
  }
  if (range.hides) {
    Legend(markup).add("hidden (-inf)",
                       [&](const Square& square) { draw_hidden(markup, square, "hidden"); });
  }
}

void draw_some(Markup& markup, const Square& square, const std::string& caption) {
  draw_square(markup, square.x, square.y, square.width, square.height, "cell", 0, caption);
  const auto point = [](double x, double y) {
    return trimmed_number(x, 1) + ' ' + trimmed_number(y, 1);
  };
  markup.empty("path", {{"d", 'M' + point(square.x, square.y) + 'L' +
                                  point(square.x, square.y + square.height) + 'L' +
                                  point(square.x + square.width, square.y + square.height) + 'Z'},
                        {"class", "some"}});
}

void draw_all(Markup& markup, const Square& square, const std::string& caption) {
  draw_square(markup, square.x, square.y, square.width, square.height, "cell all", 1, caption);
}

}  // namespace

std::string draw_heat(Markup& markup, const ExplainStep& step) {
  const Range range = range_of(step);
  const bool with_numbers = column_count(step) <= kMostWithNumbers;
  const GridPicture picture(markup, step, with_numbers ? 44 : 17, with_numbers ? 25 : 17);
  picture.draw_maps([&](const Square& square, double value, const std::string& caption) {
    if (is_hidden(step, value)) return draw_hidden(markup, square, caption);
    const double opacity = std::isfinite(value) ? opacity_of(value, range) : 0;
    draw_square(markup, square.x, square.y, square.width, square.height, kind_of(value), opacity,
                caption);
    if (with_numbers || !std::isfinite(value)) {
      write_label(markup, square.x + square.width / 2, square.y + square.height / 2 + 4, "middle",
                  "number", with_numbers ? short_number(value) : "!");
    }
  });
  draw_scale(markup, range);
  const char* const sides =
      range.lowest < 0 && range.highest > 0 ? "Blue is above 0, orange below. " : "";
  return sides + picture.words();
}

std::string draw_coverage(Markup& markup, const ExplainStep& step) {
  const GridPicture picture(markup, step, 24, 24);
  picture.draw_maps([&](const Square& square, double value, const std::string& caption) {
    if (value == 0) return draw_hidden(markup, square, caption);
    if (value == 1) return draw_some(markup, square, caption);
    draw_all(markup, square, caption);
  });
  const auto box = markup.open("div", {{"class", "legend"}});
  Legend legend(markup);
  legend.add("no pair is visible: skipped",
             [&](const Square& square) { draw_hidden(markup, square, "hidden"); });
  legend.add("some pairs are hidden",
             [&](const Square& square) { draw_some(markup, square, "some"); });
  legend.add("all pairs are visible",
             [&](const Square& square) { draw_all(markup, square, "all"); });
  return picture.words();
}

}  // namespace longspan::rendering
