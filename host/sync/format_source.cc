#include "host/sync/format_source.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "host/sync/copier.h"
#include "host/sync/nbd_source.h"

namespace virt_reclaim::sync {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kStartDeadline{20};
constexpr std::chrono::milliseconds kStep{10};

// A directory of our own for the socket; goes with its content.
class SocketDirectory {
 public:
  SocketDirectory() {
    std::string name = "/tmp/virt-reclaim-XXXXXX";
    if (mkdtemp(name.data()) != nullptr) path_ = name;
  }
  ~SocketDirectory() {
    if (path_.empty()) return;
    unlink(socket().c_str());
    rmdir(path_.c_str());
  }
  SocketDirectory(const SocketDirectory&) = delete;
  SocketDirectory& operator=(const SocketDirectory&) = delete;
  bool ok() const { return !path_.empty(); }
  std::string socket() const { return path_ + "/nbd"; }

 private:
  std::string path_;
};

// A qemu-nbd, ended with the object, and with this process whatever becomes of it.
class Server {
 public:
  Server() = default;
  ~Server() {
    if (pid_ <= 0) return;
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  absl::Status Start(const std::string& path, bool device, const std::string& format,
                     const std::string& socket) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe");
    errors_ = UniqueFd(ends[0]);
    const UniqueFd errors(ends[1]);
    fcntl(errors_.get(), F_SETFL, O_NONBLOCK);
    // A comma ends a value of --image-opts.
    const std::string image =
        absl::StrCat("driver=", format, ",file.driver=", device ? "host_device" : "file",
                     ",file.filename=", absl::StrReplaceAll(path, {{",", ",,"}}));
    std::vector<std::string> words = {
        "qemu-nbd", "--read-only", "--persistent", absl::StrCat("--shared=", kThreads + 2),
        "--socket", socket,        "--image-opts", image};
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ < 0) return ErrnoStatus(errno, "fork");
    if (pid_ == 0) {
      // Only what may be called between fork and exec.
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(127);
      const int null = open("/dev/null", O_RDWR);
      dup2(null, STDIN_FILENO);
      dup2(null, STDOUT_FILENO);
      dup2(errors.get(), STDERR_FILENO);
      // Ctrl-C is ours: it ends when we let go.
      setpgid(0, 0);
      execvp(arguments[0], arguments.data());
      _exit(127);
    }
    return absl::OkStatus();
  }

  // It has ended; why.
  bool Ended(std::string& why) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) != pid_) return false;
    pid_ = -1;
    char text[4096];
    const ssize_t n = read(errors_.get(), text, sizeof text);
    why.assign(text, n > 0 ? static_cast<size_t>(n) : 0);
    if (why.empty() && WIFEXITED(status) && WEXITSTATUS(status) == 127)
      why = "qemu-nbd cannot be started: is it installed?";
    return true;
  }

 private:
  pid_t pid_ = -1;
  UniqueFd errors_;
};

class FormatSource final : public Source {
 public:
  FormatSource(std::unique_ptr<Source> file, std::unique_ptr<SocketDirectory> directory,
               std::unique_ptr<Server> server, std::unique_ptr<NbdSource> content)
      : file_(std::move(file)),
        directory_(std::move(directory)),
        server_(std::move(server)),
        content_(std::move(content)) {}

  uint64_t size_bytes() const override { return content_->size_bytes(); }
  absl::StatusOr<std::vector<Range>> Data() override { return content_->Data(); }
  absl::StatusOr<std::unique_ptr<PieceReader>> NewReader() override {
    return content_->NewReader();
  }
  bool Interrupted() const override { return file_->Interrupted(); }
  absl::Status CheckUnchanged() const override { return file_->CheckUnchanged(); }
  std::optional<int64_t> mtime_ns() const override { return file_->mtime_ns(); }

 private:
  std::unique_ptr<Source> file_;
  std::unique_ptr<SocketDirectory> directory_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<NbdSource> content_;
};

// A word of QEMU's, not an option of it.
bool IsFormat(absl::string_view format) {
  return !format.empty() && std::all_of(format.begin(), format.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_';
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Source>> OpenFormatSource(const std::string& path,
                                                         const std::string& format,
                                                         const ImageIdentity& planned) {
  if (!IsFormat(format))
    return absl::InvalidArgumentError(absl::StrCat("'", Printable(format), "' is no format"));
  VR_ASSIGN_OR_RETURN(std::unique_ptr<Source> file, OpenFileSource(path, planned));
  auto directory = std::make_unique<SocketDirectory>();
  if (!directory->ok()) return ErrnoStatus(errno, "make a directory for a socket");
  auto server = std::make_unique<Server>();
  VR_RETURN_IF_ERROR(server->Start(path, planned.block_device != 0, format, directory->socket()));
  const auto limit = steady_clock::now() + kStartDeadline;
  absl::StatusOr<std::unique_ptr<NbdSource>> content = absl::UnavailableError("not there yet");
  while (true) {
    // The socket is there a moment before somebody listens.
    if (access(directory->socket().c_str(), F_OK) == 0)
      content = OpenNbdSource({directory->socket(), "", ""});
    if (content.ok()) break;
    std::string why;
    if (server->Ended(why)) {
      return absl::UnavailableError(
          absl::StrCat("'", Printable(path), "' as ", format, ": ",
                       Printable(absl::StripTrailingAsciiWhitespace(why))));
    }
    if (!absl::IsUnavailable(content.status())) return content.status();
    if (steady_clock::now() > limit) return content.status();
    std::this_thread::sleep_for(kStep);
  }
  return std::make_unique<FormatSource>(std::move(file), std::move(directory), std::move(server),
                                        *std::move(content));
}

}  // namespace virt_reclaim::sync
