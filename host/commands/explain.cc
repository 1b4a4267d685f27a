#include "host/commands/explain.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/suggest.h"
#include "host/commands/storage_turn.h"
#include "host/model/assessment.h"
#include "host/model/guest_disks.h"

namespace virt_reclaim {
namespace {

struct Selected {
  DomainSummary summary;
  std::vector<std::string> targets;  // empty: all disks
};

// "web:vda" is a disk of 'web', unless a domain has that very name.
absl::StatusOr<std::vector<Selected>> Select(Hypervisor& hypervisor,
                                             const std::vector<std::string>& words) {
  VR_ASSIGN_OR_RETURN(const std::vector<DomainSummary> all, hypervisor.ListDomains());
  std::vector<Selected> selected;
  for (const std::string& word : words) {
    const bool whole = std::any_of(all.begin(), all.end(), [&](const DomainSummary& domain) {
      return domain.name == word || domain.uuid == word;
    });
    const size_t colon = whole ? std::string::npos : word.rfind(':');
    VR_ASSIGN_OR_RETURN(const std::vector<DomainSummary> found,
                        SelectDomains(hypervisor, {word.substr(0, colon)}));
    const DomainSummary& domain = found.front();
    auto entry = std::find_if(selected.begin(), selected.end(), [&](const Selected& other) {
      return other.summary.uuid == domain.uuid;
    });
    const bool is_new = entry == selected.end();
    if (is_new) entry = selected.insert(entry, {domain, {}});
    if (colon == std::string::npos) {
      entry->targets.clear();
    } else if (is_new || !entry->targets.empty()) {
      entry->targets.push_back(word.substr(colon + 1));
    }
  }
  return selected;
}

absl::Status CheckTargets(const Selected& selected, const xml::Domain& domain) {
  std::vector<std::string> known;
  for (const xml::Disk& disk : domain.disks) known.push_back(disk.target);
  for (const std::string& target : selected.targets) {
    if (std::find(known.begin(), known.end(), target) != known.end()) continue;
    const auto nearest = NearestWord(target, known);
    return absl::NotFoundError(
        absl::StrCat("it has no disk '", Printable(target), "'",
                     nearest ? absl::StrCat(": did you mean '", Printable(*nearest), "'?") : ""));
  }
  return absl::OkStatus();
}

std::optional<Culprit> CulpritOf(const ExplainedDisk& disk) {
  const Layer* layer = disk.chain.FirstCulprit();
  const bool disproved = disk.probe && disk.probe->reaches == false;
  if (disproved && (layer == nullptr || layer->verdict != LayerVerdict::kDrops))
    return Culprit{
        std::nullopt, LayerVerdict::kDrops, {Reason::kDiscardNotProved, disk.probe->detail}};
  if (layer == nullptr) return std::nullopt;
  return Culprit{layer->kind, layer->verdict, layer->reasons.front()};
}

// One domain, step by step.
class DomainExplainer {
 public:
  DomainExplainer(const Services& services, const ExplainOptions& options, const Selected& selected,
                  const std::stop_token& stop)
      : services_(services), options_(options), selected_(selected), stop_(stop) {
    result_.summary = selected.summary;
    result_.outcome.asked_for = true;
  }

  ExplainedDomain Run() {
    auto collected = CollectDomain(services_, result_.summary);
    if (!collected.ok()) return Fail(collected.status());
    domain_ = *std::move(collected);
    if (const absl::Status status = CheckTargets(selected_, domain_.live); !status.ok())
      return Fail(status);
    if (domain_.disks.empty()) result_.outcome.reasons.push_back({Reason::kNoDisks, ""});
    CollectDefinitions();
    if (options_.ask_qemu) AskQemu();
    AskGuest();
    for (const DiskFacts& disk : domain_.disks) {
      if (!IsWanted(disk.xml)) continue;
      ExplainedDisk explained;
      explained.image = disk.xml.source.path;
      explained.chain = JudgeDiscardChain(facts_, disk, StorageOf(services_, disk));
      result_.disks.push_back(std::move(explained));
    }
    if (options_.probe) Probe();
    for (ExplainedDisk& disk : result_.disks) {
      disk.culprit = CulpritOf(disk);
      result_.outcome.nothing_freed |=
          disk.culprit && disk.culprit->verdict == LayerVerdict::kDrops;
    }
    return std::move(result_);
  }

 private:
  ExplainedDomain Fail(const absl::Status& status) {
    SetFailed(status);
    return std::move(result_);
  }

  void SetFailed(const absl::Status& status) {
    result_.outcome.kind = OutcomeKind::kFailed;
    result_.outcome.error = status;
  }

  bool IsWanted(const xml::Disk& disk) const {
    const auto& targets = selected_.targets;
    if (targets.empty()) return !IsOther(disk);
    return std::find(targets.begin(), targets.end(), disk.target) != targets.end();
  }

  void CollectDefinitions() {
    facts_.live = domain_.live;
    const std::string& uuid = result_.summary.uuid;
    if (result_.summary.persistent) {
      const auto text = services_.hypervisor.DomainXml(uuid, Hypervisor::Xml::kInactive);
      auto saved = text.ok() ? xml::ParseDomain(*text) : text.status();
      if (saved.ok()) facts_.saved = *std::move(saved);
    }
    const auto snapshots = services_.hypervisor.Snapshots(uuid);
    if (snapshots.ok() && snapshots->checkpoints > 0)
      result_.remarks.push_back({Reason::kCheckpoints, absl::StrCat(snapshots->checkpoints)});
  }

  void AskQemu() {
    for (const DiskFacts& disk : domain_.disks) {
      if (IsWanted(disk.xml)) facts_.qemu[disk.xml.target] = AskQemu(disk.xml);
    }
  }

  // What decides whether the device tells its guest that it takes discards (hw/block/virtio-blk.c,
  // hw/scsi/scsi-disk.c, hw/ide/core.c of QEMU).
  QemuDevice AskQemu(const xml::Disk& disk) const {
    const DomainState state = result_.summary.state;
    const bool has_qemu = state == DomainState::kRunning || state == DomainState::kPaused;
    if (!has_qemu) return {std::nullopt, "the domain is off"};
    if (disk.alias.empty()) return {std::nullopt, "the disk has no alias"};
    const bool by_flag = disk.bus == "virtio";
    if (!by_flag && disk.bus != "scsi" && disk.bus != "ide" && disk.bus != "sata")
      return {std::nullopt, "devices on this bus have no such property"};
    const auto value = services_.hypervisor.DeviceProperty(
        result_.summary.uuid, disk.alias, by_flag ? "discard" : "discard_granularity");
    if (!value.ok()) return {std::nullopt, Printable(value.status().message())};
    return {*value != 0, ""};
  }

  void AskGuest() {
    const AgentAccess access =
        OpenAgent(services_, domain_, DomainLock::Use::kLook, options_.agent_timeout, stop_);
    if (!access.session) {
      result_.agent = access.blocker;
    } else {
      auto filesystems = access.session->agent->ListFilesystems(kListingTimeout, stop_);
      if (filesystems.ok()) {
        facts_.guest.emplace();
        facts_.guest->filesystems = *std::move(filesystems);
        facts_.guest_to_target = MatchGuestDisks(domain_.live, *facts_.guest);
      } else {
        result_.agent = AgentBlocker(filesystems.status());
      }
    }
    if (result_.agent) facts_.guest_unknown = {*result_.agent};
  }

  void Probe() {
    if (!facts_.guest) return CannotProbe({*result_.agent});
    if (!MayProbe()) return;
    std::vector<std::string> targets;
    for (const ExplainedDisk& disk : result_.disks) targets.push_back(disk.chain.target);
    if (targets.empty()) return;
    StorageLock places = PlacesOn(services_, StoragesOf(domain_), kProbesPerStorage);
    bool waited = false;
    const auto waits = [&] {
      waited = true;
      if (options_.waits) options_.waits(result_.summary);
    };
    const auto obstacle =
        TakeTurn(services_, places, {.patience = options_.turn_timeout, .waits = waits}, stop_);
    if (!obstacle.ok()) return SetFailed(obstacle.status());
    if (*obstacle) return CannotProbe({**obstacle});
    // A backup may have begun meanwhile.
    if (waited && !MayProbe()) return;
    // It is there, and has told its filesystems before.
    const AgentAccess access =
        OpenAgent(services_, domain_, DomainLock::Use::kWork, kListingTimeout, stop_);
    if (!access.session) return CannotProbe({*access.blocker});
    const std::vector<ProbedDisk> probed = ProbeDiscards(
        services_, domain_, *access.session->agent,
        {.hopeless = true, .spare_thick = true, .files = true, .targets = targets}, stop_);
    for (ExplainedDisk& disk : result_.disks) {
      const auto found = std::find_if(probed.begin(), probed.end(), [&](const ProbedDisk& p) {
        return p.target == disk.chain.target;
      });
      if (found != probed.end()) disk.probe = *found;
    }
  }

  // False: libvirt works on the domain. It is the outcome then.
  bool MayProbe() {
    const auto activity = services_.hypervisor.Activity(result_.summary.uuid, domain_.live);
    if (!activity.ok()) {
      SetFailed(activity.status());
    } else if (!activity->empty()) {
      CannotProbe(*activity);
    }
    return activity.ok() && activity->empty();
  }

  // An agent that should answer and does not is a failure; what is not ready for it is refused.
  void CannotProbe(const std::vector<Blocker>& reasons) {
    const Reason first = reasons.front().reason;
    result_.outcome.reasons.insert(result_.outcome.reasons.end(), reasons.begin(), reasons.end());
    if (first == Reason::kAgentSilent || first == Reason::kAgentFailed) {
      return SetFailed(
          absl::UnavailableError(absl::StrCat(Sentence(first), ": ", reasons.front().detail)));
    }
    result_.outcome.kind = OutcomeKind::kSkipped;
  }

  const Services& services_;
  const ExplainOptions& options_;
  const Selected& selected_;
  const std::stop_token& stop_;
  DomainFacts domain_;
  ChainFacts facts_;
  ExplainedDomain result_;
};

}  // namespace

absl::StatusOr<std::vector<ExplainedDomain>> Explain(const Services& services,
                                                     const ExplainOptions& options,
                                                     const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::vector<Selected> selected,
                      Select(services.hypervisor, options.domains));
  std::vector<ExplainedDomain> domains;
  for (const Selected& domain : selected) {
    domains.push_back(DomainExplainer(services, options, domain, stop).Run());
    if (stop.stop_requested()) return absl::CancelledError("interrupted");
  }
  return domains;
}

}  // namespace virt_reclaim
