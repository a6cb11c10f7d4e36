// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Error(kFile) messages: one line that starts with the path and never repeats raw bytes of a file.
#pragma once

#include <string>
#include <string_view>

namespace longspan::io {

[[noreturn]] void fail_file(const std::string& path, const std::string& message,
                            const std::string& hint = {});

// "path: action: text of error_number"
[[noreturn]] void fail_errno(const std::string& path, const std::string& action, int error_number);

// 'text' in single quotes, at most 64 bytes of it, everything but printable ASCII as \xNN: safe for
// a terminal.
std::string in_quotes(std::string_view text);

}  // namespace longspan::io
