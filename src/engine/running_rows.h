// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The summary of a panel is merged into what is known of its rows, by the merge rule. After the
// last phase come the pair of a row with itself and its sink, and the row is divided and written:
// in the order of the rows, since writing them in that of a round costs more than all merges.
#pragma once

#include <cstdint>
#include <span>

#include "engine/gathered_call.h"

namespace longspan::engine {

// Lane l of the state is query queries[l].
template <class T>
void merge_rows(const GatheredCall<T>& call, const GatheredForward<T>& head,
                std::span<const std::int32_t> queries, std::int64_t width,
                const kernel::PanelState<T>& part);
template <class T>
void finish_rows(const GatheredCall<T>& call, const GatheredForward<T>& head, mask::Range queries);

}  // namespace longspan::engine
