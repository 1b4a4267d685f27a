// DiscardPathOf: the measured table of docs/discard-support.md as code. Keep both alike.
#include <optional>

#include "absl/strings/match.h"
#include "base/contains.h"
#include "xml-tools/machine_types.h"
#include "xml-tools/rewrite.h"
#include "xml-tools/targets.h"

namespace virt_reclaim::xml {
namespace {

constexpr absl::string_view kPassingScsiModels[] = {
    "virtio-scsi", "virtio-transitional", "virtio-non-transitional",
    "lsilogic",    "lsisas1078",          "vmpvscsi"};
constexpr absl::string_view kDroppingScsiModels[] = {"am53c974", "dc390"};

DiscardPath ScsiPath(const Domain& domain, const Disk& disk) {
  const uint32_t wanted = ScsiAddress(disk).controller;
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
