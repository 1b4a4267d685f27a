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
  size_t depth = 0;    // 0: the disk's image itself; else a backing or data file
  bool shareable = false;
};

// By identity, not by name. A value; any thread.
class ImageUsers {
 public:
  // Asks for the definitions of all domains, saved and live, and where their volumes lie, and reads
  // the headers of their qcow2 images. Cancelled.
  static absl::StatusOr<ImageUsers> Find(const Services& services, const std::stop_token& stop);

  // Empty also for what does not exist.
  std::vector<ImageUse> Of(const std::string& path) const;

  // Why the image `path` may be what another one stands on although Of does not say so: of that one
  // nobody can tell what it stands on, as its header, or that of one below it, cannot be read. An
  // image that is not there stands on nothing, and vmdk and qed images count as standing alone.
  // Empty: it is not, or there is no `path`.
  std::string MayBeBelow(const std::string& path) const;

 private:
  // Device and inode, or the number of a block device.
  using Key = std::tuple<uint64_t, uint64_t, uint64_t>;
  // Somebody's image of which it is not known what it stands on.
  struct Unknown {
    std::string path;
    std::string why;
  };
  static std::optional<Key> KeyOf(const std::string& path);
  void Add(const std::string& path, const ImageUse& use);
  // Fails where it is not known what all of it is.
  absl::Status AddDisk(const Services& services, const DomainSummary& domain,
                       const xml::Disk& disk);
  // What the image `path`, used as `use` says, stands on, as the headers say: backing and data
  // files.
  absl::Status AddBelow(const Services& services, std::string path, ImageUse use);

  std::map<Key, std::vector<ImageUse>> uses_;
  std::vector<Unknown> unknown_;
};

// Why the memory of `domain`, which runs, is paused or saved, may be newer than its images. Empty:
// it is off.
std::optional<Blocker> NotOff(const Services& services, const DomainSummary& domain);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_IMAGE_USERS_H_
