// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Hand-made records of steps, and what may be said of a rendering without reading it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "longspan/explain.h"

namespace longspan::test {

inline constexpr double kInf = std::numeric_limits<double>::infinity();
inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

inline constexpr Picture kPictures[] = {Picture::kHeat, Picture::kCoverage, Picture::kLines,
                                        Picture::kColours, Picture::kBars};

inline ExplainStep step_of(std::vector<std::string> axes, std::vector<std::int64_t> shape,
                           std::vector<double> values) {
  ExplainStep step;
  step.name = "step";
  step.axes = std::move(axes);
  step.shape = std::move(shape);
  step.values = std::move(values);
  return step;
}

// Values 0.5, 1.5, ... in the given shape.
inline ExplainStep counting_step(std::vector<std::string> axes, std::vector<std::int64_t> shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  std::vector<double> values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(0.5 + static_cast<double>(i));
  return step_of(std::move(axes), std::move(shape), std::move(values));
}

inline Explanation record_of(std::vector<ExplainStep> steps) {
  Explanation record;
  record.method = "exact";
  record.title = "a title";
  record.sections = {{"a section", "", std::move(steps)}};
  return record;
}

inline ExplainStep scores() {
  ExplainStep step = step_of({"query", "head", "key"}, {2, 1, 3}, {0.5, -1.25, -kInf, 2, 1e-7, 0});
  step.name = "chunk_1/scores";
  step.also = "attn_weights: paper, Figure 1, line 13";
  step.code = "scores = np.einsum('qhd,khd->qhk', query, key)";
  step.einsum = "qhd,khd->qhk";
  step.index = {{4, 5}, {}, {8, 9, 10}};
  step.picture = Picture::kHeat;
  step.why = "A score is the product of a query and a key.";
  return step;
}

inline Explanation small_record() {
  Explanation record = record_of({scores()});
  record.title = "exact attention: 2 queries, 3 keys";
  record.text = "Two queries meet\nthree keys.\n\nThere is one head.";
  record.sections[0].title = "chunk 1: keys 8 to 10";
  record.sections[0].text = "The first part of the keys.";
  ExplainStep order = step_of({"slot"}, {4}, {3, 0, 2, 1});
  order.name = "order";
  order.whole_numbers = true;
  record.sections.push_back({"sort", "", {order}});
  return record;
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines(1);
  for (const char c : text) {
    if (c == '\n') {
      lines.emplace_back();
    } else {
      lines.back() += c;
    }
  }
  return lines;
}

inline std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) {
    ++count;
  }
  return count;
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Code points, and nothing that is no UTF-8 or steers a terminal.
inline testing::AssertionResult is_harmless(const std::string& text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = [&](std::size_t k) {
      return k < text.size() ? static_cast<unsigned char>(text[k]) : 0u;
    };
    const unsigned lead = byte(i);
    if ((lead < 0x20 && lead != '\n') || lead == 0x7F) {
      return testing::AssertionFailure() << "control character " << lead << " at " << i;
    }
    if (lead < 0x80) continue;
    const std::size_t bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 0;
    if (bytes == 0) return testing::AssertionFailure() << "no UTF-8 at " << i;
    for (std::size_t k = 1; k < bytes; ++k) {
      if ((byte(i + k) & 0xC0) != 0x80) return testing::AssertionFailure() << "no UTF-8 at " << i;
    }
    if (lead == 0xC2 && byte(i + 1) < 0xA0) return testing::AssertionFailure() << "C1 at " << i;
    const bool bidi =
        lead == 0xE2 && ((byte(i + 1) == 0x80 && byte(i + 2) >= 0xA8 && byte(i + 2) <= 0xAE) ||
                         (byte(i + 1) == 0x81 && byte(i + 2) >= 0xA6 && byte(i + 2) <= 0xA9));
    if (bidi) return testing::AssertionFailure() << "bidi or separator at " << i;
    i += bytes - 1;
  }
  return testing::AssertionSuccess();
}

inline std::size_t columns_of(const std::string& line) {
  return static_cast<std::size_t>(std::count_if(line.begin(), line.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

// Elements are closed in turn, attributes are quoted and appear once, '&' begins a reference, ids
// are unique, and links lead to them. What stands in <style> is CSS.
inline testing::AssertionResult is_well_formed(const std::string& html) {
  std::vector<std::string> open;
  std::set<std::string> ids;
  std::vector<std::string> targets;
  const auto fault = [&](const std::string& what, std::size_t at) {
    return testing::AssertionFailure() << what << " at " << at << ": " << html.substr(at, 60);
  };
  for (std::size_t at = 0; at < html.size(); ++at) {
    const char c = html[at];
    if (c == '>') return fault("stray >", at);
    if (c == '&') {
      const std::string entity = html.substr(at, html.find(';', at) + 1 - at);
      if (!std::set<std::string>{"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"}.contains(entity)) {
        return fault("no reference", at);
      }
    }
    if (c != '<') continue;
    const std::size_t end = html.find('>', at);
    if (end == std::string::npos) return fault("tag without end", at);
    std::string tag = html.substr(at + 1, end - at - 1);
    const std::size_t begin = at;
    at = end;
    if (tag == "!DOCTYPE html") continue;
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return fault("closes another", begin);
      open.pop_back();
      continue;
    }
    const bool is_empty = tag.back() == '/';
    if (is_empty) tag.pop_back();
    const std::size_t name_end = std::min(tag.size(), tag.find(' '));
    const std::string name = tag.substr(0, name_end);
    std::set<std::string> attributes;
    for (std::size_t i = name_end; i < tag.size();) {
      const std::size_t quote = tag.find("=\"", i);
      const std::size_t close = quote == std::string::npos ? quote : tag.find('"', quote + 2);
      if (tag[i] != ' ' || close == std::string::npos) return fault("attribute", begin);
      const std::string attribute = tag.substr(i + 1, quote - i - 1);
      const std::string value = tag.substr(quote + 2, close - quote - 2);
      if (!attributes.insert(attribute).second) return fault("attribute twice", begin);
      if (contains(value, "<")) return fault("< in an attribute", begin);
      if (attribute == "id" && !ids.insert(value).second) return fault("id twice", begin);
      if (attribute == "href") targets.push_back(value);
      i = close + 1;
    }
    if (is_empty) continue;
    if (name == "style") {
      at = html.find("</style>", end) - 1;
      if (html.substr(end + 1, at - end).find_first_of("<&") != std::string::npos) {
        return fault("style", begin);
      }
    }
    open.push_back(name);
  }
  if (!open.empty()) return testing::AssertionFailure() << open.back() << " stays open";
  for (const std::string& target : targets) {
    if (target[0] != '#' || !ids.contains(target.substr(1))) {
      return testing::AssertionFailure() << "link leads nowhere: " << target;
    }
  }
  return testing::AssertionSuccess();
}

inline bool needs_others(const std::string& html) {
  for (const char* what : {"<script", "<link", "<img", "<iframe", "<object",
                           "http:", "https:", "url(", "@import", "javascript:"}) {
    if (contains(html, what)) return true;
  }
  return false;
}

}  // namespace longspan::test
