#include "host/commands/migrate_images.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/commands/collect.h"
#include "host/model/guest_disks.h"
#include "host/model/image_judge.h"

namespace virt_reclaim {
namespace {

// Empty: it is neither a file nor a block device of this machine.
std::optional<PlannedImage> PlannedImageOf(const Services& services, const DiskFacts& disk) {
  PlannedImage image;
  image.target = disk.xml.target;
  if (!disk.chain.empty()) {
    const ImageFile& top = disk.chain.front();
    image.path = top.path;
    image.device = top.device;
    image.inode = top.inode;
    return image;
  }
  const ImageStorage storage = StorageOf(services, disk);
  if (storage.devices.empty()) return std::nullopt;
  const HostDevice& device = storage.devices.front();
  if (device.number == 0 || !device.size) return std::nullopt;
  image.path = disk.xml.source.path;
  image.number = device.number;
  image.size = *device.size;
  return image;
}

bool SaysLargeClusters(const ImageJudgement& judgement) {
  return std::any_of(judgement.risks.begin(), judgement.risks.end(),
                     [](const Blocker& risk) { return risk.reason == Reason::kLargeClusters; });
}

// The smallest pieces that the running guest discards, as long as its disks stay what they are.
// Asked once for a domain, and only when it matters.
class GuestUnits {
 public:
  GuestUnits(const Services& services, const MigrateAction& action, const std::stop_token& stop)
      : services_(services), action_(action), stop_(stop) {}

  // In bytes; 0: not known.
  uint64_t Of(const xml::Disk& saved) {
    if (!asked_) Ask();
    asked_ = true;
    const bool moves =
        std::any_of(action_.changes.begin(), action_.changes.end(), [&](const xml::Change& change) {
          return change.what == "bus" && change.target == saved.target;
        });
    const bool same =
        std::any_of(live_.disks.begin(), live_.disks.end(), [&](const xml::Disk& disk) {
          return disk.target == saved.target && disk.bus == saved.bus &&
                 disk.source.path == saved.source.path;
        });
    return same && !moves ? DiscardUnitOf(matches_, guest_, saved.target) : 0;
  }

 private:
  void Ask() {
    if (action_.domain.state != DomainState::kRunning) return;
    const auto text = services_.hypervisor.DomainXml(action_.domain.uuid, Hypervisor::Xml::kLive);
    auto live = text.ok() ? xml::ParseDomain(*text) : text.status();
    if (!live.ok()) return;
    live_ = *std::move(live);
    const AgentAccess access = OpenAgent(services_, {action_.domain, live_, {}},
                                         DomainLock::Use::kLook, kPlanAgentTimeout, stop_);
    if (!access.session) return;
    auto filesystems = access.session->agent->ListFilesystems(kListingTimeout, stop_);
    if (!filesystems.ok()) return;
    guest_.filesystems = *std::move(filesystems);
    matches_ = MatchGuestDisks(live_, guest_);
  }

  const Services& services_;
  const MigrateAction& action_;
  const std::stop_token& stop_;
  bool asked_ = false;
  xml::Domain live_;
  GuestFacts guest_;
  std::map<std::string, std::string> matches_;  // guest disk -> target
};

}  // namespace

ImageStorage StoragesBelow::Of(const DiskFacts& disk) {
  // A file that cannot be examined may be a block device by another name.
  if (disk.chain.empty()) return StorageOf(services_, disk);
  ImageStorage storage;
  storage.punches = CanPunch(disk.chain.front());
  return storage;
}

std::optional<bool> StoragesBelow::CanPunch(const ImageFile& top) {
  const std::lock_guard lock(mutex_);
  const auto [entry, is_new] = known_.try_emplace(DataDevice(top));
  if (is_new) {
    if (const auto can = services_.images.CanPunch(DataPath(top)); can.ok()) entry->second = *can;
  }
  return entry->second;
}

bool TouchesDisk(const std::vector<xml::Change>& changes, const std::string& target) {
  return std::any_of(changes.begin(), changes.end(),
                     [&](const xml::Change& change) { return change.target == target; });
}

absl::StatusOr<JudgedImages> JudgeImages(const Services& services, const MigrateOptions& options,
                                         const MigrateAction& action, StoragesBelow& storages,
                                         const std::stop_token& stop) {
  JudgedImages judged;
  VR_ASSIGN_OR_RETURN(judged.facts,
                      CollectDomain(services, action.domain, Hypervisor::Xml::kInactive));
  GuestUnits units(services, action, stop);
  for (const DiskFacts& disk : judged.facts.disks) {
    if (!TouchesDisk(action.changes, disk.xml.target)) continue;
    const ImageStorage storage = storages.Of(disk);
    ImageJudgement judgement = JudgeImage(disk, storage, options.allow_thick);
    if (SaysLargeClusters(judgement))
      judgement = JudgeImage(disk, storage, options.allow_thick, units.Of(disk.xml));
    judged.risks.insert(judged.risks.end(), judgement.risks.begin(), judgement.risks.end());
    if (!judgement.refusal) continue;
    judged.refusals.push_back(
        {disk.xml.target, std::string(Code(judgement.refusal->reason)),
         absl::StrCat(Sentence(judgement.refusal->reason), " (", judgement.refusal->detail, ")")});
  }
  return judged;
}

std::vector<PlannedImage> IdentitiesOf(const Services& services, const DomainFacts& facts,
                                       const std::vector<xml::Change>& changes) {
  std::vector<PlannedImage> images;
  for (const DiskFacts& disk : facts.disks) {
    if (!TouchesDisk(changes, disk.xml.target)) continue;
    if (auto image = PlannedImageOf(services, disk)) images.push_back(*std::move(image));
  }
  return images;
}

}  // namespace virt_reclaim
