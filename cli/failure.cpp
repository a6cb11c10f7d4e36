// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Exceptions to exit codes, and errors as text and as JSON.
#include "failure.h"

#include <fmt/format.h>

#include <atomic>
#include <new>

#include "longspan/error.h"
#include "record.h"
#include "signals.h"

namespace longspan::cli {
namespace {

int exit_code_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:  // options were checked before: it is the tensors
      return kBadInput;
    case ErrorCode::kUnsupported:  // a kernel was forced that cannot run here
      return kUsage;
    case ErrorCode::kOutOfMemory:
      return kNoMemory;
    case ErrorCode::kFile:  // writing is told apart where it happens, see write_output
      return kBadInput;
    case ErrorCode::kCancelled:
    case ErrorCode::kInternal:
      break;
  }
  return kRunTimeFailure;
}

Failure current_failure() {
  try {
    throw;
  } catch (const Failure& failure) {
    return failure;
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCancelled) return interruption();
    return {exit_code_of(error.code()), error.what(), error.hint()};
  } catch (const std::bad_alloc&) {
    return {kNoMemory, "memory: an allocation failed",
            "use a smaller input, or --memory-limit with fewer --threads"};
  } catch (const std::exception& error) {
    return {kRunTimeFailure, error.what()};
  }
}

}  // namespace

int report(const Failure& failure, bool json) {
  static std::atomic_flag reported;
  if (reported.test_and_set()) return failure.exit_code();
  const std::string message = printable(failure.what());
  print_err(fmt::format("longspan: {}\n", message));
  if (!failure.hint().empty()) print_err(fmt::format("hint: {}\n", printable(failure.hint())));
  if (json) {
    Json error = {{"code", failure.exit_code()}, {"message", message}};
    if (!failure.hint().empty()) error["hint"] = printable(failure.hint());
    Json record = new_record();
    record["error"] = std::move(error);
    try {
      print_record(record);
    } catch (const Failure&) {  // NOLINT(bugprone-empty-catch)
      // stdout is gone: the line on stderr has said it
    }
  }
  return failure.exit_code();
}

int report_current_exception(bool json) { return report(current_failure(), json); }

void warn(const std::string& message) {
  print_err(fmt::format("longspan: warning: {}\n", printable(message)));
}

}  // namespace longspan::cli
