// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The record as text for a terminal.
#include <algorithm>

#include "explain/axes.h"
#include "explain/einsum.h"
#include "explain/number_table.h"
#include "explain/plain_text.h"
#include "explain/presentable.h"

namespace longspan {
namespace rendering {
namespace {

constexpr std::size_t kLeastColumns = 40;
constexpr std::size_t kIndent = 2;

const char* escape_sequence(Ink ink) {
  switch (ink) {
    case Ink::kPlain:
      return "";
    case Ink::kTitle:
      return "\x1b[1;36m";
    case Ink::kName:
      return "\x1b[1m";
    case Ink::kFaint:
      return "\x1b[2m";
  }
  return "";
}

class TextPage {
 public:
  TextPage(const Explanation& explanation, const TextStyle& style)
      : explanation_(explanation),
        columns_(std::max<std::size_t>(kLeastColumns,
                                       static_cast<std::size_t>(std::max(style.columns, 0)))),
        colours_(style.colours) {}

  std::string write() {
    write_title(explanation_.title, '=');
    write_prose(explanation_.text, 0);
    std::size_t number = 0;
    for (const ExplainSection& section : explanation_.sections) {
      out_ += '\n';
      write_title(std::to_string(++number) + ". " + section.title, '-');
      write_prose(section.text, 0);
      for (const ExplainStep& step : section.steps) write_step(step);
    }
    return std::move(out_);
  }

 private:
  void write_line(std::size_t indent, const Line& line) {
    out_.append(indent, ' ');
    for (const Piece& piece : line) {
      const bool has_colour = colours_ && piece.ink != Ink::kPlain && !piece.text.empty();
      out_ += has_colour ? escape_sequence(piece.ink) + piece.text + "\x1b[0m" : piece.text;
    }
    out_.erase(out_.find_last_not_of(' ') + 1);
    out_ += '\n';
  }

  void write_wrapped(const std::string& text, std::size_t indent, Ink ink) {
    for (const std::string& line : wrapped(text, columns_ - indent)) {
      write_line(indent, {{line, ink}});
    }
  }

  void write_title(const std::string& title, char underline) {
    write_wrapped(title, 0, Ink::kTitle);
    const std::size_t width = std::min(width_of(title), columns_);
    if (width > 0) write_line(0, {{std::string(width, underline), Ink::kTitle}});
  }

  void write_prose(const std::string& text, std::size_t indent) {
    if (text.empty()) return;
    out_ += '\n';
    write_wrapped(text, indent, Ink::kPlain);
  }

  // A line of pseudo code keeps its indent, when it goes on below, too.
  void write_code(const std::string& line, std::size_t indent) {
    const std::size_t own = std::min(line.size(), line.find_first_not_of(' '));
    write_wrapped(line, std::min(indent + own, columns_ / 2), Ink::kPlain);
  }

  // "label   text", the text's further lines below its first.
  void write_labelled(const std::string& label, const std::string& text, std::size_t indent,
                      std::size_t label_width) {
    std::string shown = label;
    const std::size_t left = indent + label_width;
    for (const std::string& line : wrapped(text, columns_ - left)) {
      write_line(indent,
                 {{shown + std::string(label_width - width_of(shown), ' '), Ink::kFaint}, {line}});
      shown.clear();
    }
  }

  void write_einsum(const ExplainStep& step) {
    constexpr std::size_t kLabel = 8, kRole = 9;
    write_labelled("einsum", step.einsum, kIndent, kLabel);
    const std::optional<Einsum> einsum = explained_einsum(explanation_, step);
    if (!einsum) return;
    for (const LetterRole role : {LetterRole::kKept, LetterRole::kBatched, LetterRole::kSummed}) {
      write_labelled(name_of(role), einsum->list(role), kIndent + kLabel, kRole);
    }
    for (const std::string& line : einsum->loops()) write_code(line, kIndent + kLabel);
  }

  void write_step(const ExplainStep& step) {
    out_ += '\n';
    write_wrapped(step.name + ' ' + axes_and_shape(step), 0, Ink::kName);
    constexpr std::size_t kLabel = 8;
    write_labelled("also", step.also, kIndent, kLabel);
    if (!step.code.empty()) {
      bool is_first = true;
      for (const std::string& line : split(step.code, '\n')) {
        write_labelled(is_first ? "code" : "", line, kIndent, kLabel);
        is_first = false;
      }
    }
    if (!step.einsum.empty()) write_einsum(step);
    if (!(step.also.empty() && step.code.empty() && step.einsum.empty())) out_ += '\n';
    for (const Line& line : number_table(step, columns_ - kIndent)) write_line(kIndent, line);
    write_prose(step.why, kIndent);
  }

  const Explanation& explanation_;
  std::size_t columns_;
  bool colours_;
  std::string out_;
};

}  // namespace
}  // namespace rendering

std::string to_text(const Explanation& explanation, const TextStyle& style) {
  return rendering::TextPage(rendering::presentable(explanation), style).write();
}

}  // namespace longspan
