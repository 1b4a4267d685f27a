// The guest's half of the end-to-end probe: a file of known bytes that is written, found on the
// disk, deleted and discarded, while the host watches its image. Any thread; the calling one
// blocks.
#ifndef VIRT_RECLAIM_GUEST_AGENT_MARKER_H_
#define VIRT_RECLAIM_GUEST_AGENT_MARKER_H_

#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "guest-agent/filesystems.h"
#include "guest-agent/fitrim.h"
#include "guest-agent/trimmer.h"

namespace virt_reclaim::agent {

inline constexpr uint64_t kMaxMarkerBytes = uint64_t{64} << 20;
inline constexpr uint64_t kMarkerBlockBytes = 4096;
inline constexpr size_t kMarkerIdBytes = 16;

struct MarkerExtent {
  uint64_t offset_bytes = 0;  // on the device below the filesystem
  uint64_t length_bytes = 0;
};

struct Marker {
  std::string id;  // kMarkerIdBytes random bytes
  uint64_t size_bytes = 0;
  bool extents_known = false;
  std::vector<MarkerExtent> extents;
  std::string device;
  std::string disk;  // empty: more than a partition table is in between
  uint64_t start_bytes = 0;
};

// The file's name for an id.
std::string MarkerName(absl::string_view id);

// Leaves a marker on the filesystem of `target`, after taking away what an earlier probe left.
// InvalidArgument: the size; FailedPrecondition: read-only, too little is free, or it lies on a
// loop device in a file that is preallocated, which the marker's discard would thin.
absl::StatusOr<Marker> WriteMarker(const TrimTarget& target, uint64_t size_bytes,
                                   const std::stop_token& stop);

struct DiscardedMarker {
  uint64_t trimmed_bytes = 0;
  int error_number = 0;
  bool whole_filesystem = false;
};
// Deletes it, waits until the filesystem has written that down, and trims; again, for some seconds,
// while less than the marker is free there. What holds the file of a loop device below is synced
// then. NotFound: no such marker.
absl::StatusOr<DiscardedMarker> DiscardMarker(const TrimTarget& target, absl::string_view id,
                                              const std::stop_token& stop, FitrimCall call);

// Deletes every marker on filesystems with a disk: what a crash left. Returns how many are left
// because they could not be deleted.
size_t RemoveLeftMarkers(const FilesystemList& list);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_MARKER_H_
