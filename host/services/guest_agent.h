// The agent in a guest, over the domain's channel. Every answer is the guest's word: bounded here,
// made printable here, believed nowhere.
#ifndef VIRT_RECLAIM_HOST_SERVICES_GUEST_AGENT_H_
#define VIRT_RECLAIM_HOST_SERVICES_GUEST_AGENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "host/model/facts.h"
#include "host/model/guest_preflight.h"
#include "proto/link/port.h"

namespace virt_reclaim {

inline constexpr char kAgentChannelName[] = "org.virt_reclaim.agent.v1";

// Where a trim of all filesystems ended.
struct GuestTrimPosition {
  std::string mount_point;
  uint64_t offset = 0;  // bytes, in that filesystem
  bool after = false;   // it was trimmed to its end
  bool operator==(const GuestTrimPosition&) const = default;
};

struct GuestTrimOptions {
  std::vector<std::string> mount_points;  // empty: all
  uint64_t minimum = 0;                   // bytes; 0: the filesystem's own
  uint64_t chunk = 0;                     // bytes; 0: the agent chooses
  absl::Duration pause = absl::ZeroDuration();
  // Each lengthens the pause; an older agent knows none of them.
  uint32_t pause_percent = 0;  // of what a chunk took, at most 10000
  uint64_t max_rate = 0;       // bytes trimmed a second; 0: no limit
  bool back_off = false;       // wait on while programs of the guest wait for their disks
  // What lies before was trimmed by an earlier call; an older agent trims it again.
  std::optional<GuestTrimPosition> start = {};
};

enum class GuestTrimResult { kUnknown, kDone, kSkipped, kFailed, kCancelled };

struct GuestTrim {
  std::string mount_point, source;
  GuestTrimResult result = GuestTrimResult::kUnknown;
  uint64_t trimmed = 0;  // bytes, the guest's word
  std::string error_name;
  GuestObstacle obstacle = GuestObstacle::kUnknown;
  std::string obstacle_device;
  std::vector<std::string> disks;  // guest kernel names
  absl::Duration elapsed = absl::ZeroDuration();
};

struct GuestTrimProgress {
  std::string mount_point;
  uint64_t position = 0, size = 0, trimmed = 0;
  std::optional<absl::Duration> left = {};  // of the whole trim, by how long the last one took
};

// One session with the agent; one call at a time. Statuses: Unavailable (link lost, agent
// restarted), DeadlineExceeded, Cancelled, Aborted (another trim is under way in the guest),
// Unimplemented (older agent), else what the agent said.
class GuestAgent {
 public:
  virtual ~GuestAgent() = default;
  // Who answers, without filesystems.
  virtual absl::StatusOr<GuestFacts> GetInfo(absl::Duration timeout, std::stop_token stop) = 0;
  virtual absl::StatusOr<std::vector<GuestFilesystem>> ListFilesystems(absl::Duration timeout,
                                                                       std::stop_token stop) = 0;
  // `finished` gets each filesystem as it is done. On an error they stay in it: what was trimmed
  // was trimmed.
  virtual absl::Status Trim(const GuestTrimOptions& options, absl::Duration timeout,
                            std::stop_token stop,
                            const std::function<void(const GuestTrimProgress&)>& progress,
                            std::vector<GuestTrim>& finished) = 0;

  // Of the trim under way: its pauses are at least so long from the next one on, up to a minute;
  // zero: as it was asked. The one call that may be made during another: from Trim's `progress`,
  // or from another thread, which has returned before the session ends.
  virtual absl::Status SetTrimPause(absl::Duration least_pause, absl::Duration timeout);

  // For a migration. Unimplemented, as by default here: an older agent.
  // What the guest's configuration says. Reads the guest's initramfs: give it a minute or two.
  virtual absl::StatusOr<GuestPreflight> Preflight(absl::Duration timeout, std::stop_token stop);
  // The end-to-end probe: look at the image after WriteMarker, and again after DiscardMarker.
  // FailedPrecondition: read-only, or too little is free there; Aborted: a trim is under way.
  virtual absl::StatusOr<GuestMarker> WriteMarker(const std::string& mount_point, uint64_t size,
                                                  absl::Duration timeout, std::stop_token stop);
  // NotFound: the marker has gone, as when the agent was started again.
  virtual absl::StatusOr<GuestMarkerDiscard> DiscardMarker(const std::string& mount_point,
                                                           const GuestMarker& marker,
                                                           absl::Duration timeout,
                                                           std::stop_token stop);
  // Runs of at least `minimum` bytes. FailedPrecondition: this filesystem has no such map.
  virtual absl::StatusOr<GuestFreeMap> ReadFreeMap(const std::string& mount_point, uint64_t minimum,
                                                   absl::Duration timeout, std::stop_token stop);
  // Changes files of the guest unless it is a plan. Makes an initramfs: minutes. A stop or the
  // deadline has the guest put everything back, of which nobody is told any more: ask Preflight.
  // FailedPrecondition: it cannot be done in this guest, with the reason.
  virtual absl::StatusOr<GuestFix> FixGuest(GuestFixAction action, absl::Duration timeout,
                                            std::stop_token stop);
};

// Opens a session over `port`. DeadlineExceeded when no agent answers within `timeout`.
absl::StatusOr<std::unique_ptr<GuestAgent>> ConnectGuestAgent(std::unique_ptr<link::Port> port,
                                                              absl::Duration timeout,
                                                              std::stop_token stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_GUEST_AGENT_H_
