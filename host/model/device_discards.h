// What block devices of the host below an image do with discards, judged from their sysfs. Pure.
#ifndef VIRT_RECLAIM_HOST_MODEL_DEVICE_DISCARDS_H_
#define VIRT_RECLAIM_HOST_MODEL_DEVICE_DISCARDS_H_

#include <string>
#include <vector>

#include "host/model/facts.h"

namespace virt_reclaim {

struct DeviceDiscards {
  bool is_known = false;  // false: there is no device, or sysfs does not say
  // Not empty: the image's device takes none, and this is the one below it that is to blame.
  std::string dropper;
  // The others take them, these legs below do not: a part is lost. Names, sorted.
  std::vector<std::string> lost_legs;
  // The image is a volume of this thin pool; its chunks are the units in which space comes back.
  const HostDevice* thin_pool = nullptr;  // one of the argument's
};

// `devices`: the image's own first, as in ImageStorage, and it must live on.
DeviceDiscards JudgeDevices(const std::vector<HostDevice>& devices);

// "vg-volume (dm-3)", as people and the kernel call it.
std::string NameOf(const HostDevice& device);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_DEVICE_DISCARDS_H_
