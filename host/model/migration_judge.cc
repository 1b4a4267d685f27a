#include "host/model/migration_judge.h"

#include <algorithm>
#include <array>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "host/model/same_definition.h"

namespace virt_reclaim {
namespace {

// The first kernel whose virtio-blk driver knows discards.
constexpr GuestKernelVersion kVirtioBlkDiscard{5, 0};

// Managers that generate the XML at each start, so that an edit is lost or fought: prefix of their
// metadata's namespace, name, and where discards are switched on there. CloudStack writes no
// metadata, but says in <sysinfo> whose the machine is (LibvirtVMDef.java of its KVM plugin);
// either word can be configured.
struct Manager {
  absl::string_view namespace_prefix;
  absl::string_view name;
  absl::string_view its_switch;
};
constexpr std::array kManagers = std::to_array<Manager>({
    {"http://ovirt.org/vm/", "oVirt", "'Enable Discard' of the disk"},
    {"http://openstack.org/xmlns/libvirt/nova/", "OpenStack",
     "hw_disk_discard = unmap in nova.conf"},
    {"http://opennebula.org/xmlns/libvirt/", "OpenNebula", "DISCARD = \"unmap\" of the DISK"},
    {"http://kubevirt.io", "KubeVirt", "on by itself, unless the disk is preallocated"},
});
constexpr absl::string_view kNeverRolledBack =
    "no agent answers: after its power cycle it is neither looked at nor rolled back by itself";
constexpr absl::string_view kNotLookedAt =
    "it is off: its mount options and layers (dm-crypt, LVM, md) were not looked at";

constexpr absl::string_view kCloudStackManufacturer = "Apache Software Foundation";
constexpr absl::string_view kCloudStackProduct = "CloudStack ";
constexpr absl::string_view kCloudStackSwitch =
    "CloudStack: rootDiskController = scsi of the template";

void JudgeDomain(const MigrationFacts& facts, MigrationJudgement& judgement) {
  if (!facts.persistent) judgement.blockers.push_back({Reason::kTransient, ""});
  for (const std::string& uri : facts.saved.metadata_namespaces) {
    for (const Manager& manager : kManagers) {
      if (absl::StartsWith(uri, manager.namespace_prefix))
        judgement.blockers.push_back(
            {Reason::kManaged, absl::StrCat(manager.name, ": ", manager.its_switch)});
    }
  }
  if (absl::StartsWith(facts.saved.system_product, kCloudStackProduct) ||
      facts.saved.system_manufacturer == kCloudStackManufacturer)
    judgement.blockers.push_back({Reason::kManaged, std::string(kCloudStackSwitch)});
  if (facts.managed_save.value_or(false)) judgement.blockers.push_back({Reason::kManagedSave, ""});
  for (const Blocker& activity : facts.activity) judgement.blockers.push_back(activity);
  if (facts.memory_snapshots > 0) {
    judgement.risks.push_back({Reason::kMemorySnapshot, absl::StrCat(facts.memory_snapshots)});
  }
  if (facts.checkpoints > 0)
    judgement.risks.push_back({Reason::kCheckpoints, absl::StrCat(facts.checkpoints)});
}

// A power cycle would bring somebody else's change into force with ours, and a rollback could not
// bring back what ran before.
void JudgeLive(const MigrationFacts& facts, const MigrationChange& change,
               MigrationJudgement& judgement) {
  if (!facts.live || SameWhereItMatters(facts.saved, *facts.live) ||
      SameWhereItMatters(change.after, *facts.live)) {
    // Of the rest nobody can be sure what libvirt makes of it, so that it stops nothing.
    if (!facts.pending.empty())
      judgement.risks.push_back({Reason::kDefinitionPending, facts.pending});
    return;
  }
  (change.power_cycle ? judgement.blockers : judgement.risks)
      .push_back({Reason::kDefinitionPending, ""});
}

void JudgeMachine(const MigrationFacts& facts, const MigrationChange& change,
                  MigrationJudgement& judgement) {
  const auto is_among = [&](const std::vector<std::string>& names) {
    return std::find(names.begin(), names.end(), change.machine) != names.end();
  };
  if (change.machine.empty() || facts.machines.names.empty()) return;
  if (!is_among(facts.machines.names))
    judgement.blockers.push_back({Reason::kMachineNotOnHost, change.machine});
  if (is_among(facts.machines.deprecated))
    judgement.risks.push_back({Reason::kMachineDeprecated, change.machine});
}

// The boot loader's files are looked at themselves, and may say something else by now.
bool IsOfTheNextBoot(const GuestPreflight& guest, const GuestNamedDevice& name) {
  return name.source != GuestNameSource::kRunningCommandLine || guest.boot_configs.empty();
}

std::string ForKernel(absl::string_view driver, const GuestKernel& kernel) {
  return absl::StrCat(driver, " for kernel ", kernel.release);
}

std::string WhereNamed(const GuestNamedDevice& name) {
  return absl::StrCat(name.file, ":", name.line, ": ", name.name);
}

// What a guest must have to find its disks on another bus.
void JudgeBusChange(const GuestPreflight& guest, bool is_off, bool fix,
                    MigrationJudgement& judgement) {
  bool any = false;
  for (const GuestKernel& kernel : guest.kernels) {
    // Of a guest that is off, nobody knows which of them its boot loader takes.
    if (!is_off && !kernel.running && !kernel.newest) continue;
    any = true;
    for (const auto& [name, state] :
         {std::pair("virtio_scsi", kernel.virtio_scsi), std::pair("sd_mod", kernel.sd_mod)}) {
      if (state == GuestModuleState::kBuiltIn || state == GuestModuleState::kInInitramfs) continue;
      const bool unknown = state == GuestModuleState::kUnknown;
      const bool fixable = !unknown && state != GuestModuleState::kMissing &&
                           (guest.initramfs_tool == GuestInitramfsTool::kInitramfsTools ||
                            guest.initramfs_tool == GuestInitramfsTool::kDracut);
      (fix && fixable ? judgement.fixes : judgement.blockers)
          .push_back(
              {unknown ? Reason::kGuestUnknown : Reason::kInitramfsLacks, ForKernel(name, kernel)});
    }
  }
  if (!any) judgement.blockers.push_back({Reason::kGuestUnknown, "which kernel boots next"});
  for (const GuestNamedDevice& name : guest.names) {
    if (!IsOfTheNextBoot(guest, name)) continue;
    (fix && name.fixable ? judgement.fixes : judgement.blockers)
        .push_back({Reason::kGuestNamesDisk,
                    absl::StrCat(WhereNamed(name),
                                 !name.fixable ? ""
                                 : is_off      ? " (--fix-guest changes it while the guest runs)"
                                               : " (--fix-guest changes it)")});
  }
  for (const std::string& file : guest.unread_files)
    judgement.blockers.push_back({Reason::kGuestUnknown, file});
  if (guest.truncated)
    judgement.blockers.push_back({Reason::kGuestUnknown, "it has more than it could tell"});
}

// By default nothing is said of it in lvm.conf, and nothing is said here.
void JudgeLvm(const MigrationFacts& facts, MigrationJudgement& judgement) {
  if (!facts.guest_has_lvm) return;
  if (facts.guest->lvm_issue_discards == GuestSetting::kEnabled) {
    judgement.risks.push_back({Reason::kLvmIssueDiscards,
                               "on: what lvremove removes is then gone from the host at once"});
  } else if (facts.guest->lvm_issue_discards == GuestSetting::kDisabled) {
    judgement.risks.push_back(
        {Reason::kLvmIssueDiscards, "off: what a removed volume held stays on the host"});
  }
}

void JudgeGuest(const MigrationFacts& facts, const MigrationChange& change,
                MigrationJudgement& judgement) {
  const bool moves = !change.moved_disks.empty();
  const bool is_silent = !facts.agent_answers && facts.guest_unknown.reason != Reason::kBusy;
  if (facts.live && change.power_cycle && is_silent)
    judgement.risks.push_back({Reason::kNotVerified, std::string(kNeverRolledBack)});
  if (!facts.guest) {
    if (DependsOnGuest(change)) {
      judgement.blockers.push_back(facts.guest_unknown);
    } else if (facts.guest_is_off) {
      judgement.risks.push_back({Reason::kGuestUnknown, std::string(kNotLookedAt)});
    }
    return;
  }
  const GuestPreflight& guest = *facts.guest;
  // Only its agent can put something right in it.
  const bool fix = change.fix_guest && !facts.guest_is_off;
  if (moves) JudgeBusChange(guest, facts.guest_is_off, fix, judgement);
  if (change.uses_virtio_blk && guest.kernel && *guest.kernel < kVirtioBlkDiscard)
    judgement.blockers.push_back({Reason::kGuestTooOld, guest.kernel_release});
  for (const GuestCryptDevice& crypt : guest.crypt_devices) {
    // Of one that is not open, as in a guest that is off, crypttab says how it will be opened.
    const GuestSetting passes = crypt.passes_discards == GuestSetting::kUnknown
                                    ? crypt.crypttab_discard
                                    : crypt.passes_discards;
    if (passes == GuestSetting::kDisabled)
      judgement.risks.push_back(
          {Reason::kDmCrypt, crypt.dm_name.empty() ? crypt.name : crypt.dm_name});
  }
  for (const GuestRaidArray& raid : guest.raid_arrays) {
    if (raid.passes_discards == GuestSetting::kDisabled)
      judgement.risks.push_back({Reason::kGuestLayer, raid.name});
  }
  for (const GuestMount& mount : guest.mounts) {
    if (mount.discard_option == GuestSetting::kDisabled && !mount.mount_points.empty())
      judgement.risks.push_back({Reason::kMountedNodiscard, mount.mount_points.front()});
  }
  JudgeLvm(facts, judgement);
  if (guest.fstrim_timer == GuestSetting::kEnabled)
    judgement.risks.push_back({Reason::kFstrimTimer, ""});
}

}  // namespace

bool DependsOnGuest(const MigrationChange& change) {
  // Nothing is assumed for a bus change: a guest that cannot find its root disk does not boot.
  return !change.moved_disks.empty() || (change.uses_virtio_blk && !change.assume);
}

std::vector<Blocker> JudgeMove(const GuestPreflight& guest) {
  MigrationJudgement judgement;
  JudgeBusChange(guest, /*is_off=*/false, /*fix=*/false, judgement);
  return std::move(judgement.blockers);
}

std::vector<Blocker> JudgeMoveBack(const GuestPreflight& guest, bool is_off,
                                   const std::set<std::string>& buses) {
  std::vector<Blocker> blockers;
  for (const GuestKernel& kernel : guest.kernels) {
    if (!is_off && !kernel.running && !kernel.newest) continue;
    for (const auto& [bus, driver, state] : {std::tuple("virtio", "virtio_blk", kernel.virtio_blk),
                                             std::tuple("sata", "ahci", kernel.ahci),
                                             std::tuple("ide", "ata_piix", kernel.ata_piix)}) {
      const bool lacks =
          state == GuestModuleState::kModuleOnly || state == GuestModuleState::kMissing;
      if (lacks && buses.contains(bus))
        blockers.push_back({Reason::kInitramfsLacks, ForKernel(driver, kernel)});
    }
  }
  for (const GuestNamedDevice& name : guest.names) {
    // Disks on SATA, and on IDE, are sdX, too.
    const bool stays =
        absl::StartsWith(name.name, "/dev/sd")
            ? !buses.contains("virtio")
            : !absl::StrContains(name.name, "/by-path/") || !absl::StrContains(name.name, "-scsi-");
    if (!stays && IsOfTheNextBoot(guest, name))
      blockers.push_back({Reason::kGuestNamesDisk, WhereNamed(name)});
  }
  return blockers;
}

MigrationJudgement Judge(const MigrationFacts& facts, const MigrationChange& change) {
  MigrationJudgement judgement;
  JudgeDomain(facts, judgement);
  JudgeLive(facts, change, judgement);
  JudgeMachine(facts, change, judgement);
  JudgeGuest(facts, change, judgement);
  return judgement;
}

}  // namespace virt_reclaim
