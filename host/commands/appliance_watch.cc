#include "host/commands/appliance_watch.h"

#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/guard/holders.h"

namespace virt_reclaim {
namespace {

// A look at all processes costs some milliseconds.
constexpr std::chrono::seconds kLookAtHoldersEvery{1};
// Who only looks at an image (udev, of a device that was just closed) has gone by then.
constexpr std::chrono::milliseconds kGlance{200};

}  // namespace

absl::Status CheckSame(const WatchedImage& image) {
  struct stat status;
  if (stat(image.path.c_str(), &status) != 0)
    return ErrnoStatus(errno, absl::StrCat("stat ", Quoted(image.path)));
  if (SameFile(IdentityOf(status), image.identity)) return absl::OkStatus();
  return absl::FailedPreconditionError(Quoted(image.path) +
                                       " was replaced by another file meanwhile");
}

ApplianceWatch::ApplianceWatch(std::vector<WatchedImage> images,
                               std::function<absl::Status()> still_off, const std::stop_token& stop)
    : images_(std::move(images)), still_off_(std::move(still_off)), forward_(stop, Forward{this}) {}

absl::Status ApplianceWatch::Begin() {
  VR_RETURN_IF_ERROR(Look());
  watcher_ = std::jthread([this](const std::stop_token& done) { Watch(done); });
  return absl::OkStatus();
}

absl::Status ApplianceWatch::End() {
  if (watcher_.joinable()) {
    watcher_.request_stop();
    watcher_.join();
  }
  return seen_;
}

absl::Status ApplianceWatch::Look() {
  VR_RETURN_IF_ERROR(still_off_());
  std::set<pid_t> now;
  // Who outlives virt-reclaim-guestfs by a moment is nobody's child then.
  const auto is_ours = [&](pid_t pid) {
    const bool ours = ours_.contains(pid) || IsDescendant(pid);
    if (ours) now.insert(pid);
    return ours;
  };
  for (const WatchedImage& image : images_) {
    VR_RETURN_IF_ERROR(CheckSame(image));
    Holders holders = FindHolders(image.identity, {}, is_ours);
    if (!holders.names.empty()) {
      std::this_thread::sleep_for(kGlance);
      holders = FindHolders(image.identity, {}, is_ours);
    }
    if (!holders.names.empty()) {
      return absl::AbortedError(
          absl::StrCat(Quoted(image.path), " is in use: ", holders.Describe()));
    }
    if (!holders.complete) {
      return absl::PermissionDeniedError(Quoted(image.path) +
                                         ": only root can see whether somebody has it open");
    }
  }
  ours_ = std::move(now);
  return absl::OkStatus();
}

void ApplianceWatch::Watch(const std::stop_token& done) {
  std::unique_lock lock(mutex_);
  while (!done.stop_requested()) {
    seen_ = Look();
    if (!seen_.ok()) {
      stop_.request_stop();
      return;
    }
    ended_.wait_for(lock, done, kLookAtHoldersEvery, [] { return false; });
  }
}

}  // namespace virt_reclaim
