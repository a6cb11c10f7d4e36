// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Division that rounds up, for sizes that are not negative.
#pragma once

#include <type_traits>

namespace longspan::base {

template <class N>
constexpr N ceil_div(N n, std::type_identity_t<N> parts) noexcept {
  return (n + parts - 1) / parts;
}

template <class N>
constexpr N round_up(N n, std::type_identity_t<N> multiple) noexcept {
  return ceil_div(n, multiple) * multiple;
}

}  // namespace longspan::base
