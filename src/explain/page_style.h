// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The style of a page of HTML.
#pragma once

namespace longspan::rendering {

// The class under which all rules stand, so that they leave a notebook around them alone.
inline constexpr const char* kPageClass = "longspan";

// Rules of everything below kPageClass; CSS without '<' and '&', so that it is XML as it stands.
extern const char* const kPageStyle;

// Rules of a page that holds nothing else.
extern const char* const kWholePageStyle;

}  // namespace longspan::rendering
