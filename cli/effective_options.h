// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The options of `attend` as they were understood, for the record and the metadata of OUTPUT.
#pragma once

#include <string>

#include "attend_inputs.h"
#include "attend_options.h"

namespace longspan::cli {

// Defaults included: given back they repeat the run. Threads and memory limit are left out: they
// change no bit of the result, and so files made with different ones are the same.
std::string effective_options(const AttendOptions& options, const AttendCall& call,
                              bool has_query_offsets);

}  // namespace longspan::cli
