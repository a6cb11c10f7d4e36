// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Lines along the first axis, each with its name at its end.
#include <algorithm>
#include <cmath>

#include "explain/axes.h"
#include "explain/numbers.h"
#include "explain/pictures.h"
#include "explain/plain_text.h"

namespace longspan::rendering {
namespace {

constexpr std::int64_t kMostLines = 6;  // colours of lines in the page's style
constexpr std::int64_t kMostMarks = 64;
constexpr std::size_t kLongestName = 24;
constexpr double kTop = 12, kPlotWidth = 310, kPlotHeight = 200, kLineHeight = 15;

class LinePicture {
 public:
  LinePicture(Markup& markup, const ExplainStep& step) : markup_(markup), step_(step) {
    points_ = step.shape.empty() ? 1 : step.shape[0];
    series_ = static_cast<std::int64_t>(step.values.size()) / points_;
    lines_ = std::min(series_, kMostLines);
    choose_ticks();
    for (const double tick : ticks_) left_ = std::max(left_, label_width(tick_text(tick)) + 10);
  }

  std::string draw() {
    double name_width = 0;
    for (std::int64_t line = 0; line < lines_; ++line) {
      name_width = std::max(name_width, label_width(name_of(line)));
    }
    const double height = kTop + kPlotHeight + 40;
    const auto svg = open_svg(markup_, left_ + kPlotWidth + 24 + name_width, height, step_.name,
                              std::to_string(lines_) + " lines over " + x_axis());
    draw_axes();
    for (std::int64_t line = 0; line < lines_; ++line) draw_line(line);
    write_names();
    return (has_gaps_ ? "A line stops where its number is not finite. " : "") +
           shown_of(lines_, series_, "lines");
  }

 private:
  // A line that is not finite in a place has a gap there.
  double value(std::int64_t point, std::int64_t line) const {
    constexpr double kMost = 1e300;  // ranges of double's ends would overflow
    const double value = step_.values[static_cast<std::size_t>(point * series_ + line)];
    return std::isfinite(value) ? std::clamp(value, -kMost, kMost) : std::nan("");
  }

  std::string x_axis() const {
    return step_.axes.empty() ? "one number" : clipped(step_.axes[0], kLongestName);
  }

  std::string name_of(std::int64_t line) const {
    return clipped(place_name(step_, axes_after_first(step_), line), kLongestName);
  }

  // Round numbers within the range: 4 to 9 of them, 1, 2 or 5 times a power of ten apart.
  void choose_ticks() {
    bool any = false;
    for (std::int64_t point = 0; point < points_; ++point) {
      for (std::int64_t line = 0; line < lines_; ++line) {
        const double y = value(point, line);
        has_gaps_ = has_gaps_ || std::isnan(y);
        if (std::isnan(y)) continue;
        lowest_ = any ? std::min(lowest_, y) : y;
        highest_ = any ? std::max(highest_, y) : y;
        any = true;
      }
    }
    if (!(highest_ - lowest_ > 1e-12 * std::abs(highest_))) {
      const double around = std::max(std::abs(highest_) / 2, 0.5);
      lowest_ -= around;
      highest_ += around;
    }
    const double margin = 0.05 * (highest_ - lowest_);
    lowest_ -= margin;
    highest_ += margin;
    const double rough = (highest_ - lowest_) / 5;
    tick_ = std::pow(10, std::floor(std::log10(rough)));
    for (const double factor : {2.0, 2.5, 2.0}) {
      if (tick_ < rough) tick_ *= factor;
    }
    for (int i = 0; i < 10; ++i) {
      const double y = (std::ceil(lowest_ / tick_) + i) * tick_;
      if (y <= highest_) ticks_.push_back(y);
    }
  }

  std::string tick_text(double tick) const {
    if (highest_ - lowest_ < 1e-4 || std::max(-lowest_, highest_) >= 1e6) {
      return NumberForm({tick}, false)(tick);
    }
    return trimmed_number(tick, std::max(0, -static_cast<int>(std::floor(std::log10(tick_)))));
  }

  double x_of(std::int64_t point) const {
    if (points_ == 1) return left_ + kPlotWidth / 2;
    return left_ + kPlotWidth * static_cast<double>(point) / static_cast<double>(points_ - 1);
  }
  double y_of(double y) const { return kTop + kPlotHeight * (highest_ - y) / (highest_ - lowest_); }

  // So that the numbers below the axis do not touch.
  std::int64_t points_between_ticks() const {
    double widest = 0;
    for (std::int64_t point = 0; point < points_ && !step_.axes.empty(); ++point) {
      widest = std::max(widest, label_width(std::to_string(entry_number(step_, 0, point))));
    }
    const double fitting = kPlotWidth / (widest + 8);
    return static_cast<std::int64_t>(std::ceil(static_cast<double>(points_) / fitting));
  }

  void draw_rule(double x1, double y1, double x2, double y2, const char* kind) {
    markup_.empty("line", {{"x1", x1}, {"y1", y1}, {"x2", x2}, {"y2", y2}, {"class", kind}});
  }

  void draw_axes() {
    for (const double tick : ticks_) {
      draw_rule(left_, y_of(tick), left_ + kPlotWidth, y_of(tick), "grid");
      write_label(markup_, left_ - 8, y_of(tick) + 4, "end", "plain", tick_text(tick));
    }
    const double bottom = kTop + kPlotHeight;
    draw_rule(left_, bottom, left_ + kPlotWidth, bottom, "axis");
    const std::int64_t every = points_between_ticks();
    for (std::int64_t point = 0; point < points_ && !step_.axes.empty(); point += every) {
      draw_rule(x_of(point), bottom, x_of(point), bottom + 4, "axis");
      write_label(markup_, x_of(point), bottom + 17, "middle", "plain",
                  std::to_string(entry_number(step_, 0, point)));
    }
    write_label(markup_, left_ + kPlotWidth / 2, bottom + 34, "middle", "faint", x_axis());
  }

  void draw_line(std::int64_t line) {
    std::string path;
    bool goes_on = false;
    for (std::int64_t point = 0; point < points_; ++point) {
      const double y = value(point, line);
      if (!std::isnan(y)) {
        path += (goes_on ? 'L' : 'M') + trimmed_number(x_of(point), 1) + ' ' +
                trimmed_number(y_of(y), 1);
      }
      goes_on = !std::isnan(y);
    }
    const std::string number = std::to_string(line);
    if (!path.empty()) markup_.empty("path", {{"d", path}, {"class", "line l" + number}});
    for (std::int64_t point = 0; point < points_ && points_ <= kMostMarks; ++point) {
      const double y = value(point, line);
      if (std::isnan(y)) continue;
      const auto mark = markup_.open(
          "circle",
          {{"cx", x_of(point)}, {"cy", y_of(y)}, {"r", 3.0}, {"class", "mark m" + number}});
      std::string caption = name_of(line);
      if (!step_.axes.empty())
        caption += (caption.empty() ? "" : ", ") + entry_name(step_, 0, point);
      markup_.leaf("title", {}, caption + ": " + NumberForm({y}, false)(y));
    }
  }

  // Names beside the ends of their lines, moved apart where these are close.
  void write_names() {
    struct Name {
      double y;
      std::int64_t line;
    };
    std::vector<Name> names;
    for (std::int64_t line = 0; line < lines_; ++line) {
      double y = kTop + kPlotHeight;  // of a line without numbers
      for (std::int64_t point = 0; point < points_; ++point) {
        if (!std::isnan(value(point, line))) y = y_of(value(point, line));
      }
      names.push_back({y, line});
    }
    std::stable_sort(names.begin(), names.end(),
                     [](const Name& a, const Name& b) { return a.y < b.y; });
    double free = kTop;
    for (Name& name : names) {
      name.y = std::max(name.y, free);
      free = name.y + kLineHeight;
    }
    double lowest = kTop + kPlotHeight;
    for (std::size_t i = names.size(); i-- > 0;) {
      names[i].y = std::min(names[i].y, lowest);
      lowest = names[i].y - kLineHeight;
    }
    for (const Name& name : names) {
      write_label(markup_, left_ + kPlotWidth + 10, name.y + 4, "start",
                  ("name n" + std::to_string(name.line)).c_str(), name_of(name.line));
    }
  }

  Markup& markup_;
  const ExplainStep& step_;
  std::int64_t points_ = 0, series_ = 0, lines_ = 0;
  double lowest_ = 0, highest_ = 0, tick_ = 1, left_ = 30;
  bool has_gaps_ = false;
  std::vector<double> ticks_;
};

}  // namespace

std::string draw_lines(Markup& markup, const ExplainStep& step) {
  return LinePicture(markup, step).draw();
}

}  // namespace longspan::rendering
