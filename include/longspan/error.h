// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The exception type of the library. Beside it calls throw std::bad_alloc, and pass on what a
// predicate throws.
#pragma once

#include <stdexcept>
#include <string>

namespace longspan {

enum class ErrorCode {
  kInvalidArgument,  // an option or a shape that the caller can correct
  kUnsupported,      // asks for something that this build or machine cannot do (a kernel, a dtype)
  kOutOfMemory,      // no plan fits the memory limit, or an allocation failed
  kCancelled,        // the stop token was triggered; outputs are unspecified
  kFile,             // a missing, unreadable, unwritable or malformed file
  kInternal,         // a defect of longspan itself
};

// what() is one line: `where: what, expected, found`. hint() is empty or one line saying what to
// do.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message, std::string hint = {})
      : std::runtime_error(message), code_(code), hint_(std::move(hint)) {}
  ErrorCode code() const noexcept { return code_; }
  const std::string& hint() const noexcept { return hint_; }

 private:
  ErrorCode code_;
  std::string hint_;
};

}  // namespace longspan
