#include "host/model/discard_chain.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "host/model/assessment.h"
#include "host/model/device_discards.h"
#include "host/model/guest_disks.h"
#include "host/model/guest_layers.h"
#include "host/model/image_judge.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim {
namespace {

// Measured with QEMU 7.2, from whose later versions nothing else is known: a discard of such an
// image succeeds, and nothing happens. (parallels has learned it since, and is left out.)
constexpr std::array kDroppingFormats =
    std::to_array<absl::string_view>({"vdi", "vmdk", "vpc", "vhdx", "qed", "qcow"});

const xml::Disk* FindDisk(const xml::Domain& domain, const std::string& target) {
  const auto found = std::find_if(domain.disks.begin(), domain.disks.end(),
                                  [&](const xml::Disk& disk) { return disk.target == target; });
  return found == domain.disks.end() ? nullptr : &*found;
}

// A layer of the definition, now and at the next start.
Layer DefinitionLayer(LayerKind kind, const std::optional<Blocker>& now,
                      const std::optional<Blocker>& next) {
  Layer layer;
  layer.kind = kind;
  layer.verdict = LayerVerdict::kOk;
  if (now) {
    const bool unknown = now->reason == Reason::kMachineUnknown;
    layer.verdict = unknown ? LayerVerdict::kUnknown : LayerVerdict::kDrops;
    if (!next)
      layer.reasons.push_back({Reason::kPowerCyclePending, std::string(Code(now->reason))});
    layer.reasons.push_back(*now);
  } else if (next) {
    layer.remarks.push_back({Reason::kDefinitionPending, std::string(Code(next->reason))});
  }
  return layer;
}

// By the machine type, or as QEMU says, who knows better.
std::optional<Blocker> BusBlockerNow(const ChainFacts& facts, const xml::Disk& disk) {
  auto blocker = BusBlocker(facts.live, disk);
  const auto asked = facts.qemu.find(disk.target);
  if (asked == facts.qemu.end() || !asked->second.discards) return blocker;
  if (*asked->second.discards) return std::nullopt;
  if (blocker && blocker->reason != Reason::kMachineUnknown) return blocker;
  return Blocker{Reason::kDeviceDiscardOff, Printable(disk.alias)};
}

std::string BusDetail(const ChainFacts& facts, const xml::Disk& disk) {
  const std::string detail = absl::StrCat(
      "machine type ", facts.live.machine.empty() ? "-" : Printable(facts.live.machine));
  const auto asked = facts.qemu.find(disk.target);
  if (asked == facts.qemu.end()) return detail;
  const QemuDevice& device = asked->second;
  if (!device.discards) return absl::StrCat(detail, "; QEMU does not tell: ", device.unknown);
  return absl::StrCat(detail, "; QEMU says that the device takes ",
                      *device.discards ? "discards" : "no discards");
}

std::vector<Layer> DefinitionLayers(const ChainFacts& facts, const xml::Disk& disk) {
  const xml::Domain& saved = facts.saved ? *facts.saved : facts.live;
  const xml::Disk* next = FindDisk(saved, disk.target);
  const auto bus_now = BusBlockerNow(facts, disk);
  // Where the definition stays as it is, the next start does what this one did, whatever QEMU says.
  const auto bus_next = next ? BusBlocker(saved, *next) : std::nullopt;
  const bool stays = !next || bus_next == BusBlocker(facts.live, disk);
  Layer bus = DefinitionLayer(LayerKind::kBus, bus_now, stays ? bus_now : bus_next);
  bus.name = disk.bus.empty() ? "-" : Printable(disk.bus);
  bus.detail = BusDetail(facts, disk);
  const auto driver_now = DriverBlocker(disk);
  Layer driver =
      DefinitionLayer(LayerKind::kDriver, driver_now, next ? DriverBlocker(*next) : driver_now);
  driver.name = "driver";
  driver.detail = absl::StrCat("discard ", disk.discard.empty() ? "is not set" : "is ",
                               disk.discard.empty() ? "" : Printable(disk.discard));
  if (next && next->discard != disk.discard)
    absl::StrAppend(&driver.detail, "; at the next start ",
                    next->discard.empty() ? "not set" : Printable(next->discard));
  return {bus, driver};
}

void JudgeFormat(const DiskFacts& disk, Layer& layer) {
  const std::string& format = disk.xml.source.format;
  const auto drops = std::find(kDroppingFormats.begin(), kDroppingFormats.end(), format);
  if (drops != kDroppingFormats.end()) {
    layer.verdict = LayerVerdict::kDrops;
    layer.reasons.push_back({Reason::kImageFormat, format});
  } else if (format.empty() || format == "raw" || format == "qcow2") {
    layer.verdict = LayerVerdict::kOk;
  }
}

Layer ImageLayer(const DiskFacts& disk, uint64_t guest_unit) {
  Layer layer;
  layer.kind = LayerKind::kImage;
  const xml::ImageSource& source = disk.xml.source;
  layer.name = source.path.empty() ? "-" : Printable(source.path);
  layer.detail = source.format.empty() ? "raw" : Printable(source.format);
  JudgeFormat(disk, layer);
  const auto unknown = ImageBlocker(disk);
  if (unknown && unknown->reason == Reason::kBlockDevice) {
    layer.remarks.push_back(*unknown);
  } else if (unknown) {
    if (layer.verdict == LayerVerdict::kOk) layer.verdict = LayerVerdict::kUnknown;
    layer.reasons.push_back(*unknown);
  }
  // Its refusal is about thin or thick; whether holes can be punched is the storage's own layer.
  ImageJudgement judgement = JudgeImage(disk, /*storage=*/{}, /*allow_thick=*/false, guest_unit);
  if (judgement.refusal) layer.remarks.push_back(*judgement.refusal);
  for (Blocker& risk : judgement.risks) {
    const bool holds = risk.reason == Reason::kInternalSnapshots || risk.reason == Reason::kOverlay;
    if (holds && layer.verdict == LayerVerdict::kOk) layer.verdict = LayerVerdict::kPartly;
    (holds ? layer.reasons : layer.remarks).push_back(std::move(risk));
  }
  if (disk.chain.empty()) return layer;
  const ImageFile& top = disk.chain.front();
  if (top.granularity > 0)
    absl::StrAppend(&layer.detail, ", frees units of ", FormatByteSize(top.granularity));
  if (top.external_data)
    layer.remarks.push_back({Reason::kExternalDataFile,
                             top.data ? Printable(top.data->path) : std::string("not known")});
  return layer;
}

void JudgeBlockStorage(const ImageStorage& storage, uint64_t guest_unit, Layer& layer) {
  const HostDevice& top = storage.devices.front();
  const DeviceDiscards judged = JudgeDevices(storage.devices);
  const bool thin = judged.thin_pool != nullptr;
  layer.name = NameOf(top);
  layer.detail = thin ? "thin volume of LVM" : "block device";
  if (!judged.is_known) return;
  if (!judged.dropper.empty()) {
    layer.verdict = LayerVerdict::kDrops;
    absl::StrAppend(&layer.detail, ", takes no discards");
    layer.reasons.push_back({Reason::kStorageCannotPunch, judged.dropper});
    return;
  }
  layer.verdict = LayerVerdict::kOk;
  absl::StrAppend(&layer.detail, ", discards of up to ", FormatByteSize(*top.discard_max));
  if (top.discard_granularity > 0)
    absl::StrAppend(&layer.detail, thin ? " in chunks of " : " in units of ",
                    FormatByteSize(top.discard_granularity));
  if (thin && judged.thin_pool->discard_max == 0)
    absl::StrAppend(&layer.detail, "; its pool passes nothing on to what lies below");
  if (const auto large = LargeChunks(storage.devices, guest_unit)) layer.remarks.push_back(*large);
  if (!judged.lost_legs.empty()) {
    layer.verdict = LayerVerdict::kPartly;
    layer.reasons.push_back({Reason::kStorageCannotPunch, absl::StrJoin(judged.lost_legs, ", ")});
  }
}

Layer StorageLayer(const DiskFacts& disk, const ImageStorage& storage, uint64_t guest_unit) {
  Layer layer;
  layer.kind = LayerKind::kStorage;
  layer.name = storage.filesystem.empty() ? "-" : Printable(storage.filesystem);
  if (!storage.nfs_version.empty())
    absl::StrAppend(&layer.name, " ", Printable(storage.nfs_version));
  if (!storage.devices.empty()) {
    JudgeBlockStorage(storage, guest_unit, layer);
  } else if (storage.punches) {
    layer.verdict = *storage.punches ? LayerVerdict::kOk : LayerVerdict::kDrops;
    layer.detail = *storage.punches ? "a hole was punched beside the image"
                                    : "no hole could be punched beside the image";
    if (!*storage.punches && !storage.nfs_version.empty() && storage.nfs_version != "4.2")
      absl::StrAppend(&layer.detail, "; NFS knows holes from version 4.2 on");
    if (!*storage.punches)
      layer.reasons.push_back({Reason::kStorageCannotPunch,
                               disk.chain.empty() ? "" : Printable(disk.chain.front().path)});
  } else {
    layer.detail = storage.unknown.empty() ? "not known" : Printable(storage.unknown);
  }
  return layer;
}

}  // namespace

absl::string_view Name(LayerKind kind) {
  switch (kind) {
    case LayerKind::kFilesystem:
      return "filesystem";
    case LayerKind::kGuestDevice:
      return "guest-device";
    case LayerKind::kGuestDisk:
      return "guest-disk";
    case LayerKind::kBus:
      return "bus";
    case LayerKind::kDriver:
      return "driver";
    case LayerKind::kImage:
      return "image";
    case LayerKind::kStorage:
      return "storage";
  }
  return "unknown";
}

absl::string_view Name(LayerVerdict verdict) {
  switch (verdict) {
    case LayerVerdict::kOk:
      return "ok";
    case LayerVerdict::kPartly:
      return "partly";
    case LayerVerdict::kDrops:
      return "drops";
    case LayerVerdict::kUnknown:
      break;
  }
  return "unknown";
}

const Layer* DiscardChain::FirstCulprit() const {
  for (const LayerVerdict wanted : {LayerVerdict::kDrops, LayerVerdict::kPartly}) {
    for (const Layer& layer : layers) {
      if (layer.verdict == wanted) return &layer;
    }
  }
  return nullptr;
}

LayerVerdict DiscardChain::Verdict() const {
  if (const Layer* culprit = FirstCulprit()) return culprit->verdict;
  const bool known = std::all_of(layers.begin(), layers.end(), [](const Layer& layer) {
    return layer.verdict == LayerVerdict::kOk;
  });
  return known ? LayerVerdict::kOk : LayerVerdict::kUnknown;
}

std::optional<Blocker> BusBlocker(const xml::Domain& domain, const xml::Disk& disk) {
  switch (xml::DiscardPathOf(domain, disk)) {
    case xml::DiscardPath::kPasses:
      return std::nullopt;
    case xml::DiscardPath::kMachineTooOld:
      return Blocker{Reason::kMachineTooOld, Printable(domain.machine)};
    case xml::DiscardPath::kBusDrops:
      return Blocker{Reason::kBusDropsDiscard, Printable(disk.bus)};
    case xml::DiscardPath::kUnknown:
      break;
  }
  return Blocker{Reason::kMachineUnknown, Printable(domain.machine)};
}

std::optional<Blocker> DriverBlocker(const xml::Disk& disk) {
  if (disk.discard == "unmap") return std::nullopt;
  return Blocker{Reason::kDiscardIgnored,
                 disk.discard.empty() ? "discard is not set" : Printable(disk.discard)};
}

std::optional<Blocker> ImageBlocker(const DiskFacts& disk) {
  const xml::ImageSource& source = disk.xml.source;
  if (source.path.empty()) return Blocker{Reason::kNoMedium, ""};
  if (source.type == "block") return Blocker{Reason::kBlockDevice, Printable(source.path)};
  if (absl::IsNotFound(disk.image_error))
    return Blocker{Reason::kImageMissing, Printable(source.path)};
  const std::string error = Printable(disk.image_error.message());
  if (source.type != "file") {  // and libvirt may say nothing while the domain is off
    return Blocker{Reason::kNoLocalImage,
                   absl::StrCat(Printable(source.type), error.empty() ? "" : ": ", error)};
  }
  if (!disk.image_error.ok()) return Blocker{Reason::kImageUnreadable, error};
  if (!disk.chain.empty() && disk.chain.front().external_data && !disk.chain.front().data)
    return Blocker{Reason::kImageUnreadable, "its data file"};
  return std::nullopt;
}

namespace {

void SayHowDisksWereFound(const ChainFacts& facts, std::vector<Layer>& layers) {
  for (Layer& layer : layers) {
    if (layer.kind != LayerKind::kGuestDisk) continue;
    for (const GuestFilesystem& filesystem : facts.guest->filesystems) {
      const auto device = std::find_if(
          filesystem.devices.begin(), filesystem.devices.end(),
          [&](const GuestDevice& one) { return one.is_disk && one.name == layer.name; });
      if (device == filesystem.devices.end()) continue;
      if (!HasAddressOfADisk(facts.live, *device))
        absl::StrAppend(&layer.detail, ", found by its serial number and a part of its address");
      break;
    }
  }
}

}  // namespace

DiscardChain JudgeDiscardChain(const ChainFacts& facts, const DiskFacts& disk,
                               const ImageStorage& storage) {
  DiscardChain chain;
  chain.target = disk.xml.target;
  if (IsOther(disk.xml)) {
    Layer layer;
    layer.kind = LayerKind::kBus;
    layer.name = Printable(disk.xml.device);
    layer.verdict = LayerVerdict::kDrops;
    layer.reasons.push_back({Reason::kNotADisk, Printable(disk.xml.device)});
    chain.layers.push_back(std::move(layer));
    return chain;
  }
  std::vector<Layer> definition = DefinitionLayers(facts, disk.xml);
  if (facts.guest) {
    // The guest's kernel repeats what machine type and bus decided.
    const Layer& bus = definition.front();
    const auto host_reason =
        bus.reasons.empty() ? std::nullopt : std::optional<Blocker>(bus.reasons.front());
    chain.layers = GuestLayers(*facts.guest, facts.guest_to_target, disk.xml.target, host_reason);
    SayHowDisksWereFound(facts, chain.layers);
  } else {
    Layer layer;
    layer.name = "-";
    layer.detail = "the guest is not known";
    layer.reasons = facts.guest_unknown;
    chain.layers.push_back(std::move(layer));
  }
  if (disk.xml.read_only) {
    Layer& driver = definition.back();
    driver.verdict = LayerVerdict::kDrops;
    driver.reasons.insert(driver.reasons.begin(), {Reason::kReadOnly, "the disk is <readonly/>"});
  }
  std::move(definition.begin(), definition.end(), std::back_inserter(chain.layers));
  const uint64_t guest_unit =
      facts.guest ? DiscardUnitOf(facts.guest_to_target, *facts.guest, disk.xml.target) : 0;
  chain.layers.push_back(ImageLayer(disk, guest_unit));
  chain.layers.push_back(StorageLayer(disk, storage, guest_unit));
  return chain;
}

}  // namespace virt_reclaim
