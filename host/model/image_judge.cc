#include "host/model/image_judge.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "host/model/device_discards.h"

namespace virt_reclaim {
namespace {

// A worn image comes near its capacity, but a filesystem always leaves something it has never
// written.
bool IsThick(const DiskFacts& disk) {
  const auto& capacity = disk.usage.capacity;  // libvirt's word, where we do not read the format
  const auto& allocation = disk.chain.front().usage.allocation;
  return capacity && allocation && *capacity > 0 && *allocation >= *capacity;
}

std::string PartOf(uint64_t allocation, uint64_t capacity) {
  return absl::StrCat(FormatByteSize(allocation), " of ", FormatByteSize(capacity));
}

// An image that is a block device: what it and the devices below it take of discards.
void JudgeDevicesBelow(const ImageStorage& storage, uint64_t guest_unit,
                       ImageJudgement& judgement) {
  const DeviceDiscards judged = JudgeDevices(storage.devices);
  if (!judged.dropper.empty()) judgement.refusal = {Reason::kStorageCannotPunch, judged.dropper};
  if (!judged.lost_legs.empty()) {
    judgement.risks.push_back({Reason::kStorageCannotPunch, absl::StrJoin(judged.lost_legs, ", ")});
  }
  if (auto large = LargeChunks(storage.devices, guest_unit))
    judgement.risks.push_back(*std::move(large));
}

}  // namespace

std::optional<Blocker> LargeChunks(const std::vector<HostDevice>& devices, uint64_t guest_unit) {
  if (devices.empty() || JudgeDevices(devices).thin_pool == nullptr) return std::nullopt;
  const HostDevice& top = devices.front();
  if (!IsLargeUnit(top.discard_granularity, guest_unit)) return std::nullopt;
  return Blocker{
      Reason::kLargeClusters,
      absl::StrCat(NameOf(top), ": chunks of ", CompareUnits(top.discard_granularity, guest_unit))};
}

std::optional<Blocker> ThickBlocker(const DiskFacts& disk) {
  if (disk.chain.empty() || !IsThick(disk)) return std::nullopt;
  return Blocker{Reason::kThickImage,
                 PartOf(*disk.chain.front().usage.allocation, *disk.usage.capacity)};
}

ImageJudgement JudgeImage(const DiskFacts& disk, const ImageStorage& storage, bool allow_thick,
                          uint64_t guest_unit) {
  ImageJudgement judgement;
  const std::string target = Printable(disk.xml.target);
  // With discard_no_unref freed clusters stay where they are, and the end of the image with them.
  if (disk.xml.source.type == "block" && disk.xml.source.format == "qcow2" &&
      disk.xml.discard_no_unref != "on")
    judgement.risks.push_back({Reason::kQcow2OnBlockDevice, target});
  JudgeDevicesBelow(storage, guest_unit, judgement);
  if (disk.chain.empty()) return judgement;
  const ImageFile& top = disk.chain.front();
  if (storage.punches && !*storage.punches) {
    judgement.refusal = {Reason::kStorageCannotPunch, Printable(top.path)};
  } else if (auto thick = ThickBlocker(disk); thick && !allow_thick) {
    judgement.refusal = std::move(thick);
  }
  if (top.internal_snapshots > 0) {
    judgement.risks.push_back(
        {Reason::kInternalSnapshots, absl::StrCat(target, ": ", top.internal_snapshots)});
  }
  if (disk.chain.size() > 1) {
    judgement.risks.push_back(
        {Reason::kOverlay, absl::StrCat(target, ": ", disk.chain.size() - 1, " below")});
  }
  if (IsLargeUnit(top.granularity, guest_unit)) {
    judgement.risks.push_back(
        {Reason::kLargeClusters,
         absl::StrCat(target, ": ", CompareUnits(top.granularity, guest_unit))});
  }
  return judgement;
}

bool IsLargeUnit(uint64_t unit, uint64_t guest_unit) {
  // A unit that is no multiple of ours does not fit, whatever its size.
  const bool fits = guest_unit > 0 && guest_unit % std::max<uint64_t>(unit, 1) == 0;
  return unit > kUsualCluster && !fits;
}

std::string CompareUnits(uint64_t unit, uint64_t guest_unit) {
  const std::string of_guest =
      guest_unit == 0
          ? ""
          : absl::StrCat(", and the guest discards in units of ", FormatByteSize(guest_unit));
  return absl::StrCat(FormatByteSize(unit), of_guest);
}

std::vector<Blocker> JudgeForSparsify(const ImageHeader& image, std::optional<uint64_t> allocation,
                                      bool allow_thick, bool with_bitmaps) {
  std::vector<Blocker> blockers;
  const auto add = [&](Reason reason, std::string detail) {
    blockers.push_back({reason, std::move(detail)});
  };
  if (image.format != "raw" && image.format != "qcow2") {
    add(Reason::kImageFormat, Printable(image.format));
    return blockers;
  }
  if (!allow_thick && allocation && image.capacity > 0 && *allocation >= image.capacity)
    add(Reason::kThickImage, PartOf(*allocation, image.capacity));
  if (image.format == "raw") return blockers;
  if (!allocation) add(Reason::kQcow2OnBlockDevice, "");
  if (image.internal_snapshots > 0)
    add(Reason::kInternalSnapshots, absl::StrCat(image.internal_snapshots));
  if (image.backing) add(Reason::kOverlay, "");
  if (image.external_data) add(Reason::kExternalDataFile, "");
  if (image.encrypted) add(Reason::kEncryptedImage, "");
  if (image.needs_check) add(Reason::kImageNeedsCheck, "");
  if (image.bitmaps && !with_bitmaps) add(Reason::kPersistentBitmaps, "");
  if (image.unknown_features) add(Reason::kUnknownFeatures, "");
  return blockers;
}

}  // namespace virt_reclaim
