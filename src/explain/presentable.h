// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A record that may be shown.
#pragma once

#include "longspan/explain.h"

namespace longspan::rendering {

// Throws Error(kInvalidArgument) where shape, axes, index and values of a step do not fit together,
// so that nobody reads past the end of one.
void check_record(const Explanation& explanation);

// The record, checked, with every string printable.
Explanation presentable(Explanation explanation);

}  // namespace longspan::rendering
