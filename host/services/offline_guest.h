// A guest that is off, asked by reading its images: the same facts its agent would tell, by
// virt-reclaim-guestfs, a program of its own that libguestfs is linked into. What comes back is as
// much the guest's word as an agent's answer.
#ifndef VIRT_RECLAIM_HOST_SERVICES_OFFLINE_GUEST_H_
#define VIRT_RECLAIM_HOST_SERVICES_OFFLINE_GUEST_H_

#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "host/model/guest_preflight.h"

namespace virt_reclaim {

struct OfflineDisk {
  std::string format;  // raw, qcow2: as the definition says, never probed
  std::string path;    // a file or block device of this machine
};

// What the appliance does with one device, as libguestfs names it: /dev/sda1, /dev/GROUP/VOLUME.
struct OfflineJob {
  std::string device;
  bool zero = false;  // all of it becomes zeroes; else the filesystem on it is trimmed
};

// Any thread.
class OfflineGuest {
 public:
  virtual ~OfflineGuest() = default;
  // `disks` are all disks of one guest, which must be off for as long as this takes: with KVM some
  // seconds, without about half a minute. Opens them read-only, without a lock that would hinder a
  // start. Unimplemented: the program is not installed. FailedPrecondition: it could not tell, with
  // its reason. DeadlineExceeded and Cancelled: it and its appliance were killed. DataLoss: no such
  // answer can come from it.
  virtual absl::StatusOr<GuestPreflight> Read(const std::vector<OfflineDisk>& disks,
                                              absl::Duration timeout,
                                              const std::stop_token& stop) = 0;

  // Mounts filesystems and trims them, or zeroes devices, which writes to the disks; they must be
  // in nobody's use. What became of each job, in their order: Unavailable, it cannot be mounted;
  // Unimplemented, it cannot be trimmed; else what the kernel said in the middle of it. Errors as
  // above; then nothing or a part was done.
  virtual absl::StatusOr<std::vector<absl::Status>> Trim(const std::vector<OfflineDisk>& disks,
                                                         const std::vector<OfflineJob>& jobs,
                                                         absl::Duration timeout,
                                                         const std::stop_token& stop) = 0;
};

// By the program at the path `program`, which need not exist.
std::unique_ptr<OfflineGuest> NewOfflineGuest(std::string program);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_OFFLINE_GUEST_H_
