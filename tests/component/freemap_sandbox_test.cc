// What the free map worker cannot do once it is locked in: each thing is tried in a child that
// entered the same sandbox.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <functional>

#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "host/freemap/sandbox.h"

namespace virt_reclaim::freemap {
namespace {

constexpr int kCouldNot = 10;  // exit status: the attempt failed
constexpr int kCould = 11;
constexpr int kNoSandbox = 12;

// The wait status of a child that tries `attempt` (true: it worked) in the sandbox, with these as
// stdout and scratch file.
int InSandbox(const std::function<bool()>& attempt, int output = -1, int scratch = -1) {
  const pid_t child = fork();
  if (child == 0) {
    if (output >= 0) dup2(output, STDOUT_FILENO);
    if (!EnterSandbox(scratch).ok()) _exit(kNoSandbox);
    _exit(attempt() ? kCould : kCouldNot);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return status;
}

bool Fails(int status) { return WIFEXITED(status) && WEXITSTATUS(status) == kCouldNot; }
bool Works(int status) { return WIFEXITED(status) && WEXITSTATUS(status) == kCould; }
bool Killed(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS; }

TEST(FreemapSandboxTest, OpensNoFile) {
  EXPECT_TRUE(Fails(InSandbox([] { return open("/dev/null", O_RDONLY) >= 0; })));
  EXPECT_TRUE(Fails(InSandbox([] { return open("/etc/passwd", O_RDONLY) >= 0; })));
  EXPECT_TRUE(
      Fails(InSandbox([] { return open("/tmp/freemap-test", O_CREAT | O_WRONLY, 0600) >= 0; })));
  EXPECT_TRUE(Killed(InSandbox([] { return memfd_create("x", 0) >= 0; })));
  EXPECT_TRUE(Killed(InSandbox([] { return unlink("/tmp/freemap-test") == 0; })));
}

TEST(FreemapSandboxTest, MakesNoSocket) {
  EXPECT_TRUE(Killed(InSandbox([] { return socket(AF_UNIX, SOCK_STREAM, 0) >= 0; })));
  EXPECT_TRUE(Killed(InSandbox([] { return socket(AF_INET, SOCK_DGRAM, 0) >= 0; })));
  EXPECT_TRUE(Killed(InSandbox([] {
    int ends[2];
    return socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0;
  })));
}

TEST(FreemapSandboxTest, StartsNothing) {
  EXPECT_TRUE(Killed(InSandbox([] { return fork() >= 0; })));
  EXPECT_TRUE(Killed(InSandbox([] { return syscall(SYS_vfork) >= 0; })));
  EXPECT_TRUE(Killed(InSandbox([] {
    char name[] = "/bin/true";
    char* const argv[] = {name, nullptr};
    return execv(name, argv) == 0;
  })));
  EXPECT_TRUE(Killed(InSandbox([] { return kill(getppid(), 0) == 0; })));
  EXPECT_TRUE(Killed(InSandbox([] { return ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0; })));
}

TEST(FreemapSandboxTest, AllocatesNoMoreThanItsLimit) {
  const auto map = [](size_t bytes) {
    return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
           MAP_FAILED;
  };
  EXPECT_TRUE(Works(InSandbox([&] { return map(kMaxMemoryBytes / 4); })));
  EXPECT_TRUE(Fails(InSandbox([&] { return map(kMaxMemoryBytes); })));
  EXPECT_TRUE(Fails(InSandbox([] { return malloc(kMaxMemoryBytes) != nullptr; })));
}

TEST(FreemapSandboxTest, RunsNoNewCode) {
  EXPECT_TRUE(Killed(InSandbox([] {
    return mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
           MAP_FAILED;
  })));
}

TEST(FreemapSandboxTest, GetsNothingBack) {
  EXPECT_TRUE(Killed(InSandbox([] { return setuid(0) == 0; })));
  EXPECT_TRUE(Killed(InSandbox([] { return prctl(PR_SET_DUMPABLE, 1) == 0; })));
}

TEST(FreemapSandboxTest, ReadsAndWritesWhatItHas) {
  const UniqueFd file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd input(ends[0]);
  const UniqueFd output(ends[1]);
  EXPECT_TRUE(Works(InSandbox(
      [&] {
        char byte = 0;
        return pread(file.get(), &byte, 1, 1) == 1 && write(STDOUT_FILENO, &byte, 1) == 1;
      },
      output.get())));
  char byte = 0;
  EXPECT_EQ(read(input.get(), &byte, 1), 1);
  EXPECT_EQ(byte, 'E');  // of "\x7fELF"
}

// A descriptor that may be written is of no use either, but for the two that are its own; and of
// those the one that is a file does not grow.
TEST(FreemapSandboxTest, WritesNothingElse) {
  char name[] = "/tmp/freemap-sandbox.XXXXXX";
  const UniqueFd file(mkostemp(name, O_CLOEXEC));
  ASSERT_TRUE(file.valid());
  unlink(name);
  EXPECT_TRUE(Killed(InSandbox([&] { return write(file.get(), "x", 1) == 1; })));
  EXPECT_TRUE(Killed(InSandbox([&] { return pwrite(file.get(), "x", 1, 0) == 1; })));
  const auto write_at = [&](uint64_t offset) {
    return InSandbox(
        [&, offset] { return pwrite(file.get(), "x", 1, static_cast<off_t>(offset)) == 1; }, -1,
        file.get());
  };
  EXPECT_TRUE(Works(write_at(kMaxFileBytes - 1)));
  const int status = write_at(kMaxFileBytes);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ) << status;
}

}  // namespace
}  // namespace virt_reclaim::freemap
