// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// `--diagnose` and `--save-buckets` of `attend --method lsh`.
#pragma once

#include <string>

#include "attend_inputs.h"
#include "attend_outputs.h"
#include "longspan/lsh_diagnostics.h"
#include "record.h"

namespace longspan::cli {

// Of the result that stands in `outputs`.
LshDiagnostics diagnose(const AttendCall& call, const AttendOutputs& outputs,
                        const Execution& execution);
// Bytes that it allocates; with nothing else of a plan.
AttentionPlan plan_diagnosis(const AttendCall& call, const Execution& execution);

Json diagnosis_record(const LshDiagnostics& found);
std::string diagnosis_text(const LshDiagnostics& found);  // some lines for people

// Hashes once more: the same buckets.
void fill_buckets(const AttendCall& call, const AttendOutputs& outputs, const Execution& execution);

}  // namespace longspan::cli
