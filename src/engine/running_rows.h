// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The summary of a panel is merged into what is known of its rows, by the merge rule; the last one
// is followed by the pair of a row with itself and its sink, divided and written.
#pragma once

#include <cstdint>
#include <span>

#include "engine/gathered_call.h"

namespace longspan::engine {

// Lane l of the state is query queries[l]. `rows`: scratch [queries][head_dim_v].
template <class T>
void merge_rows(const GatheredCall<T>& call, const GatheredForward<T>& head,
                std::span<const std::int32_t> queries, std::int64_t width,
                const kernel::PanelState<T>& part, T* rows);

}  // namespace longspan::engine
