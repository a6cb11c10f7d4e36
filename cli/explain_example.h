// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The small inputs that `explain` shows when it is given none.
#pragma once

#include "attend_inputs.h"

namespace longspan::cli {

// Chooses the example that goes with the method and the preset; options that say how to cut it get
// values that suit it, where the command line has none.
void give_example(AttendOptions& options, AttendInputs& inputs);

}  // namespace longspan::cli
