// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// How calls fail: one line of words, for bad input with both values.
#pragma once

#include <stop_token>
#include <string>

#include "longspan/error.h"

namespace longspan::base {

// The message is only built when the check fails: message() returns std::string.
template <class Message>
inline void require(bool ok, Message&& message, ErrorCode code = ErrorCode::kInvalidArgument) {
  if (!ok) throw Error(code, message());
}

[[noreturn]] inline void fail(ErrorCode code, const std::string& message,
                              const std::string& hint = {}) {
  throw Error(code, message, hint);
}

// Polled between pieces of work.
inline void check_stop(const std::stop_token& stop, const char* function) {
  if (stop.stop_requested()) {
    fail(ErrorCode::kCancelled, std::string(function) + ": stopped on request");
  }
}

}  // namespace longspan::base
