// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Elements of HTML and SVG, written as XML.
#include "explain/markup.h"

#include "explain/numbers.h"

namespace longspan::rendering {

std::string escaped(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      case '\'':
        result += "&#39;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

Attribute::Attribute(const char* its_name, double number)
    : name(its_name), value(trimmed_number(number, 2)) {}

Markup::Element Markup::open(const char* tag, Attributes attributes) {
  start(tag, attributes);
  out_ += '>';
  return {*this, tag};
}

void Markup::leaf(const char* tag, Attributes attributes, std::string_view its_text) {
  start(tag, attributes);
  out_ += '>' + escaped(its_text) + "</" + tag + '>';
}

void Markup::empty(const char* tag, Attributes attributes) {
  start(tag, attributes);
  out_ += "/>";
}

void Markup::start(const char* tag, Attributes attributes) {
  (out_ += '<') += tag;
  for (const Attribute& attribute : attributes) {
    ((out_ += ' ') += attribute.name) += "=\"" + escaped(attribute.value) + '"';
  }
}

void Markup::close(const char* tag) { ((out_ += "</") += tag) += ">\n"; }

}  // namespace longspan::rendering
