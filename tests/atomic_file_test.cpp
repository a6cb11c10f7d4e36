// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Files appear whole or not at all: failures keep the old file and leave nothing behind.
#include "io/atomic_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <memory>
#include <thread>

#include "io_testing.h"

namespace longspan::io {
namespace {

void write_whole(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

template <class Call>
std::string failure_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFile);
    return error.what();
  }
  return "nothing was thrown";
}

mode_t mode_of(const std::string& path) {
  struct stat status {};
  EXPECT_EQ(::stat(path.c_str(), &status), 0);
  return status.st_mode & 0777;
}

TEST(AtomicFile, AppearsOnlyWhenCommitted) {
  const TemporaryFolder folder;
  const std::string path = folder / "x";
  AtomicFile file(path);
  file.write("new", 3);
  EXPECT_FALSE(std::filesystem::exists(path));
  file.commit();
  EXPECT_EQ(contents(path), "new");
  EXPECT_EQ(folder.files(), 1u);
}

TEST(AtomicFile, WithoutCommitTheOldFileStays) {
  const TemporaryFolder folder;
  put(folder / "x", "old");
  {
    AtomicFile file(folder / "x");
    file.write("new", 3);
    EXPECT_EQ(folder.files(), 2u);
  }
  EXPECT_EQ(contents(folder / "x"), "old");
  EXPECT_EQ(folder.files(), 1u);
  write_whole(folder / "x", "");
  EXPECT_EQ(contents(folder / "x"), "");
}

TEST(AtomicFile, ARelativePathIsWrittenInTheWorkingFolder) {
  const TemporaryFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  write_whole("plain", "text");
  std::filesystem::current_path(before);
  EXPECT_EQ(contents(folder / "plain"), "text");
}

TEST(AtomicFile, PermissionsFollowTheUmaskOrTheOldFile) {
  const TemporaryFolder folder;
  const mode_t before = ::umask(027);
  write_whole(folder / "new", "x");
  ::umask(before);
  EXPECT_EQ(mode_of(folder / "new"), 0640u);
  ASSERT_EQ(::chmod((folder / "new").c_str(), 0604), 0);
  write_whole(folder / "new", "y");
  EXPECT_EQ(mode_of(folder / "new"), 0604u);
}

TEST(AtomicFile, ASymbolicLinkStaysAndItsTargetIsReplaced) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "elsewhere");
  put(folder / "elsewhere/target", "old");
  std::filesystem::create_symlink("elsewhere/target", folder / "link");
  write_whole(folder / "link", "new");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_EQ(contents(folder / "elsewhere/target"), "new");
  std::filesystem::create_symlink("nowhere", folder / "dangling");
  EXPECT_NE(failure_of([&] { AtomicFile file(folder / "dangling"); }).find("No such file"),
            std::string::npos);
}

TEST(AtomicFile, PathsThatCannotBeWrittenAreNamedWithTheReason) {
  const TemporaryFolder folder;
  put(folder / "file", "x");
  const std::pair<std::string, std::string> cases[] = {
      {folder / "missing/x", "No such file or directory"},
      {folder / "file/x", "Not a directory"},
      {folder.path(), "found a directory"},
      {folder / "file/", "expected the name of a file"},
      {folder / std::string(300, 'x'), "File name too long"},
      {"", "expected the name of a file"}};
  for (const auto& [path, reason] : cases) {
    const std::string message = failure_of([&path = path] { AtomicFile file(path); });
    EXPECT_TRUE(message.starts_with(path + ": ")) << message;
    EXPECT_NE(message.find(reason), std::string::npos) << message;
  }
  EXPECT_EQ(folder.files(), 1u);
}

TEST(AtomicFile, NamesAsLongAsTheFileSystemAllows) {
  const TemporaryFolder folder;
  write_whole(folder / std::string(255, 'x'), "long");
  EXPECT_EQ(contents(folder / std::string(255, 'x')), "long");
}

TEST(AtomicFile, ProtectedFilesAndFoldersAreLeftAlone) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  const TemporaryFolder folder;
  put(folder / "x", "old");
  ASSERT_EQ(::chmod((folder / "x").c_str(), 0444), 0);
  EXPECT_NE(failure_of([&] { AtomicFile file(folder / "x"); }).find("Permission denied"),
            std::string::npos);
  ASSERT_EQ(::chmod(folder.path().c_str(), 0555), 0);
  EXPECT_NE(failure_of([&] { AtomicFile file(folder / "y"); }).find("Permission denied"),
            std::string::npos);
  ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
  EXPECT_EQ(contents(folder / "x"), "old");
}

TEST(AtomicFile, AFullDiskIsAnErrorAndDevicesAreNotReplaced) {
  const std::string message = failure_of([] { write_whole("/dev/full", "x"); });
  EXPECT_TRUE(message.starts_with("/dev/full: ")) << message;
  EXPECT_NE(message.find("No space left on device"), std::string::npos) << message;
  write_whole("/dev/null", "x");
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));

  const float value = 1;
  const NamedTensor one{"a", tensor(&value, {1})};
  EXPECT_NE(failure_of([&] {
              write_safetensors("/dev/full", {&one, 1});
            }).find("No space left"),
            std::string::npos);
  EXPECT_NE(failure_of([&] { write_npy("/dev/full", one.tensor); }).find("No space left"),
            std::string::npos);
}

// A limit on the file size stands for a disk that fills up at every possible byte.
TEST(AtomicFile, WhereverWritingFailsTheOldFileSurvives) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  const float values[40] = {};
  const NamedTensor small{"old", tensor(values, {1})}, large{"new", tensor(values, {5, 8})};
  write_safetensors(path, {&large, 1});
  const std::string whole = contents(path);
  write_safetensors(path, {&small, 1});
  const std::string old = contents(path);

  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    int bad = 0;
    for (rlim_t limit = 0; limit < whole.size(); ++limit) {
      const rlimit bytes{limit, RLIM_INFINITY};
      if (::setrlimit(RLIMIT_FSIZE, &bytes) != 0) ::_exit(100);
      bool failed = false;
      try {
        write_safetensors(path, {&large, 1});
      } catch (const Error& error) {
        failed = std::string_view(error.what()).find("File too large") != std::string_view::npos;
      }
      bad += !failed || contents(path) != old || folder.files() != 1;
    }
    ::_exit(bad != 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  write_safetensors(path, {&large, 1});
  EXPECT_EQ(contents(path), whole);
}

TEST(AtomicFile, APipeIsWrittenThrough) {
  const TemporaryFolder folder;
  const std::string path = folder / "pipe";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  const std::string text(300'000, 'x');  // more than a pipe holds: writes come up short
  std::string found;
  std::thread reader([&] { found = contents(path); });
  write_whole(path, text);
  reader.join();
  EXPECT_EQ(found, text);
  EXPECT_TRUE(std::filesystem::is_fifo(path));
}

void ignore_signal(int) {}

// A timer without SA_RESTART interrupts the blocked writes of a slow pipe with EINTR.
TEST(AtomicFile, InterruptedWritesGoOn) {
  const TemporaryFolder folder;
  const std::string path = folder / "pipe";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  struct sigaction action {
  }, before{};
  action.sa_handler = ignore_signal;
  ASSERT_EQ(::sigaction(SIGUSR1, &action, &before), 0);
  const pthread_t writer = ::pthread_self();
  std::string found;
  std::thread reader([&] {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    char part[4096];
    for (ssize_t got; (got = ::read(fd, part, sizeof part)) > 0;) {
      found.append(part, static_cast<std::size_t>(got));
      ::pthread_kill(writer, SIGUSR1);
    }
    ::close(fd);
  });
  std::string text(300'000, '\0');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 31 + (i >> 8));
  write_whole(path, text);
  reader.join();
  ::sigaction(SIGUSR1, &before, nullptr);
  EXPECT_TRUE(found == text);
}

TEST(RemoveTemporaries, RemovesThoseOfOpenFilesOnly) {
  const TemporaryFolder folder;
  write_whole(folder / "done", "x");
  { const AtomicFile dropped(folder / "dropped"); }
  std::vector<std::unique_ptr<AtomicFile>> open;
  for (int i = 0; i < 5; ++i) {
    open.push_back(std::make_unique<AtomicFile>(folder / std::to_string(i)));
  }
  EXPECT_EQ(folder.files(), 6u);
  remove_temporaries();
  EXPECT_EQ(folder.files(), 1u);
  EXPECT_NE(failure_of([&] { open[0]->commit(); }), "nothing was thrown");
  open.clear();
  EXPECT_EQ(contents(folder / "done"), "x");
  write_whole(folder / "after", "y");  // rows of the table are used again
  EXPECT_EQ(folder.files(), 2u);
}

TEST(RemoveTemporaries, MoreFilesThanTheTableHoldsStillWork) {
  const TemporaryFolder folder;
  for (int round = 0; round < 3; ++round) {
    std::vector<std::unique_ptr<AtomicFile>> open;
    for (int i = 0; i < 40; ++i) {
      open.push_back(std::make_unique<AtomicFile>(folder / std::to_string(i)));
    }
    for (auto& file : open) file->commit();
    EXPECT_EQ(folder.files(), 40u);
  }
}

void remove_and_end(int) {
  remove_temporaries();
  ::_exit(143);
}

TEST(RemoveTemporaries, WorksInASignalHandler) {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGTERM, remove_and_end);
    AtomicFile file(folder / "x");
    file.write("x", 1);
    if (folder.files() != 1) ::_exit(1);
    std::raise(SIGTERM);
    ::_exit(2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 143);
  EXPECT_EQ(folder.files(), 0u);
}

}  // namespace
}  // namespace longspan::io
