// What a migration has to know of the images of a domain's disks: whether they forbid it, what is
// to be known of them before, and which they are, so that a saved plan tells when they are others.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_MIGRATE_IMAGES_H_
#define VIRT_RECLAIM_HOST_COMMANDS_MIGRATE_IMAGES_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "host/commands/migrate.h"

namespace virt_reclaim {

// How long a plan waits for the agent of a guest.
inline constexpr absl::Duration kPlanAgentTimeout = absl::Seconds(2);

// Whether one of the changes is about the disk.
bool TouchesDisk(const std::vector<xml::Change>& changes, const std::string& target);

// What lies below images. Each filesystem is tried once; a block device is looked at in sysfs. Any
// thread.
class StoragesBelow {
 public:
  explicit StoragesBelow(const Services& services) : services_(services) {}
  ImageStorage Of(const DiskFacts& disk);

 private:
  std::optional<bool> CanPunch(const ImageFile& top);

  const Services& services_;
  std::mutex mutex_;
  std::map<uint64_t, std::optional<bool>> known_;  // by st_dev
};

struct JudgedImages {
  DomainFacts facts;                   // of the persistent definition
  std::vector<xml::Refusal> refusals;  // disks that stay as they are
  std::vector<Blocker> risks;
};

// Those of the persistent definition: the running domain may have others under the same names. Its
// guest is asked when a risk depends on it.
absl::StatusOr<JudgedImages> JudgeImages(const Services& services, const MigrateOptions& options,
                                         const MigrateAction& action, StoragesBelow& storages,
                                         const std::stop_token& stop);

// The images of the disks that `changes` are about; those that are neither files nor block devices
// of this machine have no identity, and are left out.
std::vector<PlannedImage> IdentitiesOf(const Services& services, const DomainFacts& facts,
                                       const std::vector<xml::Change>& changes);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_MIGRATE_IMAGES_H_
