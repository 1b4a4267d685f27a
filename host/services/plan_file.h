// A migration plan as a file, so that what is applied tonight is what was looked at today: JSON
// with a schema version, without any XML (and so without secrets), but with the digests and
// identities by which apply tells that something is not as it was. docs/json.md has the fields.
#ifndef VIRT_RECLAIM_HOST_SERVICES_PLAN_FILE_H_
#define VIRT_RECLAIM_HOST_SERVICES_PLAN_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim {

// The image of a disk that is to change, by its identity: of a local file `device` and `inode`, of
// a block device of this machine `number` (st_rdev, never 0) and `size` in bytes.
struct PlannedImage {
  std::string target, path;
  uint64_t device = 0, inode = 0;
  uint64_t number = 0, size = 0;
  bool operator==(const PlannedImage&) const = default;
};

struct PlannedDomain {
  std::string name, uuid;
  std::string before_digest;  // SHA-256 of the persistent XML without secrets
  std::string after_digest;   // of the edited one
  std::vector<PlannedImage> images;
};

struct PlanFile {
  std::string hypervisor;  // URI
  absl::Time time;         // when it was planned
  // What was asked for; known_machines is of the host, and not kept.
  xml::RewriteOptions rewrite;
  bool fix_guest = false, allow_thick = false, assume = false;
  std::vector<PlannedDomain> domains;  // those with something to change
};

// Replaces `path` durably, mode 0600.
absl::Status WritePlanFile(const std::string& path, const PlanFile& plan);

// InvalidArgument: no plan file, or of a later version. Whoever wrote it: everything is checked.
absl::StatusOr<PlanFile> ReadPlanFile(const std::string& path);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_PLAN_FILE_H_
