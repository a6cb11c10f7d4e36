// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A file that appears whole or not at all: temporary file in the same folder, every return checked,
// fsync, rename, fsync of the folder. The destructor removes the temporary file unless commit()
// succeeded.
#pragma once

#include <cstddef>
#include <string>

namespace longspan::io {

// A new file gets the permissions that the umask allows, an existing one keeps its own; a symbolic
// link stays and its target is replaced. Character devices and pipes cannot be replaced: they are
// written directly.
class AtomicFile {
 public:
  explicit AtomicFile(
      const std::string& path);  // throws Error(kFile) when the folder is missing or unwritable
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, std::size_t bytes);  // handles short writes and EINTR
  void commit();

 private:
  void create_temporary();
  void discard() noexcept;

  std::string path_;       // as given, for messages
  std::string target_;     // with symbolic links resolved
  std::string temporary_;  // empty when path_ is written directly, and after commit()
  int fd_ = -1;
  int slot_ = -1;  // in the table that remove_temporaries() reads
};

// Removes the temporary files of every AtomicFile that is open. Only calls async-signal-safe
// functions.
void remove_temporaries() noexcept;

}  // namespace longspan::io
