// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Atomic writing and the table of temporary files for signal handlers.
#include "io/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

#include "io/file_error.h"

namespace longspan::io {
namespace {

// A signal handler may neither lock nor allocate: a fixed table whose rows change hands by one
// atomic word.
enum SlotState : int { kFree, kClaimed, kReady, kRemoving };
struct Slot {
  std::atomic<int> state{kFree};
  char path[PATH_MAX];
};
static_assert(std::atomic<int>::is_always_lock_free);
Slot slots[16];  // files open beyond that are still removed by their destructors

bool change(Slot& slot, int from, int to) noexcept {
  return slot.state.compare_exchange_strong(from, to);
}

int claim_slot(const std::string& path) noexcept {
  if (path.size() >= sizeof(Slot::path)) return -1;
  for (Slot& slot : slots) {
    if (!change(slot, kFree, kClaimed)) continue;
    std::memcpy(slot.path, path.c_str(), path.size() + 1);
    return static_cast<int>(&slot - slots);
  }
  return -1;
}

template <class Call>
auto retried(Call call) noexcept {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

// Where path leads, symbolic links resolved.
std::string resolved(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0 || !S_ISLNK(status.st_mode)) return path;
  const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr),
                                                         &std::free);
  if (!real) fail_errno(path, "cannot follow the symbolic link", errno);
  return real.get();
}

}  // namespace

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  if (path.empty() || path.back() == '/') fail_file(path, "expected the name of a file");
  struct stat status {};
  const bool exists = ::stat(path.c_str(), &status) == 0;
  if (!exists && errno != ENOENT) fail_errno(path, "cannot write", errno);
  if (exists && S_ISDIR(status.st_mode)) fail_file(path, "expected a file, found a directory");
  if (exists && !S_ISREG(status.st_mode)) {
    if (!S_ISCHR(status.st_mode) && !S_ISFIFO(status.st_mode)) {
      fail_file(path, "expected a file, a character device or a pipe, found something else");
    }
    fd_ = retried([&] { return ::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY); });
    if (fd_ < 0) fail_errno(path, "cannot open for writing", errno);
    return;
  }
  // rename() would also replace a file that its owner has protected.
  if (exists && ::access(path.c_str(), W_OK) != 0) fail_errno(path, "cannot overwrite", errno);
  target_ = resolved(path);
  create_temporary();
  if (exists && ::fchmod(fd_, status.st_mode & 0777) != 0) {
    const int error_number = errno;
    discard();  // the destructor of an object that failed to construct does not run
    fail_errno(path, "cannot set permissions", error_number);
  }
}

// Like mkostemp, but with the permissions of an ordinary open: the kernel applies the umask.
void AtomicFile::create_temporary() {
  static std::atomic<unsigned> counter{0};
  const std::string folder = folder_of(target_);
  do {
    temporary_ = folder + "/.longspan-" + std::to_string(::getpid()) + "-" +
                 std::to_string(counter++) + ".tmp";
    slot_ = claim_slot(temporary_);
    fd_ = retried(
        [&] { return ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666); });
    const int error_number = errno;
    if (slot_ >= 0) slots[slot_].state = fd_ >= 0 ? kReady : kFree;
    errno = error_number;
  } while (fd_ < 0 && errno == EEXIST);  // left over by a killed process that had our number
  if (fd_ < 0) fail_errno(path_, "cannot create a file in the folder " + in_quotes(folder), errno);
}

void AtomicFile::discard() noexcept {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  temporary_.clear();
  // Fails only while a signal handler is using the row; then it is not reused, since the process is
  // ending.
  if (slot_ >= 0) change(slots[std::exchange(slot_, -1)], kReady, kFree);
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::write(const void* data, std::size_t bytes) {
  const auto* at = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    constexpr std::size_t kMost = std::size_t{1} << 30;  // Linux moves at most 2^31 - 4096 at once
    const ssize_t written = retried([&] { return ::write(fd_, at, std::min(bytes, kMost)); });
    if (written <= 0) fail_errno(path_, "cannot write", written < 0 ? errno : EIO);
    at += written;
    bytes -= static_cast<std::size_t>(written);
  }
}

void AtomicFile::commit() {
  const bool direct = temporary_.empty();
  if (!direct && retried([&] { return ::fsync(fd_); }) != 0) {
    fail_errno(path_, "cannot write to disk", errno);
  }
  // Some file systems report a full disk only here. EINTR is no failure: Linux has closed the file.
  if (::close(std::exchange(fd_, -1)) != 0 && errno != EINTR) {
    fail_errno(path_, "cannot close", errno);
  }
  if (direct) return;
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
    fail_errno(path_, "cannot rename the temporary file to it", errno);
  }
  temporary_.clear();
  discard();

  const std::string folder = folder_of(target_);
  const int folder_fd =
      retried([&] { return ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (folder_fd < 0) {
    if (errno == EACCES) return;  // a folder may be writable and not readable: nothing to sync with
    fail_errno(path_, "written, but cannot open its folder to sync it", errno);
  }
  const int failed = retried([&] { return ::fsync(folder_fd); }) != 0 ? errno : 0;
  ::close(folder_fd);
  if (failed != 0 && failed != EINVAL) {  // EINVAL: the file system has no such thing
    fail_errno(path_, "written, but cannot sync its folder", failed);
  }
}

void remove_temporaries() noexcept {
  const int error_number = errno;
  for (Slot& slot : slots) {
    if (!change(slot, kReady, kRemoving)) continue;
    ::unlink(slot.path);
    slot.state = kReady;
  }
  errno = error_number;
}

}  // namespace longspan::io
