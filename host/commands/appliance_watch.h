// Who takes a guest's images while libguestfs's appliance works on them. Its QEMU has them open, so
// that no lease can be held; QEMU's image locks it holds itself, and who has none
// (`file.locking=off`, a loop device, a mount) is looked for every second, as is the state of their
// domains. Then the appliance is asked to stop.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_APPLIANCE_WATCH_H_
#define VIRT_RECLAIM_HOST_COMMANDS_APPLIANCE_WATCH_H_

#include <sys/types.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "host/guard/image_identity.h"

namespace virt_reclaim {

struct WatchedImage {
  std::string path;
  ImageIdentity identity;
};

// FailedPrecondition: by the path of `image` there is another file now.
absl::Status CheckSame(const WatchedImage& image);

// One thread. The appliance must be a descendant of this process.
class ApplianceWatch {
 public:
  // `still_off` is asked by a thread of its own; `stop` is passed on to token().
  ApplianceWatch(std::vector<WatchedImage> images, std::function<absl::Status()> still_off,
                 const std::stop_token& stop);
  ApplianceWatch(const ApplianceWatch&) = delete;
  ApplianceWatch& operator=(const ApplianceWatch&) = delete;

  // Before the appliance starts. Aborted: somebody has one of them; PermissionDenied: only root can
  // see whether somebody has; FailedPrecondition: one is another file; what `still_off` said.
  absl::Status Begin();

  std::stop_token token() const { return stop_.get_token(); }

  // After it ended: what made the watch stop it, as above; OK: nothing did.
  absl::Status End();

 private:
  struct Forward {
    ApplianceWatch* watch;
    void operator()() const { watch->stop_.request_stop(); }
  };

  absl::Status Look();
  void Watch(const std::stop_token& done);

  const std::vector<WatchedImage> images_;
  const std::function<absl::Status()> still_off_;
  std::stop_source stop_;
  std::stop_callback<Forward> forward_;
  std::set<pid_t> ours_;  // that had an image at the last look
  absl::Status seen_;     // the watcher's, until it has ended
  std::mutex mutex_;
  std::condition_variable_any ended_;
  std::jthread watcher_;  // last: uses all of them
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_APPLIANCE_WATCH_H_
