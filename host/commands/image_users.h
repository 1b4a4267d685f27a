// Which domains have an image, as their disk or below it: what libvirt knows and the image itself
// does not tell.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_IMAGE_USERS_H_
#define VIRT_RECLAIM_HOST_COMMANDS_IMAGE_USERS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/statusor.h"
#include "host/commands/services.h"
#include "host/model/reason.h"

namespace virt_reclaim {

struct ImageUse {
  DomainSummary domain;
  std::string target;  // of the disk
  std::string format;  // as the definition says; empty: nothing is said
  size_t depth = 0;    // 0: the disk's image itself; else a backing file
  bool shareable = false;
};

// By identity, not by name. A value; any thread.
class ImageUsers {
 public:
  // Asks for the definitions of all domains, saved and live, and reads the headers of their qcow2
  // images. What cannot be examined has no users. Cancelled.
  static absl::StatusOr<ImageUsers> Find(const Services& services, const std::stop_token& stop);

  // Empty also for what does not exist.
  std::vector<ImageUse> Of(const std::string& path) const;

 private:
  // Device and inode, or the number of a block device.
  using Key = std::tuple<uint64_t, uint64_t, uint64_t>;
  void Add(const std::string& path, const ImageUse& use);

  std::map<Key, std::vector<ImageUse>> uses_;
};

// Why the memory of `domain`, which runs, is paused or saved, may be newer than its images. Empty:
// it is off.
std::optional<Blocker> NotOff(const Services& services, const DomainSummary& domain);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_IMAGE_USERS_H_
