#include "guest-agent/server.h"

#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "base/io.h"
#include "base/status.h"

namespace virt_reclaim::agent {
namespace {

void Notify(const UniqueFd& wake) {
  const uint64_t one = 1;
  static_cast<void>(!write(wake.get(), &one, sizeof one));
}

// Gives back what gRPC has left behind: its heap, and the pages of code that only it has touched,
// which the kernel has from the file again when they are wanted.
void ReturnMemory() {
  malloc_trim(0);
  dl_iterate_phdr(
      [](dl_phdr_info* object, size_t, void*) {
        for (int i = 0; i < object->dlpi_phnum; ++i) {
          const ElfW(Phdr)& part = object->dlpi_phdr[i];
          // What was ever writable has relocations in it, which the file has not.
          if (part.p_type != PT_LOAD || (part.p_flags & PF_W) != 0) continue;
          const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
          const uintptr_t begin = (object->dlpi_addr + part.p_vaddr) & ~(page - 1);
          const uintptr_t end = object->dlpi_addr + part.p_vaddr + part.p_memsz;
          madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
        }
        return 1;  // the program itself comes first, and is enough
      },
      nullptr);
}

}  // namespace

std::string MemoryGuard::operator()(bool start) {
  const auto text = ReadFile("/proc/self/statm", 256);
  if (!text.ok()) return "";
  const std::vector<absl::string_view> numbers = absl::StrSplit(*text, ' ');
  uint64_t pages = 0;
  if (numbers.size() < 2 || !absl::SimpleAtoi(numbers[1], &pages)) return "";
  const uint64_t resident = pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  if (start || !least_) least_ = std::min(least_.value_or(resident), resident);
  if (resident <= *least_ + kMostGrowthBytes) return "";
  return "the host's calls take too much memory";
}

AgentServer::AgentServer(AgentService& service)
    : service_(service), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

AgentServer::~AgentServer() {
  service_.Stop();
  if (watch_.joinable()) {
    watch_.request_stop();
    Notify(wake_);
    watch_.join();
  }
}

absl::Status AgentServer::Attach(UniqueFd socket) {
  // gRPC shuts a socket down before it closes it, so that this second descriptor keeps nothing
  // alive.
  UniqueFd session(fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
  if (!session.valid()) return ErrnoStatus(errno, "duplicate a session's socket");
  const std::lock_guard lock(mutex_);
  if (server_ == nullptr) {
    VR_ASSIGN_OR_RETURN(server_, RpcServer::Start(service_));
  }
  server_->Attach(std::move(socket));
  sessions_.push_back(std::move(session));
  if (!watch_.joinable())
    watch_ = std::jthread([this](const std::stop_token& stop) { Watch(stop); });
  Notify(wake_);
  return absl::OkStatus();
}

bool AgentServer::IsRunning() {
  const std::lock_guard lock(mutex_);
  return server_ != nullptr;
}

void AgentServer::Watch(const std::stop_token& stop) {
  bool linger = false;  // there was a session, and there is none now
  while (!stop.stop_requested()) {
    std::vector<pollfd> fds = {{.fd = wake_.get(), .events = POLLIN, .revents = 0}};
    {
      const std::lock_guard lock(mutex_);
      for (const UniqueFd& session : sessions_)
        fds.push_back({.fd = session.get(), .events = POLLRDHUP, .revents = 0});
      linger = sessions_.empty() && server_ != nullptr;
    }
    // Only this thread takes sessions out of the list, so that the descriptors stay open meanwhile.
    const int ready =
        poll(fds.data(), fds.size(), linger ? static_cast<int>(kServerLinger.count()) : -1);
    if (ready == 0) {
      TakeDownIfIdle();
      continue;
    }
    uint64_t ignored = 0;
    static_cast<void>(!read(wake_.get(), &ignored, sizeof ignored));
    const std::lock_guard lock(mutex_);
    for (const pollfd& fd : fds) {
      if (fd.fd == wake_.get() || fd.revents == 0) continue;
      std::erase_if(sessions_, [&](const UniqueFd& session) { return session.get() == fd.fd; });
    }
  }
}

void AgentServer::TakeDownIfIdle() {
  std::unique_ptr<RpcServer> old;
  {
    const std::lock_guard lock(mutex_);
    if (!sessions_.empty() || server_ == nullptr || server_->IsBusy()) return;
    old = std::move(server_);
  }
  // Without the lock: gRPC 1.51 may take 10 s to go when a write ever blocked. A session that comes
  // meanwhile gets a server of its own.
  old.reset();
  ReturnMemory();
}

}  // namespace virt_reclaim::agent
