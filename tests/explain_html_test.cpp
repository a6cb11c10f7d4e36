// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Records as pages of HTML.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "explain_testing.h"
#include "longspan/explain.h"

namespace longspan::test {
namespace {

// No attribute that takes numbers holds a NaN or an infinity.
testing::AssertionResult coordinates_are_numbers(const std::string& html) {
  for (const char* name :
       {" x=\"", " y=\"", " d=\"", " cx=\"", " cy=\"", " x1=\"", " y1=\"", " y2=\"", " width=\"",
        " height=\"", " viewBox=\"", " fill-opacity=\"", " style=\""}) {
    const std::string start = name;
    for (std::size_t at = 0; (at = html.find(start, at)) != std::string::npos;) {
      at += start.size();
      const std::string value = html.substr(at, html.find('"', at) - at);
      if (contains(value, "nan") || contains(value, "inf")) {
        return testing::AssertionFailure() << start << value;
      }
    }
  }
  return testing::AssertionSuccess();
}

TEST(ExplainHtml, EveryPictureIsDrawn) {
  for (const Picture picture : kPictures) {
    SCOPED_TRACE(static_cast<int>(picture));
    for (const std::vector<std::int64_t>& shape : std::vector<std::vector<std::int64_t>>{
             {}, {1}, {5}, {2, 3}, {3, 2, 4}, {2, 3, 2, 2}, {200, 2}, {2, 200}, {30, 3, 3}}) {
      const std::vector<std::string> names = {"query", "head", "key", "feature"};
      ExplainStep step =
          counting_step({names.begin(), names.begin() + static_cast<long>(shape.size())}, shape);
      step.values[0] = -kInf;
      step.values.back() = kNaN;
      step.picture = picture;
      const std::string html = to_html(record_of({step}));
      EXPECT_GE(occurrences(html, "<svg "), 1u);
      EXPECT_EQ(occurrences(html, "<svg "), occurrences(html, "<desc>"));
      EXPECT_TRUE(is_well_formed(html));
      EXPECT_TRUE(coordinates_are_numbers(html));
      step.shape.push_back(0);
      step.axes.emplace_back("none");
      step.values.clear();
      EXPECT_EQ(occurrences(to_html(record_of({step})), "<svg "), 0u);
    }
    for (const double value : {0.0, kNaN, -kInf, 1e308, -1e308, 5e-324}) {
      ExplainStep step = step_of({"query", "key"}, {2, 2}, {value, value, value, -value});
      step.picture = picture;
      EXPECT_TRUE(is_well_formed(to_html(record_of({step})))) << value;
      EXPECT_TRUE(coordinates_are_numbers(to_html(record_of({step})))) << value;
    }
  }
  ExplainStep none = counting_step({"key"}, {3});
  EXPECT_EQ(occurrences(to_html(record_of({none})), "<svg "), 0u);
}

TEST(ExplainHtml, ThePageHoldsTheRecordAndNothingElse) {
  Explanation record = small_record();
  const std::string html = to_html(record);
  EXPECT_TRUE(is_well_formed(html));
  EXPECT_FALSE(needs_others(html));
  EXPECT_TRUE(html.starts_with("<!DOCTYPE html>\n<html lang=\"en\">"));
  for (const char* part :
       {"<title>exact attention: 2 queries, 3 keys</title>", "<p>There is one head.</p>",
        "<a href=\"#section-2\">sort</a>", "<h2>1. chunk 1: keys 8 to 10</h2>",
        "<span class=\"shape\">[query 2, head 1, key 3]</span>",
        "also attn_weights: paper, Figure 1, line 13",
        "np.einsum(&#39;qhd,khd-&gt;qhk&#39;, query, key)",
        "<dt>summed</dt><dd><code>d feature</code>",
        "for each query q:\n  for each head h:", "A score is the product of a query and a key.",
        "<th scope=\"col\">10</th>", "<th scope=\"row\">query 5</th>", "<td>-1.2500</td>",
        "<td class=\"off\">-inf</td>", "query 4, key 10: hidden"}) {
    EXPECT_TRUE(contains(html, part)) << part;
  }
}

TEST(ExplainHtml, AFragmentLeavesItsSurroundingsAlone) {
  Explanation record = small_record();
  const std::string fragment = to_html(record, false);
  EXPECT_TRUE(is_well_formed(fragment));
  EXPECT_FALSE(needs_others(fragment));
  EXPECT_TRUE(fragment.starts_with("<div class=\"longspan\">"));
  for (const char* part : {"<html", "<head", "<body", "<title>exact", "<!DOCTYPE", "<main"}) {
    EXPECT_FALSE(contains(fragment, part)) << part;
  }
  // Every rule of the style is about what stands below the page's class, and outranks a notebook's.
  const std::size_t begin = fragment.find("<style>") + 7;
  const std::string style = fragment.substr(begin, fragment.find("</style>") - begin);
  std::string selectors;
  std::size_t rules = 0;
  for (const char c : style) {
    if (c != '{' && c != '}') {
      selectors += c;
      continue;
    }
    if (c == '{' && !contains(selectors, "@media")) {
      ++rules;
      for (std::size_t at = 0; at != std::string::npos;) {
        const std::size_t comma = selectors.find(',', at);
        const std::size_t start = selectors.find_first_not_of(" \n", at);
        EXPECT_EQ(selectors.compare(start, 27, ".longspan.longspan.longspan"), 0) << selectors;
        at = comma == std::string::npos ? comma : comma + 1;
      }
    }
    selectors.clear();
  }
  EXPECT_GT(rules, 50u);
  // Two records on one page share no id.
  record.sections[0].steps[0].values[0] = 0.25;
  EXPECT_TRUE(is_well_formed(fragment + to_html(record, false)));
  EXPECT_FALSE(is_well_formed(fragment + fragment));
}

TEST(ExplainHtml, LongTablesAreCutInTheMiddle) {
  const std::string html = to_html(record_of({counting_step({"query", "key"}, {100, 60})}));
  EXPECT_TRUE(contains(html, "32 of 100 rows are shown"));
  EXPECT_TRUE(contains(html, "24 of 60 columns are shown"));
  EXPECT_EQ(occurrences(html, "scope=\"row\""), 32u);
  EXPECT_EQ(occurrences(html, "scope=\"col\""), 24u);
  EXPECT_TRUE(contains(html, "<th scope=\"row\">query 15</th>"));
  EXPECT_FALSE(contains(html, "<th scope=\"row\">query 16</th>"));
  EXPECT_TRUE(contains(html, "<th scope=\"row\">query 84</th>"));
}

}  // namespace
}  // namespace longspan::test
