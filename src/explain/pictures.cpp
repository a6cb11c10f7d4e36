// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Steps as inline SVG: the choice, and what all pictures share.
#include "explain/pictures.h"

#include "explain/numbers.h"
#include "explain/plain_text.h"

namespace longspan::rendering {

void draw_picture(Markup& markup, const ExplainStep& step) {
  if (step.picture == Picture::kNone || step.values.empty()) return;
  const auto figure = markup.open("figure", {});
  std::string words;
  {
    const auto box = markup.open("div", {{"class", "scroll maps"}});
    switch (step.picture) {
      case Picture::kNone:
        break;
      case Picture::kHeat:
        words = draw_heat(markup, step);
        break;
      case Picture::kCoverage:
        words = draw_coverage(markup, step);
        break;
      case Picture::kLines:
        words = draw_lines(markup, step);
        break;
      case Picture::kColours:
        words = draw_colours(markup, step);
        break;
      case Picture::kBars:
        words = draw_bars(markup, step);
        break;
    }
  }
  if (!words.empty()) markup.leaf("figcaption", {}, words);
}

Markup::Element open_svg(Markup& markup, double width, double height, const std::string& title,
                         const std::string& description) {
  // On a narrow screen it shrinks as long as it can be read; from there on its box scrolls.
  constexpr double kLeastScale = 0.68;
  const std::string size = trimmed_number(width, 1) + ' ' + trimmed_number(height, 1);
  const std::string range = "max-width:" + trimmed_number(width, 1) +
                            "px;min-width:" + trimmed_number(kLeastScale * width, 1) + "px";
  auto svg = markup.open("svg", {{"viewBox", "0 0 " + size},
                                 {"width", width},
                                 {"height", height},
                                 {"style", range},
                                 {"role", "img"}});
  markup.leaf("title", {}, title);
  markup.leaf("desc", {}, description);
  return svg;
}

void write_label(Markup& markup, double x, double y, const char* anchor, const char* kind,
                 const std::string& text) {
  markup.leaf("text", {{"x", x}, {"y", y}, {"text-anchor", anchor}, {"class", kind}}, text);
}

double label_width(const std::string& text) {
  constexpr double kWidestUsual = 7;  // of a 12 pixel font: digits have 6.7
  return kWidestUsual * static_cast<double>(width_of(text));
}

void draw_square(Markup& markup, double x, double y, double width, double height,
                 const std::string& kind, double opacity, const std::string& caption) {
  const auto square = markup.open("rect", {{"x", x},
                                           {"y", y},
                                           {"width", width},
                                           {"height", height},
                                           {"class", kind},
                                           {"fill-opacity", opacity}});
  markup.leaf("title", {}, caption);
}

std::string colour_of(std::int64_t number) {
  constexpr std::int64_t kColours = 9;
  return "k" + std::to_string((number % kColours + kColours) % kColours);
}

std::string shown_of(std::int64_t shown, std::int64_t count, const char* things) {
  if (shown >= count) return {};
  return std::to_string(shown) + " of " + std::to_string(count) + ' ' + things + " are shown. ";
}

}  // namespace longspan::rendering
