// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Validation at the public entries: one line of words with both values.
#pragma once

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

}  // namespace longspan::base
