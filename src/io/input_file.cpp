// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Reading files by position.
#include "io/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "io/file_error.h"

namespace longspan::io {
namespace {

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

}  // namespace

InputFile::InputFile(const std::string& path) : path_(path) {
  // O_NONBLOCK: opening a pipe must not wait for a writer; regular files ignore it.
  do {
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) fail_errno(path, "cannot open for reading", errno);
  struct stat status {};
  const int failed = ::fstat(fd_, &status) != 0 ? errno : 0;
  if (failed == 0 && S_ISREG(status.st_mode)) {
    size_ = static_cast<std::uint64_t>(status.st_size);
    return;
  }
  ::close(std::exchange(fd_, -1));
  if (failed != 0) fail_errno(path, "cannot read the file's size", failed);
  fail_file(path, std::string("expected a regular file, found ") + kind_of(status.st_mode));
}

InputFile::~InputFile() {
  if (fd_ >= 0) ::close(fd_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(size_, other.size_);
  return *this;
}

void InputFile::read(std::uint64_t position, void* into, std::size_t bytes) const {
  auto* at = static_cast<std::byte*>(into);
  while (bytes > 0) {
    constexpr std::size_t kMost = std::size_t{1} << 30;  // Linux moves at most 2^31 - 4096 at once
    const ssize_t got = ::pread(fd_, at, std::min(bytes, kMost), static_cast<off_t>(position));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno(path_, "cannot read at byte " + std::to_string(position), errno);
    if (got == 0) {
      fail_file(path_, "expected " + std::to_string(bytes) + " more bytes at byte " +
                           std::to_string(position) + ", found the end of the file");
    }
    at += got;
    position += static_cast<std::uint64_t>(got);
    bytes -= static_cast<std::size_t>(got);
  }
}

StoredTensor InputFile::read(const TensorEntry& entry) const {
  if (entry.begin > entry.end || entry.end > size_) {  // before the allocation
    fail_file(path_, "tensor " + in_quotes(entry.name) + ": expected bytes inside the file of " +
                         std::to_string(size_) + ", found " + std::to_string(entry.begin) + ".." +
                         std::to_string(entry.end));
  }
  StoredTensor tensor(entry);
  read(entry.begin, tensor.bytes(), tensor.byte_size());
  return tensor;
}

}  // namespace longspan::io
