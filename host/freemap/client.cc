#include "host/freemap/client.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "host/freemap/protocol.h"

namespace virt_reclaim::freemap {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr int kAboveAll = 1000;     // descriptors on their way do not stand on each other's places
constexpr milliseconds kStep{100};  // how late a stop is noticed

struct Disks {
  std::vector<UniqueFd> fds;
  std::vector<uint64_t> sizes;
};

absl::StatusOr<UniqueFd> DupHigh(int fd) {
  UniqueFd high(fcntl(fd, F_DUPFD_CLOEXEC, kAboveAll));
  if (!high.valid()) return ErrnoStatus(errno, "dup");
  return high;
}

absl::StatusOr<Disks> Reopen(std::span<const WorkerDisk> disks) {
  if (disks.empty() || disks.size() > kMaxDisks)
    return absl::InvalidArgumentError(absl::StrCat("between 1 and ", kMaxDisks, " disks"));
  Disks reopened;
  for (const WorkerDisk& disk : disks) {
    if (disk.nbd_bytes != 0) {
      VR_ASSIGN_OR_RETURN(UniqueFd connection, DupHigh(disk.fd));
      reopened.fds.push_back(std::move(connection));
      reopened.sizes.push_back(disk.nbd_bytes);
      continue;
    }
    const std::string path = absl::StrCat("/proc/self/fd/", disk.fd);
    const UniqueFd again(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!again.valid()) return ErrnoStatus(errno, "open the image for reading");
    const off_t size = lseek(again.get(), 0, SEEK_END);
    if (size < 0) return ErrnoStatus(errno, "measure the image");
    VR_ASSIGN_OR_RETURN(UniqueFd high, DupHigh(again.get()));
    reopened.fds.push_back(std::move(high));
    reopened.sizes.push_back(static_cast<uint64_t>(size));
  }
  return reopened;
}

class FileActions {
 public:
  FileActions() { posix_spawn_file_actions_init(&actions_); }
  ~FileActions() { posix_spawn_file_actions_destroy(&actions_); }
  FileActions(const FileActions&) = delete;
  FileActions& operator=(const FileActions&) = delete;
  void Dup(int from, int to) {
    if (error_ == 0) error_ = posix_spawn_file_actions_adddup2(&actions_, from, to);
  }
  void OpenNull(int fd) {
    if (error_ == 0)
      error_ = posix_spawn_file_actions_addopen(&actions_, fd, "/dev/null", O_RDWR, 0);
  }
  int error() const { return error_; }
  const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_;
  int error_ = 0;
};

// The child inherits neither our signal mask (StopSignal blocks some) nor ignored signals.
class Attributes {
 public:
  Attributes() {
    posix_spawnattr_init(&attributes_);
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    // A group of its own: Ctrl-C is the parent's to handle.
    posix_spawnattr_setpgroup(&attributes_, 0);
    posix_spawnattr_setflags(
        &attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  }
  ~Attributes() { posix_spawnattr_destroy(&attributes_); }
  Attributes(const Attributes&) = delete;
  Attributes& operator=(const Attributes&) = delete;
  const posix_spawnattr_t* get() const { return &attributes_; }

 private:
  posix_spawnattr_t attributes_;
};

absl::StatusOr<pid_t> Spawn(const WorkerOptions& options, std::span<const WorkerDisk> inputs,
                            const Disks& disks, int output) {
  FileActions actions;
  actions.OpenNull(STDIN_FILENO);
  actions.Dup(output, STDOUT_FILENO);
  actions.OpenNull(STDERR_FILENO);
  for (size_t i = 0; i < disks.fds.size(); ++i)
    actions.Dup(disks.fds[i].get(), kFirstDisk + static_cast<int>(i));
  if (actions.error() != 0) return ErrnoStatus(actions.error(), "posix_spawn");
  std::vector<std::string> words = {options.program};
  if (options.read.strict) words.emplace_back("--strict");
  if (options.read.take_swap) words.emplace_back("--take-swap");
  words.push_back(absl::StrCat("--min-bytes=", options.read.min_bytes));
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].nbd_bytes != 0)
      words.push_back(absl::StrCat("--nbd=", i, ":", inputs[i].nbd_bytes));
  }
  words.push_back(absl::StrCat(disks.fds.size()));
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  // No environment: libraries obey some of it (LIBBLKID_DEBUG, MALLOC_...).
  std::array<char*, 1> environment = {nullptr};
  pid_t child = 0;
  const Attributes attributes;
  const int error = posix_spawn(&child, options.program.c_str(), actions.get(), attributes.get(),
                                argv.data(), environment.data());
  if (error != 0) return ErrnoStatus(error, absl::StrCat("start '", options.program, "'"));
  return child;
}

absl::Status Hear(int pipe, ResultParser& parser, milliseconds patience,
                  const std::stop_token& stop) {
  const auto deadline = steady_clock::now() + patience;
  std::vector<uint8_t> buffer(size_t{1} << 16);
  while (true) {
    if (stop.stop_requested()) return absl::CancelledError("stopped");
    const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
    if (left <= milliseconds(0))
      return absl::DeadlineExceededError("the free map worker takes too long");
    pollfd entry = {.fd = pipe, .events = POLLIN, .revents = 0};
    const int ready = poll(&entry, 1, static_cast<int>(std::min(left, kStep).count()));
    if (ready < 0 && errno != EINTR) return ErrnoStatus(errno, "poll");
    if (ready <= 0) continue;
    const ssize_t n = read(pipe, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "read from the free map worker");
    if (n == 0) return absl::OkStatus();
    VR_RETURN_IF_ERROR(parser.Feed({buffer.data(), static_cast<size_t>(n)}));
  }
}

}  // namespace

absl::StatusOr<ScanResult> ReadFreeMaps(std::span<const WorkerDisk> disks,
                                        const WorkerOptions& options, const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(Disks reopened, Reopen(disks));
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe");
  const UniqueFd input(ends[0]);
  UniqueFd output(ends[1]);
  VR_ASSIGN_OR_RETURN(const pid_t child, Spawn(options, disks, reopened, output.get()));
  output.Reset();
  int status = 0;
  auto reap = absl::MakeCleanup([&] {
    kill(child, SIGKILL);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
  });
  ResultParser parser(reopened.sizes);
  VR_RETURN_IF_ERROR(Hear(input.get(), parser, options.deadline, stop));
  // It has closed its end, which only its death does; were it alive, it would be killed.
  std::move(reap).Invoke();
  absl::StatusOr<ScanResult> result = std::move(parser).Finish();
  if (!result.ok() && WIFSIGNALED(status)) {
    return absl::DataLossError(
        absl::StrCat("the free map worker died of signal ", WTERMSIG(status)));
  }
  return result;
}

}  // namespace virt_reclaim::freemap
