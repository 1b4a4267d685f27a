// Collecting what is known about an image before it is read.
#ifndef VIRT_RECLAIM_HOST_PUNCH_SURVEY_H_
#define VIRT_RECLAIM_HOST_PUNCH_SURVEY_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace virt_reclaim::punch {

struct OpenedImage {
  UniqueFd fd;
  bool direct = false;
};

// For reading, without touching atime where we may. Never waits. `direct`: O_DIRECT where there is.
absl::StatusOr<OpenedImage> OpenForReading(const std::string& path, bool direct);

// FailedPrecondition when the file has the signature of a swap file (mkswap(8)): swapon refuses one
// with holes. In use or not, of any page size. Reads the first 64 KiB.
absl::Status RefuseSwapFile(int fd);

// What /sys says of the queue of the block device or partition in the directory `device` of it: the
// number in the file `name`; 0 when there is none.
uint64_t QueueNumber(const std::string& device, const char* name);

struct DeviceFacts {
  uint64_t size_bytes = 0;
  uint64_t unit_bytes = 0;  // what it discards at once
};
// Of a block device. Unimplemented when it cannot make zeroes without writing them.
absl::StatusOr<DeviceFacts> ReadDeviceFacts(int fd);

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_SURVEY_H_
