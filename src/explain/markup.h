// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Elements of HTML and SVG, written as XML: what is opened is closed, what is text is escaped.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace longspan::rendering {

std::string escaped(std::string_view text);

struct Attribute {
  Attribute(const char* its_name, std::string its_value)
      : name(its_name), value(std::move(its_value)) {}
  Attribute(const char* its_name, const char* its_value) : name(its_name), value(its_value) {}
  Attribute(const char* its_name, double number);  // a coordinate: two digits behind the point
  Attribute(const char* its_name, std::int64_t number)
      : name(its_name), value(std::to_string(number)) {}

  const char* name;
  std::string value;
};
using Attributes = std::initializer_list<Attribute>;

class Markup {
 public:
  // Open until the end of its scope.
  class Element {
   public:
    Element(Markup& markup, const char* tag) : markup_(&markup), tag_(tag) {}
    Element(Element&& other) noexcept
        : markup_(std::exchange(other.markup_, nullptr)), tag_(other.tag_) {}
    Element& operator=(Element&&) = delete;
    ~Element() {
      if (markup_ != nullptr) markup_->close(tag_);
    }

   private:
    Markup* markup_;
    const char* tag_;
  };

  [[nodiscard]] Element open(const char* tag, Attributes attributes = {});
  void leaf(const char* tag, Attributes attributes, std::string_view text);
  void empty(const char* tag, Attributes attributes);  // <tag ... />
  void text(std::string_view text) { out_ += escaped(text); }
  void raw(std::string_view markup) { out_ += markup; }  // trusted: our own
  std::string take() { return std::move(out_); }

 private:
  void start(const char* tag, Attributes attributes);
  void close(const char* tag);

  std::string out_;
};

}  // namespace longspan::rendering
