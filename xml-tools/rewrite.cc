#include "xml-tools/rewrite.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/escape.h"
#include "base/status.h"
#include "xml-tools/bus_change.h"
#include "xml-tools/channel.h"
#include "xml-tools/domain_reader.h"
#include "xml-tools/edit.h"
#include "xml-tools/judge.h"
#include "xml-tools/machine_choice.h"
#include "xml-tools/machine_types.h"
#include "xml-tools/targets.h"

namespace virt_reclaim::xml {
namespace {

std::string DetectZeroesValue(DetectZeroesPolicy policy) {
  switch (policy) {
    case DetectZeroesPolicy::kKeep:
      break;
    case DetectZeroesPolicy::kOff:
      return "off";
    case DetectZeroesPolicy::kOn:
      return "on";
    case DetectZeroesPolicy::kUnmap:
      return "unmap";
  }
  return "";
}

// Decides, for a whole domain, which edits are made. Lives for one call.
class Planner {
 public:
  // `may_move`: whether disks may change their bus.
  Planner(const Document& document, const RewriteOptions& options, bool may_move)
      : document_(document),
        options_(options),
        may_move_(may_move),
        original_(ReadDomain(document)),
        domain_(original_),
        nodes_(DiskNodes(document)),
        bus_(document, original_, nodes_) {}

  absl::Status Plan();

  bool ChangesFirstDisk() const { return bus_.ChangesFirstDisk(); }
  const std::vector<Edit>& edits() const { return edits_; }
  Rewritten TakeResult() { return std::move(result_); }

 private:
  absl::Status CheckDomain() const;
  absl::Status CheckTargets() const;
  bool IsSelected(const Disk& disk) const;
  absl::Status PlanDisk(size_t disk, const QemuConflicts& conflicts);
  bool WantsDiscard(const Disk& disk) const;
  std::optional<Refusal> ChangeBus(size_t disk, bool& moved);
  void PlanDriver(size_t disk);
  absl::Status PlanMachine();
  absl::Status SetMachine(const std::string& machine, std::string reason);

  const Document& document_;
  const RewriteOptions& options_;
  const bool may_move_;
  const Domain original_;
  Domain domain_;  // with the machine type it gets
  const std::vector<NodeId> nodes_;
  BusMover bus_;
  std::vector<std::string> need_machine_;  // targets of the disks that need a newer machine type
  std::vector<Edit> edits_;
  Rewritten result_;
};

absl::Status Planner::CheckDomain() const {
  if (domain_.type == "kvm" || domain_.type == "qemu") return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("domain '", Printable(domain_.name),
                                                    "' is of type '", Printable(domain_.type),
                                                    "', only 'kvm' and 'qemu' are edited"));
}

absl::Status Planner::CheckTargets() const {
  for (const std::string& target : options_.targets) {
    const auto is_it = [&](const Disk& disk) { return disk.target == target; };
    if (std::none_of(domain_.disks.begin(), domain_.disks.end(), is_it)) {
      return absl::NotFoundError(absl::StrCat("domain '", Printable(domain_.name),
                                              "' has no disk '", Printable(target), "'"));
    }
  }
  return absl::OkStatus();
}

bool Planner::IsSelected(const Disk& disk) const {
  const auto has = [&](const std::vector<std::string>& targets) {
    return std::find(targets.begin(), targets.end(), disk.target) != targets.end();
  };
  return (options_.targets.empty() || has(options_.targets)) && !has(options_.excluded);
}

absl::Status Planner::Plan() {
  VR_RETURN_IF_ERROR(CheckDomain());
  VR_RETURN_IF_ERROR(CheckTargets());
  const QemuConflicts conflicts = FindQemuConflicts(document_, domain_);
  if (!conflicts.of_domain.empty()) {
    result_.refusals.push_back(
        {"", "qemu-commandline-conflict",
         absl::StrCat("the domain hands QEMU '", Printable(conflicts.of_domain, 200),
                      "', which may contradict the edit")});
    return absl::OkStatus();
  }
  MachineChoice choice = ChooseMachine(original_.machine, options_);
  if (choice.refusal) result_.refusals.push_back(*std::move(choice.refusal));
  domain_.machine = choice.name;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (IsSelected(original_.disks[i])) VR_RETURN_IF_ERROR(PlanDisk(i, conflicts));
  }
  bus_.Finish();
  edits_.insert(edits_.end(), bus_.edits.begin(), bus_.edits.end());
  result_.changes.insert(result_.changes.end(), bus_.changes.begin(), bus_.changes.end());
  result_.warnings.insert(result_.warnings.end(), bus_.warnings.begin(), bus_.warnings.end());
  if (choice.name != original_.machine) {
    VR_RETURN_IF_ERROR(SetMachine(choice.name, std::move(choice.reason)));
  } else if (!need_machine_.empty()) {
    VR_RETURN_IF_ERROR(PlanMachine());
  }
  if (options_.channel == ChannelPolicy::kAdd) PlanChannel(document_, original_, edits_, result_);
  return absl::OkStatus();
}

// Whether discards of the disk are to reach the image in the end.
bool Planner::WantsDiscard(const Disk& disk) const {
  return options_.discard == DiscardPolicy::kUnmap ||
         (options_.discard == DiscardPolicy::kKeep && disk.discard == "unmap");
}

absl::Status Planner::PlanDisk(size_t i, const QemuConflicts& conflicts) {
  const NodeId node = nodes_[i];
  const Disk& disk = original_.disks[i];
  std::optional<Refusal> refusal = RefusalOfKind(document_, node, disk, conflicts);
  bool moved = false;
  if (!refusal) refusal = ChangeBus(i, moved);
  if (refusal) {
    result_.refusals.push_back(*std::move(refusal));
    return absl::OkStatus();
  }
  for (const absl::string_view once : {"driver", "target"}) {
    if (document_.Children(node, once).size() > 1) {
      return absl::UnimplementedError(absl::StrCat("disk '", Printable(disk.target),
                                                   "' has more than one <", once, "> element"));
    }
  }
  if (!moved && WantsDiscard(disk) && DiscardPathOf(domain_, disk) == DiscardPath::kMachineTooOld)
    need_machine_.push_back(disk.target);
  PlanDriver(i);
  return absl::OkStatus();
}

// Moves the disk when the policy says so. A refusal: the disk stays as it is altogether.
std::optional<Refusal> Planner::ChangeBus(size_t i, bool& moved) {
  const Disk& disk = original_.disks[i];
  const std::string bus = BusOf(disk);
  std::optional<Refusal> path;
  if (WantsDiscard(disk)) path = RefusalOfPath(domain_, disk, options_);
  const bool wanted = options_.bus == BusPolicy::kVirtioScsi
                          ? bus != "scsi"
                          : options_.bus == BusPolicy::kAuto && path && bus == "virtio";
  if (!wanted) return path;
  std::optional<Refusal> refusal = bus_.RefusalOf(i);
  if (!refusal && !may_move_) {
    refusal = Refusal{disk.target, "boot-disk-would-change",
                      "libvirt would then take another disk for the first one, and the guest may "
                      "boot from the first; a <boot order> for each disk helps"};
  }
  if (!refusal) {
    bus_.Move(i);
    moved = true;
    return std::nullopt;
  }
  if (path) return refusal;
  // It passes discards where it is.
  result_.refusals.push_back(*std::move(refusal));
  return std::nullopt;
}

void Planner::PlanDriver(size_t i) {
  const Disk& disk = original_.disks[i];
  std::vector<std::pair<std::string, std::string>> attributes;
  if (options_.discard == DiscardPolicy::kUnmap && disk.discard != "unmap") {
    attributes.emplace_back("discard", "unmap");
    std::string reason = "discards of the guest then free space in the image";
    if (disk.detect_zeroes == "unmap") {
      reason += "; detect_zeroes='unmap' becomes active with it: written zeroes are discarded too";
    }
    result_.changes.push_back({disk.target, "discard", disk.discard, "unmap", std::move(reason)});
    for (Refusal& warning : WarningsOf(document_, nodes_[i], domain_, disk))
      result_.warnings.push_back(std::move(warning));
  } else if (options_.discard == DiscardPolicy::kIgnore && disk.discard == "unmap") {
    attributes.emplace_back("discard", "ignore");
    result_.changes.push_back({disk.target, "discard", "unmap", "ignore", "asked for"});
  }
  // Absent means off.
  const std::string zeroes = DetectZeroesValue(options_.detect_zeroes);
  if (!zeroes.empty() && (disk.detect_zeroes.empty() ? "off" : disk.detect_zeroes) != zeroes) {
    attributes.emplace_back("detect_zeroes", zeroes);
    result_.changes.push_back({disk.target, "detect_zeroes", disk.detect_zeroes, zeroes,
                               zeroes == "unmap" && !WantsDiscard(disk)
                                   ? "acts as 'on' until discard is 'unmap'"
                                   : "asked for"});
  }
  if (attributes.empty()) return;
  const NodeId driver = document_.Child(nodes_[i], "driver");
  if (driver == kNoNode) {
    attributes.insert(attributes.begin(), {"name", "qemu"});
    edits_.push_back(InsertFirst{nodes_[i], "driver", std::move(attributes)});
    return;
  }
  for (auto& [name, value] : attributes)
    edits_.push_back(SetAttribute{driver, std::move(name), std::move(value)});
}

absl::Status Planner::PlanMachine() {
  const MachineType now = ParseMachineType(original_.machine);
  return SetMachine(
      *RaisedForVirtioBlk(now, options_.known_machines),
      absl::StrCat(now.kind == MachineKind::kVersioned
                       ? "virtio-blk passes discards from version 4.0 on"
                       : "the first of its family with which virtio-blk passes discards",
                   "; needed by '", absl::StrJoin(need_machine_, "', '"), "'"));
}

absl::Status Planner::SetMachine(const std::string& machine, std::string reason) {
  const std::vector<NodeId> os = document_.Children(document_.root(), "os");
  if (os.size() != 1 || document_.Children(os[0], "type").size() != 1) {
    return absl::UnimplementedError(absl::StrCat("domain '", Printable(original_.name),
                                                 "' has more than one <os> or <type> element"));
  }
  edits_.push_back(SetAttribute{OsTypeNode(document_), "machine", machine});
  result_.changes.push_back({"", "machine", original_.machine, machine, std::move(reason)});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Rewritten> Rewrite(absl::string_view text, const RewriteOptions& options) {
  VR_ASSIGN_OR_RETURN(const Document document, ParseDocument(text));
  VR_RETURN_IF_ERROR(CheckIsDomain(document));
  std::optional<Planner> planner;
  planner.emplace(document, options, true);
  VR_RETURN_IF_ERROR(planner->Plan());
  if (planner->ChangesFirstDisk()) {
    planner.emplace(document, options, false);
    VR_RETURN_IF_ERROR(planner->Plan());
  }
  VR_ASSIGN_OR_RETURN(std::string edited, ApplyEdits(document, planner->edits()));
  Rewritten result = planner->TakeResult();
  result.text = std::move(edited);
  return result;
}

}  // namespace virt_reclaim::xml
