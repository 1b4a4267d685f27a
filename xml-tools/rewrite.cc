#include "xml-tools/rewrite.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/escape.h"
#include "base/status.h"
#include "xml-tools/domain_reader.h"
#include "xml-tools/edit.h"
#include "xml-tools/judge.h"
#include "xml-tools/machine_types.h"

namespace virt_reclaim::xml {
namespace {

// Decides, for a whole domain, which edits are made. Lives for one call.
class Planner {
 public:
  Planner(const Document& document, const RewriteOptions& options)
      : document_(document),
        options_(options),
        domain_(ReadDomain(document)),
        nodes_(DiskNodes(document)) {}

  absl::Status Plan();

  const std::vector<Edit>& edits() const { return edits_; }
  Rewritten TakeResult() { return std::move(result_); }

 private:
  absl::Status CheckDomain() const;
  absl::Status CheckTargets() const;
  bool IsSelected(const Disk& disk) const;
  absl::Status PlanDisk(NodeId node, const Disk& disk, const QemuConflicts& conflicts);
  void PlanDiscard(NodeId node, const Disk& disk);
  absl::Status PlanMachine();

  const Document& document_;
  const RewriteOptions& options_;
  const Domain domain_;
  const std::vector<NodeId> nodes_;
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
  return options_.targets.empty() || std::find(options_.targets.begin(), options_.targets.end(),
                                               disk.target) != options_.targets.end();
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
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (IsSelected(domain_.disks[i]))
      VR_RETURN_IF_ERROR(PlanDisk(nodes_[i], domain_.disks[i], conflicts));
  }
  return need_machine_.empty() ? absl::OkStatus() : PlanMachine();
}

absl::Status Planner::PlanDisk(NodeId node, const Disk& disk, const QemuConflicts& conflicts) {
  std::optional<Refusal> refusal = RefusalOfKind(document_, node, disk, conflicts);
  if (!refusal) refusal = RefusalOfPath(domain_, disk, options_.machine);
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
  if (DiscardPathOf(domain_, disk) == DiscardPath::kMachineTooOld)
    need_machine_.push_back(disk.target);
  if (disk.discard != "unmap") PlanDiscard(node, disk);
  return absl::OkStatus();
}

void Planner::PlanDiscard(NodeId node, const Disk& disk) {
  const NodeId driver = document_.Child(node, "driver");
  if (driver == kNoNode) {
    edits_.push_back(InsertFirst{node, "driver", {{"name", "qemu"}, {"discard", "unmap"}}});
  } else {
    edits_.push_back(SetAttribute{driver, "discard", "unmap"});
  }
  std::string reason = "discards of the guest then free space in the image";
  if (disk.detect_zeroes == "unmap") {
    reason += "; detect_zeroes='unmap' becomes active with it: written zeroes are discarded too";
  }
  result_.changes.push_back({disk.target, "discard", disk.discard, "unmap", std::move(reason)});
  for (Refusal& warning : WarningsOf(document_, node, domain_, disk))
    result_.warnings.push_back(std::move(warning));
}

absl::Status Planner::PlanMachine() {
  const std::vector<NodeId> os = document_.Children(document_.root(), "os");
  if (os.size() != 1 || document_.Children(os[0], "type").size() != 1) {
    return absl::UnimplementedError(absl::StrCat("domain '", Printable(domain_.name),
                                                 "' has more than one <os> or <type> element"));
  }
  const std::string machine = *RaisedForVirtioBlk(ParseMachineType(domain_.machine));
  edits_.push_back(SetAttribute{OsTypeNode(document_), "machine", machine});
  result_.changes.push_back(
      {"", "machine", domain_.machine, machine,
       absl::StrCat("virtio-blk passes discards from version 4.0 on; needed by '",
                    absl::StrJoin(need_machine_, "', '"), "'")});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Rewritten> Rewrite(absl::string_view text, const RewriteOptions& options) {
  VR_ASSIGN_OR_RETURN(const Document document, ParseDocument(text));
  VR_RETURN_IF_ERROR(CheckIsDomain(document));
  Planner planner(document, options);
  VR_RETURN_IF_ERROR(planner.Plan());
  VR_ASSIGN_OR_RETURN(std::string edited, ApplyEdits(document, planner.edits()));
  Rewritten result = planner.TakeResult();
  result.text = std::move(edited);
  return result;
}

}  // namespace virt_reclaim::xml
