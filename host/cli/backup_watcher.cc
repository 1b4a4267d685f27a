#include "host/cli/backup_watcher.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace virt_reclaim {
namespace {

constexpr int kMostTries = 60;
constexpr unsigned kSecondsBetween = 1;

// The child. Only what may be called between fork and exec.
[[noreturn]] void Watch(int pipe, char* const* arguments) {
  setsid();  // what kills the program's group must not kill it
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) {
    struct sigaction ignore = {};
    ignore.sa_handler = SIG_IGN;
    sigaction(signal, &ignore, nullptr);
  }
  const int null = open("/dev/null", O_RDWR);
  for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) dup2(null, standard);
  if (SaidGoodBye(pipe)) _exit(0);
  // The hypervisor may be busy just now: an embedded driver lets in one program at a time.
  for (int tries = 0; tries < kMostTries; ++tries) {
    const pid_t child = fork();
    if (child == 0) {
      execv(arguments[0], arguments);
      _exit(127);
    }
    int status = 0;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
    sleep(kSecondsBetween);
  }
  _exit(0);
}

}  // namespace

std::vector<std::string> CleanWords(const CommandLine& line) {
  std::vector<std::string> words = {absl::StrCat("--run-dir=", line.run_directory), "sync",
                                    "--clean", absl::StrCat("--domain=", line.sync_domain)};
  if (line.freeze) words.emplace_back("--freeze");
  if (!line.connect.empty()) words.push_back(absl::StrCat("--connect=", line.connect));
  words.insert(words.end(), {"--", line.files.front()});
  return words;
}

bool SaidGoodBye(int pipe) {
  char word = 0;
  ssize_t n = 0;
  do {
    n = read(pipe, &word, 1);
  } while (n < 0 && errno == EINTR);
  return n == 1;
}

BackupWatcher::BackupWatcher(const CommandLine& line) {
  char self[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  int ends[2];
  if (length <= 0 || pipe2(ends, O_CLOEXEC) != 0) return;
  std::vector<std::string> words = CleanWords(line);
  words.insert(words.begin(), std::string(self, static_cast<size_t>(length)));
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const UniqueFd read_end(ends[0]);
  pipe_.Reset(ends[1]);
  const pid_t child = fork();
  if (child != 0) return;
  close(pipe_.get());  // or it would wait for itself
  Watch(read_end.get(), arguments.data());
}

BackupWatcher::~BackupWatcher() {
  if (pipe_.valid() && !left_) static_cast<void>(!write(pipe_.get(), "x", 1));
}

}  // namespace virt_reclaim
