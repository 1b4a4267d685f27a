// Who opens a block device for writing while we work on it. Nothing keeps him from it
// (image_guard.h), so it is looked up: soon enough to be done with the device before a guest that
// starts on it has got to its first write.
#ifndef VIRT_RECLAIM_HOST_GUARD_DEVICE_WATCH_H_
#define VIRT_RECLAIM_HOST_GUARD_DEVICE_WATCH_H_

#include <chrono>
#include <mutex>

#include "host/guard/holders.h"
#include "host/guard/image_identity.h"

namespace virt_reclaim {

class DeviceWatch {
 public:
  DeviceWatch(const ImageIdentity& device, HolderRoots roots);

  // Whether anybody but this process and those it started has the device, a partition of it or the
  // disk that it is a partition of open for writing. Looked up ten times a second at most, and less
  // often where there are so many processes that it would take a tenth of the time; in between it
  // is what it was. Once true it stays so. Any thread.
  bool SomebodyWrites();

 private:
  bool Look() const;

  const ImageIdentity device_;
  const HolderRoots roots_;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point next_look_;
  bool writes_ = false;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_GUARD_DEVICE_WATCH_H_
