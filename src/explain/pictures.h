// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Steps as inline SVG. Colours are classes of the page's style (page_style.cpp), so that they
// follow light and dark; nothing is said by colour alone.
#pragma once

#include "explain/markup.h"
#include "longspan/explain.h"

namespace longspan::rendering {

// A <figure> with the step's picture; nothing for Picture::kNone and for a step without numbers.
void draw_picture(Markup& markup, const ExplainStep& step);

// What draw_picture chooses from. Each writes one or more <svg> and returns the words below them;
// they may be none.
std::string draw_heat(Markup& markup, const ExplainStep& step);
std::string draw_coverage(Markup& markup, const ExplainStep& step);
std::string draw_lines(Markup& markup, const ExplainStep& step);
std::string draw_colours(Markup& markup, const ExplainStep& step);
std::string draw_bars(Markup& markup, const ExplainStep& step);

// What they share. Lengths are CSS pixels.

// A drawing, with a title and a description for those who do not see it.
[[nodiscard]] Markup::Element open_svg(Markup& markup, double width, double height,
                                       const std::string& title, const std::string& description);

// Text whose baseline starts ("start"), ends ("end") or has its middle ("middle") at x. Kinds are
// "plain", "faint", "strong" and "dark" (on colours).
void write_label(Markup& markup, double x, double y, const char* anchor, const char* kind,
                 const std::string& text);
// How much room such text needs, at most.
double label_width(const std::string& text);

// A square with a caption for the mouse.
void draw_square(Markup& markup, double x, double y, double width, double height,
                 const std::string& kind, double opacity, const std::string& caption);

// One of nine colours on which dark text can be read, again and again.
std::string colour_of(std::int64_t number);

// "6 of 16 lines are shown. ", or nothing.
std::string shown_of(std::int64_t shown, std::int64_t count, const char* things);

}  // namespace longspan::rendering
