// DiscardPathOf: the measured table of docs/discard-support.md as code. Keep both alike.
#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "xml-tools/machine_types.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim::xml {
namespace {

constexpr absl::string_view kPassingScsiModels[] = {
    "virtio-scsi", "virtio-transitional", "virtio-non-transitional",
    "lsilogic",    "lsisas1078",          "vmpvscsi"};
constexpr absl::string_view kDroppingScsiModels[] = {"am53c974", "dc390"};
constexpr uint32_t kUnitsPerScsiController =
    7;  // what libvirt counts with when it derives an address from sdX

template <size_t N>
bool Contains(const absl::string_view (&list)[N], absl::string_view value) {
  return std::find(std::begin(list), std::end(list), value) != std::end(list);
}

// libvirt's own guess when target/@bus is missing.
std::string BusOf(const Disk& disk) {
  if (!disk.bus.empty()) return disk.bus;
  if (absl::StartsWith(disk.target, "vd")) return "virtio";
  if (absl::StartsWith(disk.target, "sd")) return "scsi";
  if (absl::StartsWith(disk.target, "hd")) return "ide";
  if (absl::StartsWith(disk.target, "fd")) return "fdc";
  return "";
}

// sda is 0, sdz 25, sdaa 26.
uint32_t IndexOfTarget(absl::string_view target) {
  uint32_t index = 0;
  for (const char c : target.substr(std::min<size_t>(2, target.size()))) {
    if (c < 'a' || c > 'z' || index > 1'000'000) break;
    index = index * 26 + static_cast<uint32_t>(c - 'a') + 1;
  }
  return index == 0 ? 0 : index - 1;
}

DiscardPath ScsiPath(const Domain& domain, const Disk& disk) {
  const uint32_t wanted =
      disk.drive ? disk.drive->controller : IndexOfTarget(disk.target) / kUnitsPerScsiController;
  std::string model;
  for (const Controller& controller : domain.controllers) {
    if (controller.type == "scsi" && controller.index == wanted) model = controller.model;
  }
  if (Contains(kPassingScsiModels, model)) return DiscardPath::kPasses;
  if (Contains(kDroppingScsiModels, model)) return DiscardPath::kBusDrops;
  // Without a model libvirt takes lsilogic or virtio-scsi, which both pass, except on pseries:
  // ibmvscsi, not measured.
  if (model.empty() && !absl::StartsWith(domain.machine, "pseries")) return DiscardPath::kPasses;
  return DiscardPath::kUnknown;
}

}  // namespace

DiscardPath DiscardPathOf(const Domain& domain, const Disk& disk) {
  const std::string bus = BusOf(disk);
  if (bus == "ide" || bus == "sata" || bus == "nvme") return DiscardPath::kPasses;
  if (bus == "usb" || bus == "sd" || bus == "fdc") return DiscardPath::kBusDrops;
  if (bus == "scsi") return ScsiPath(domain, disk);
  if (bus != "virtio") return DiscardPath::kUnknown;
  const std::optional<bool> passes = VirtioBlkPassesDiscards(ParseMachineType(domain.machine));
  if (!passes) return DiscardPath::kUnknown;
  return *passes ? DiscardPath::kPasses : DiscardPath::kMachineTooOld;
}

}  // namespace virt_reclaim::xml
