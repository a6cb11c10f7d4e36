// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The style of a page of HTML.
#pragma once

#include <string>

namespace longspan::rendering {

// The class under which all rules stand, so that they leave a notebook around them alone.
inline constexpr const char* kPageClass = "longspan";

// Rules of everything below kPageClass; CSS without '<' and '&', so that it is XML as it stands.
extern const char* const kPageStyle;

// The same for a page inside another: they name their class three times, since notebooks style
// tables and lists by rules of up to two.
std::string outranking(std::string rules);

// Rules of a page that holds nothing else.
extern const char* const kWholePageStyle;

}  // namespace longspan::rendering
