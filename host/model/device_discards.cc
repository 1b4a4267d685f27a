#include "host/model/device_discards.h"

#include <algorithm>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace virt_reclaim {
namespace {

bool IsThinPool(const HostDevice& device) {
  return absl::StartsWith(device.dm_uuid, "LVM-") && absl::EndsWith(device.dm_uuid, "-tpool");
}

// Not below a thin pool: there the space is the pool's again, whatever the pool passes on.
std::vector<std::string> LegsThatDrop(const std::vector<HostDevice>& devices,
                                      const HostDevice& top) {
  std::vector<std::string> dropping;
  std::set<std::string> seen{top.name};
  std::vector<const HostDevice*> open{&top};
  while (!open.empty()) {
    const HostDevice& device = *open.back();
    open.pop_back();
    if (IsThinPool(device)) continue;
    if (&device != &top && device.discard_max == 0) dropping.push_back(NameOf(device));
    for (const HostDevice& below : devices) {
      const bool is_leg = std::find(device.parents.begin(), device.parents.end(), below.name) !=
                          device.parents.end();
      if (is_leg && seen.insert(below.name).second) open.push_back(&below);
    }
  }
  std::sort(dropping.begin(), dropping.end());
  return dropping;
}

// Which of the devices it is that drops them all: one without discards whose legs have some.
std::string DropperOf(const std::vector<HostDevice>& devices) {
  const auto drops = [&](const std::string& name) {
    return std::any_of(devices.begin(), devices.end(), [&](const HostDevice& device) {
      return device.name == name && device.discard_max == 0;
    });
  };
  for (const HostDevice& device : devices) {
    if (device.discard_max != 0 || std::any_of(device.parents.begin(), device.parents.end(), drops))
      continue;
    const bool crypt = absl::StartsWith(device.dm_uuid, "CRYPT-");
    return absl::StrCat(NameOf(device), crypt ? ", dm-crypt without allow-discards" : "");
  }
  return NameOf(devices.front());
}

}  // namespace

std::string NameOf(const HostDevice& device) {
  return device.dm_name.empty() ? device.name
                                : absl::StrCat(device.dm_name, " (", device.name, ")");
}

DeviceDiscards JudgeDevices(const std::vector<HostDevice>& devices) {
  DeviceDiscards judged;
  if (devices.empty()) return judged;
  const HostDevice& top = devices.front();
  const auto pool = std::find_if(devices.begin(), devices.end(), IsThinPool);
  if (pool != devices.end() && absl::StartsWith(top.dm_uuid, "LVM-")) judged.thin_pool = &*pool;
  if (!top.discard_max) return judged;
  judged.is_known = true;
  if (*top.discard_max == 0) {
    judged.dropper = DropperOf(devices);
  } else {
    judged.lost_legs = LegsThatDrop(devices, top);
  }
  return judged;
}

}  // namespace virt_reclaim
