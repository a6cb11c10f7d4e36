// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The record as a page of HTML that needs nothing else.
#include <array>
#include <cstdio>

#include "explain/axes.h"
#include "explain/einsum.h"
#include "explain/markup.h"
#include "explain/numbers.h"
#include "explain/page_style.h"
#include "explain/pictures.h"
#include "explain/plain_text.h"
#include "explain/presentable.h"

namespace longspan {
namespace rendering {
namespace {

constexpr std::int64_t kMostRows = 32, kMostColumns = 24, kOpenRows = 16;

// FNV-1a, 32 bits: two records of one notebook must not share the targets of their links.
std::string fingerprint(const Explanation& explanation) {
  std::uint32_t hash = 2166136261u;
  const auto add = [&](std::string_view text) {
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  };
  add(explanation.title);
  for (const ExplainSection& section : explanation.sections) {
    add(section.title);
    for (const ExplainStep& step : section.steps) {
      add(step.name);
      add({reinterpret_cast<const char*>(step.values.data()), step.values.size() * sizeof(double)});
    }
  }
  std::array<char, 16> text;
  std::snprintf(text.data(), text.size(), "ls%08x-", static_cast<unsigned>(hash));
  return text.data();
}

class HtmlPage {
 public:
  HtmlPage(const Explanation& explanation, bool whole_page)
      : explanation_(explanation), id_prefix_(whole_page ? "" : fingerprint(explanation)) {}

  std::string whole_page() {
    markup_.raw("<!DOCTYPE html>\n");
    {
      const auto html = markup_.open("html", {{"lang", "en"}});
      {
        const auto head = markup_.open("head");
        markup_.empty("meta", {{"charset", "utf-8"}});
        markup_.empty("meta",
                      {{"name", "viewport"}, {"content", "width=device-width, initial-scale=1"}});
        markup_.leaf("title", {}, explanation_.title);
        write_style(std::string(kPageStyle) + kWholePageStyle);
      }
      const auto body = markup_.open("body");
      const auto page = markup_.open("main", {{"class", kPageClass}});
      write_content();
    }
    return markup_.take();
  }

  std::string fragment() {
    {
      const auto page = markup_.open("div", {{"class", kPageClass}});
      write_style(outranking(kPageStyle));
      write_content();
    }
    return markup_.take();
  }

 private:
  void write_style(std::string_view rules) {
    const auto style = markup_.open("style");
    markup_.raw(rules);
  }

  std::string id(std::size_t section) const {
    return id_prefix_ + "section-" + std::to_string(section + 1);
  }

  void write_prose(const std::string& text) {
    for (const std::string& paragraph : paragraphs(text)) {
      markup_.leaf("p", {}, paragraph);
      markup_.raw("\n");
    }
  }

  void write_content() {
    markup_.leaf("h1", {}, explanation_.title);
    write_prose(explanation_.text);
    write_contents();
    for (std::size_t i = 0; i < explanation_.sections.size(); ++i) {
      const ExplainSection& section = explanation_.sections[i];
      const auto element = markup_.open("section", {{"id", id(i)}});
      markup_.leaf("h2", {}, std::to_string(i + 1) + ". " + section.title);
      write_prose(section.text);
      for (std::size_t s = 0; s < section.steps.size(); ++s) {
        write_step(section.steps[s], id(i) + '-' + std::to_string(s + 1));
      }
    }
  }

  void write_contents() {
    if (explanation_.sections.size() < 2) return;
    const auto nav = markup_.open("nav", {{"aria-label", "Contents"}});
    const auto list = markup_.open("ol");
    for (std::size_t i = 0; i < explanation_.sections.size(); ++i) {
      const auto item = markup_.open("li");
      markup_.leaf("a", {{"href", '#' + id(i)}}, explanation_.sections[i].title);
    }
  }

  void write_step(const ExplainStep& step, const std::string& its_id) {
    const auto element = markup_.open("section", {{"class", "step"}, {"id", its_id}});
    {
      const auto heading = markup_.open("h3");
      const std::size_t last = step.name.rfind('/') + 1;  // 0 where there is no '/'
      {
        const auto code = markup_.open("code");
        if (last > 0) markup_.leaf("span", {{"class", "part"}}, step.name.substr(0, last));
        markup_.text(step.name.substr(last));
      }
      markup_.leaf("span", {{"class", "shape"}}, axes_and_shape(step));
    }
    if (!step.also.empty()) markup_.leaf("p", {{"class", "also"}}, "also " + step.also);
    write_prose(step.why);
    if (!step.code.empty()) markup_.leaf("pre", {}, step.code);
    write_einsum(step);
    draw_picture(markup_, step);
    write_numbers(step);
  }

  void write_einsum(const ExplainStep& step) {
    if (step.einsum.empty()) return;
    const std::optional<Einsum> einsum = explained_einsum(explanation_, step);
    {
      const auto list = markup_.open("dl", {{"class", "einsum"}});
      write_term("einsum", step.einsum);
      for (const LetterRole role : {LetterRole::kKept, LetterRole::kBatched, LetterRole::kSummed}) {
        if (einsum && !einsum->list(role).empty()) write_term(name_of(role), einsum->list(role));
      }
    }
    if (!einsum) return;
    std::string loops;
    for (const std::string& line : einsum->loops()) loops += (loops.empty() ? "" : "\n") + line;
    markup_.leaf("pre", {}, loops);
  }

  void write_term(const char* term, const std::string& text) {
    const auto pair = markup_.open("div");
    markup_.leaf("dt", {}, term);
    const auto definition = markup_.open("dd");
    markup_.leaf("code", {}, text);
  }

  void write_numbers(const ExplainStep& step) {
    if (step.values.empty()) {
      markup_.leaf("p", {{"class", "also"}}, "Empty: there are no numbers.");
    } else if (step.shape.empty()) {
      markup_.leaf("p", {}, NumberForm(step.values, step.whole_numbers)(step.values[0]));
    } else if (step.picture == Picture::kNone && row_count(step) <= kOpenRows) {
      write_table(step);
    } else {
      const auto details = markup_.open("details");
      markup_.leaf("summary", {}, "Numbers of " + step.name);
      write_table(step);
    }
  }

  void write_table(const ExplainStep& shown) {
    const ExplainStep step = with_single_entries_first(shown);
    const NumberForm form(step.values, step.whole_numbers);
    const Cut rows = cut_to(row_count(step), kMostRows);
    const Cut columns = cut_to(column_count(step), kMostColumns);
    const std::size_t rank = step.shape.size();
    const std::int64_t width = columns.shown() + (columns.left_out() > 0) + 1;
    const auto scroll = markup_.open("div", {{"class", "scroll"}});
    const auto table = markup_.open("table");
    if (rows.left_out() > 0 || columns.left_out() > 0) {
      markup_.leaf("caption", {},
                   "Cut in the middle: " + shown_of(rows.shown(), rows.count, "rows") +
                       shown_of(columns.shown(), columns.count, "columns"));
    }
    write_head(step, columns);
    const auto body = markup_.open("tbody");
    const std::int64_t rows_in_group = rank > 1 ? step.shape[rank - 2] : 1;
    std::int64_t group = -1;
    walk(
        rows,
        [&](std::int64_t, std::int64_t row) {
          if (rank > 2 && row / rows_in_group != group) {
            group = row / rows_in_group;
            const auto line = markup_.open("tr");
            markup_.leaf("th", {{"class", "group"}, {"scope", "rowgroup"}, {"colspan", width}},
                         place_name(step, axes_before_last(step, 2), group));
          }
          write_row(step, form, columns, row);
        },
        [&] {
          const auto line = markup_.open("tr");
          markup_.leaf("td", {{"class", "off"}, {"colspan", width}}, "...");
        });
  }

  void write_head(const ExplainStep& step, const Cut& columns) {
    const auto head = markup_.open("thead");
    const auto line = markup_.open("tr");
    markup_.leaf("td", {{"class", "off"}}, step.axes.back());
    walk(
        columns,
        [&](std::int64_t, std::int64_t column) {
          markup_.leaf("th", {{"scope", "col"}},
                       std::to_string(entry_number(step, step.axes.size() - 1, column)));
        },
        [&] {
          markup_.leaf("td", {{"class", "off"}}, "...");
        });
  }

  void write_row(const ExplainStep& step, const NumberForm& form, const Cut& columns,
                 std::int64_t row) {
    const std::size_t rank = step.shape.size();
    const auto line = markup_.open("tr");
    markup_.leaf("th", {{"scope", "row"}},
                 rank > 1 ? entry_name(step, rank - 2, row % step.shape[rank - 2]) : "value");
    walk(
        columns,
        [&](std::int64_t, std::int64_t column) {
          const double value =
              step.values[static_cast<std::size_t>(row * column_count(step) + column)];
          if (is_hidden(step, value)) {
            markup_.leaf("td", {{"class", "off"}}, "-inf");
          } else {
            markup_.leaf("td", {}, form(value));
          }
        },
        [&] {
          markup_.leaf("td", {{"class", "off"}}, "...");
        });
  }

  const Explanation& explanation_;
  std::string id_prefix_;
  Markup markup_;
};

}  // namespace
}  // namespace rendering

std::string to_html(const Explanation& explanation, bool whole_page) {
  const Explanation shown = rendering::presentable(explanation);
  rendering::HtmlPage page(shown, whole_page);
  return whole_page ? page.whole_page() : page.fragment();
}

}  // namespace longspan
