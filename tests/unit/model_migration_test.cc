#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tuple>

#include "absl/strings/str_cat.h"
#include "host/model/migration.h"
#include "host/model/migration_judge.h"

namespace virt_reclaim {
namespace {

using testing::Contains;
using testing::Field;
using testing::IsEmpty;

auto Has(Reason reason) { return Contains(Field(&Blocker::reason, reason)); }

GuestPreflight GoodGuest() {
  GuestPreflight guest;
  guest.kernel = GuestKernelVersion{6, 1};
  guest.kernel_release = "6.1.0-32-amd64";
  guest.kernels = {{"6.1.0-32-amd64", true, true, "/boot/initrd.img-6.1.0-32-amd64",
                    GuestModuleState::kInInitramfs, GuestModuleState::kBuiltIn}};
  return guest;
}

TEST(MigrationStepTest, NamesGoThereAndBack) {
  for (int i = 0; i <= static_cast<int>(MigrationStep::kRolledBack); ++i) {
    const auto step = static_cast<MigrationStep>(i);
    EXPECT_EQ(MigrationStepOf(Name(step)), step) << i;
  }
  EXPECT_EQ(MigrationStepOf("asleep"), std::nullopt);
}

TEST(MigrationPlaceTest, TheLastWordOfEachKindCounts) {
  MigrationRecord stopping;
  stopping.step = MigrationStep::kStopping;
  stopping.had_agent = stopping.was_running = true;
  stopping.mounts = {{"/", "ext4", "u", "", ""}};
  MigrationRecord verifying;
  verifying.step = MigrationStep::kVerifying;
  verifying.detail = "x";
  const MigrationPlace place = PlaceOf({MigrationRecord(), stopping, verifying});
  EXPECT_EQ(place.step, MigrationStep::kVerifying);
  EXPECT_EQ(place.detail, "x");
  EXPECT_TRUE(place.had_agent);
  EXPECT_EQ(place.mounts.size(), 1u);
}

TEST(JudgeTest, NothingKnownOfTheGuestMattersOnlyToABusChange) {
  MigrationFacts facts;
  facts.guest_unknown.detail = "the domain is not running";
  EXPECT_THAT(Judge(facts, {}).blockers, IsEmpty());
  MigrationChange change;
  change.moved_disks = {"vda"};
  EXPECT_THAT(Judge(facts, change).blockers, Has(Reason::kGuestUnknown));
  change.assume = true;
  EXPECT_THAT(Judge(facts, change).blockers, Has(Reason::kGuestUnknown));
  facts.guest_unknown.reason = Reason::kBusy;
  EXPECT_THAT(Judge(facts, change).blockers, Has(Reason::kBusy));
  facts.guest = GoodGuest();
  EXPECT_THAT(Judge(facts, change).blockers, IsEmpty());
}

TEST(JudgeTest, VirtioBlkNeedsAKernelThatIsKnown) {
  MigrationFacts facts;
  facts.guest_unknown.detail = "the domain is not running";
  MigrationChange change;
  change.uses_virtio_blk = true;
  EXPECT_THAT(Judge(facts, change).blockers, Has(Reason::kGuestUnknown));
  change.assume = true;
  EXPECT_THAT(Judge(facts, change).blockers, IsEmpty());
  facts.guest = GoodGuest();
  facts.guest->kernel = GuestKernelVersion{4, 19};
  EXPECT_THAT(Judge(facts, change).blockers, Has(Reason::kGuestTooOld));
  change.uses_virtio_blk = false;
  EXPECT_THAT(Judge(facts, change).blockers, IsEmpty());
}

TEST(JudgeTest, APowerCycleWouldBringSomebodyElsesChangeIntoForce) {
  MigrationFacts facts;
  facts.saved.machine = "pc-q35-7.2";
  facts.live = facts.saved;
  EXPECT_THAT(Judge(facts, {}).risks, IsEmpty());
  facts.live->machine = "pc-q35-6.0";
  EXPECT_THAT(Judge(facts, {}).risks, Has(Reason::kDefinitionPending));
  MigrationChange change;
  change.power_cycle = true;
  EXPECT_THAT(Judge(facts, change).blockers, Has(Reason::kDefinitionPending));
  // It runs already as it is to run, after a rollback without a power cycle.
  change.after.machine = "pc-q35-6.0";
  EXPECT_THAT(Judge(facts, change).blockers, IsEmpty());
}

// What libvirt makes of the rest at a start is not ours to know for certain: a remark.
TEST(JudgeTest, WhatElseWaitsForAPowerCycleIsOnlySaid) {
  MigrationFacts facts;
  facts.saved.machine = "pc-q35-7.2";
  facts.live = facts.saved;
  facts.pending = "memory";
  facts.agent_answers = true;
  MigrationChange change;
  change.power_cycle = true;
  change.after = facts.saved;
  EXPECT_THAT(Judge(facts, change).blockers, IsEmpty());
  EXPECT_THAT(Judge(facts, change).risks,
              testing::ElementsAre(Blocker{Reason::kDefinitionPending, "memory"}));
  facts.live->machine = "pc-q35-6.0";  // said once
  EXPECT_THAT(Judge(facts, change).risks, IsEmpty());
  EXPECT_THAT(Judge(facts, change).blockers, testing::SizeIs(1));
}

TEST(JudgeTest, TheWayBackNeedsTheDriversAndNamesOfTheOldBus) {
  GuestPreflight guest = GoodGuest();
  guest.kernels[0].ahci = GuestModuleState::kModuleOnly;
  guest.kernels[0].ata_piix = GuestModuleState::kMissing;
  // Of virtio_blk nothing is known.
  EXPECT_THAT(JudgeMoveBack(guest, /*is_off=*/false, {"virtio"}), IsEmpty());
  EXPECT_THAT(JudgeMoveBack(guest, /*is_off=*/false, {"sata"}), Has(Reason::kInitramfsLacks));
  EXPECT_THAT(JudgeMoveBack(guest, /*is_off=*/false, {"virtio", "ide"}),
              Has(Reason::kInitramfsLacks));
  guest.kernels[0].running = guest.kernels[0].newest = false;
  EXPECT_THAT(JudgeMoveBack(guest, /*is_off=*/false, {"sata", "ide"}), IsEmpty());
  // Any may be the one that boots.
  EXPECT_THAT(JudgeMoveBack(guest, /*is_off=*/true, {"sata"}), Has(Reason::kInitramfsLacks));
  const auto name = [&](GuestNameSource source, const std::string& path) {
    guest.names = {{source, "/etc/fstab", 3, path + " / ext4", path, "UUID=x", true}};
  };
  name(GuestNameSource::kFstab, "/dev/sda1");
  EXPECT_THAT(JudgeMoveBack(guest, /*is_off=*/false, {"virtio"}), Has(Reason::kGuestNamesDisk));
  EXPECT_THAT(JudgeMoveBack(guest, /*is_off=*/false, {"sata"}), IsEmpty());
  name(GuestNameSource::kFstab, "/dev/disk/by-path/pci-0000:00:05.0-scsi-0:0:0:0-part1");
  EXPECT_THAT(JudgeMoveBack(guest, /*is_off=*/false, {"sata"}), Has(Reason::kGuestNamesDisk));
  for (const char* old :
       {"/dev/vda1", "/dev/disk/by-path/pci-0000:00:05.0-part1", "/dev/disk/by-id/virtio-x"}) {
    name(GuestNameSource::kFstab, old);
    EXPECT_THAT(JudgeMoveBack(guest, /*is_off=*/false, {"virtio"}), IsEmpty()) << old;
  }
  name(GuestNameSource::kRunningCommandLine, "/dev/sda1");
  EXPECT_THAT(JudgeMoveBack(guest, /*is_off=*/false, {"virtio"}), Has(Reason::kGuestNamesDisk));
  guest.boot_configs = {"/boot/grub/grub.cfg"};
  EXPECT_THAT(JudgeMoveBack(guest, /*is_off=*/false, {"virtio"}), IsEmpty());
}

TEST(JudgeTest, ABusChangeNeedsDriversAndNamesThatStay) {
  MigrationChange change;
  change.moved_disks = {"vda"};
  MigrationFacts facts;
  facts.guest = GoodGuest();
  facts.guest->kernels[0].virtio_scsi = GuestModuleState::kModuleOnly;
  EXPECT_THAT(Judge(facts, change).blockers, Has(Reason::kInitramfsLacks));
  facts.guest = GoodGuest();
  facts.guest->kernels[0].sd_mod = GuestModuleState::kUnknown;
  EXPECT_THAT(Judge(facts, change).blockers, Has(Reason::kGuestUnknown));
  facts.guest = GoodGuest();
  facts.guest->names.push_back(
      {GuestNameSource::kFstab, "/etc/fstab", 3, "/dev/vda1 / ext4", "/dev/vda1", "UUID=x", true});
  const auto blockers = Judge(facts, change).blockers;
  ASSERT_THAT(blockers, Has(Reason::kGuestNamesDisk));
  EXPECT_THAT(blockers[0].detail, testing::HasSubstr("/etc/fstab:3: /dev/vda1"));
  EXPECT_THAT(Judge(facts, {}).blockers, IsEmpty());
  facts.guest->initramfs_tool = GuestInitramfsTool::kDracut;
  facts.guest->kernels[0].virtio_scsi = GuestModuleState::kModuleOnly;
  change.fix_guest = true;
  EXPECT_THAT(Judge(facts, change).blockers, IsEmpty());
  EXPECT_THAT(Judge(facts, change).fixes, Has(Reason::kGuestNamesDisk));
  EXPECT_THAT(Judge(facts, change).fixes, Has(Reason::kInitramfsLacks));
  facts.guest->kernels[0].virtio_scsi = GuestModuleState::kMissing;
  facts.guest->names[0].fixable = false;
  EXPECT_THAT(Judge(facts, change).blockers, Has(Reason::kGuestNamesDisk));
  EXPECT_THAT(Judge(facts, change).blockers, Has(Reason::kInitramfsLacks));
  change.fix_guest = false;
  facts.guest = GoodGuest();
  facts.guest->names.push_back({GuestNameSource::kRunningCommandLine, "/proc/cmdline", 1,
                                "root=/dev/vda1", "/dev/vda1", "", false});
  EXPECT_THAT(Judge(facts, change).blockers, Has(Reason::kGuestNamesDisk));
  facts.guest->boot_configs = {"/boot/grub/grub.cfg"};
  EXPECT_THAT(Judge(facts, change).blockers, IsEmpty());
  facts.guest->truncated = true;
  EXPECT_THAT(Judge(facts, change).blockers, Has(Reason::kGuestUnknown));
  facts.guest = GoodGuest();
  facts.guest->kernels.clear();
  EXPECT_THAT(Judge(facts, change).blockers, Has(Reason::kGuestUnknown));
}

TEST(JudgeTest, RisksDoNotStopAnything) {
  MigrationFacts facts;
  facts.memory_snapshots = 2;
  facts.checkpoints = 1;
  facts.guest = GoodGuest();
  facts.guest->mounts = {{"/dev/vda1", "u", "ext4", {"/"}, GuestSetting::kDisabled}};
  facts.guest->raid_arrays = {{"md0", "raid5", {"vda", "vdb"}, GuestSetting::kDisabled}};
  facts.guest->fstrim_timer = GuestSetting::kEnabled;
  facts.guest->crypt_devices.push_back(
      {"dm-0", "root_crypt", GuestSetting::kDisabled, GuestSetting::kUnknown});
  MigrationChange change;
  change.uses_virtio_blk = true;
  const MigrationJudgement judgement = Judge(facts, change);
  EXPECT_THAT(judgement.blockers, IsEmpty());
  EXPECT_THAT(judgement.risks, Has(Reason::kMemorySnapshot));
  EXPECT_THAT(judgement.risks, Has(Reason::kCheckpoints));
  EXPECT_THAT(judgement.risks, Has(Reason::kMountedNodiscard));
  EXPECT_THAT(judgement.risks, Has(Reason::kGuestLayer));
  EXPECT_THAT(judgement.risks, Has(Reason::kDmCrypt));
  EXPECT_THAT(judgement.risks, Has(Reason::kFstrimTimer));
}

// As it is open now; and where nobody knows that, as crypttab will have it opened.
TEST(JudgeTest, CryptDevicesThatAreNotOpenAreJudgedByCrypttab) {
  using enum GuestSetting;
  for (const auto& [passes, crypttab, is_risk] :
       {std::tuple(kUnknown, kDisabled, true), std::tuple(kUnknown, kEnabled, false),
        std::tuple(kUnknown, kUnknown, false), std::tuple(kEnabled, kDisabled, false),
        std::tuple(kDisabled, kEnabled, true)}) {
    MigrationFacts facts;
    facts.guest = GoodGuest();
    facts.guest->crypt_devices.push_back({"", "root_crypt", passes, crypttab});
    const auto risks = Judge(facts, {}).risks;
    EXPECT_THAT(risks, testing::SizeIs(is_risk ? 1 : 0));
    if (is_risk) {
      EXPECT_THAT(risks, Has(Reason::kDmCrypt));
    }
  }
}

TEST(JudgeTest, WithoutAnAgentAPowerCycleIsNotVerified) {
  MigrationFacts facts;
  MigrationChange change;
  change.power_cycle = true;
  EXPECT_THAT(Judge(facts, change).risks, IsEmpty()) << "it is off";
  facts.live.emplace();
  EXPECT_THAT(Judge(facts, change).risks, Has(Reason::kNotVerified));
  change.power_cycle = false;
  EXPECT_THAT(Judge(facts, change).risks, IsEmpty());
  change.power_cycle = true;
  facts.agent_answers = true;
  EXPECT_THAT(Judge(facts, change).risks, IsEmpty());
}

TEST(JudgeTest, OfAGuestThatIsOffItIsSaidThatNobodyLooked) {
  MigrationFacts facts;
  EXPECT_THAT(Judge(facts, {}).risks, IsEmpty());
  facts.guest_is_off = true;
  EXPECT_THAT(Judge(facts, {}).risks, Has(Reason::kGuestUnknown));
  facts.guest = GoodGuest();
  EXPECT_THAT(Judge(facts, {}).risks, IsEmpty());
}

// It is about lvremove and lvreduce only, and stops nothing.
TEST(JudgeTest, IssueDiscardsOfLvmIsARemarkToWhoHasVolumes) {
  MigrationFacts facts;
  facts.guest = GoodGuest();
  for (const GuestSetting setting :
       {GuestSetting::kUnknown, GuestSetting::kEnabled, GuestSetting::kDisabled}) {
    facts.guest->lvm_issue_discards = setting;
    facts.guest_has_lvm = false;  // many guests have the file, and no volume
    EXPECT_THAT(Judge(facts, {}).risks, IsEmpty());
    facts.guest_has_lvm = true;
    const MigrationJudgement judgement = Judge(facts, {});
    EXPECT_THAT(judgement.blockers, IsEmpty());
    if (setting == GuestSetting::kUnknown) {
      EXPECT_THAT(judgement.risks, IsEmpty());
      continue;
    }
    ASSERT_THAT(judgement.risks, testing::SizeIs(1));
    EXPECT_EQ(judgement.risks[0].reason, Reason::kLvmIssueDiscards);
    EXPECT_THAT(judgement.risks[0].detail,
                testing::StartsWith(setting == GuestSetting::kEnabled ? "on:" : "off:"));
  }
}

TEST(JudgeTest, TheHostMustHaveTheMachineType) {
  MigrationFacts facts;
  MigrationChange change;
  change.machine = "pc-i440fx-4.0";
  EXPECT_THAT(Judge(facts, change).blockers, IsEmpty());  // not told: libvirt will say
  facts.machines.names = {"pc", "pc-i440fx-7.2"};
  EXPECT_THAT(Judge(facts, change).blockers, Has(Reason::kMachineNotOnHost));
  facts.machines.names.push_back("pc-i440fx-4.0");
  EXPECT_THAT(Judge(facts, change).blockers, IsEmpty());
  EXPECT_THAT(Judge(facts, change).risks, IsEmpty());
  facts.machines.deprecated = {"pc-i440fx-4.0"};
  EXPECT_THAT(Judge(facts, change).blockers, IsEmpty());
  EXPECT_THAT(Judge(facts, change).risks, Has(Reason::kMachineDeprecated));
  change.machine = "pc-i440fx-7.2";
  EXPECT_THAT(Judge(facts, change).risks, IsEmpty());
}

TEST(JudgeTest, JobsAndManagersStopIt) {
  MigrationFacts facts;
  facts.activity = {{Reason::kBlockJob, "vda"}};
  facts.saved.metadata_namespaces = {"http://ovirt.org/vm/1.0"};
  facts.persistent = false;
  facts.managed_save = true;
  const auto blockers = Judge(facts, {}).blockers;
  for (const Reason reason :
       {Reason::kBlockJob, Reason::kManaged, Reason::kTransient, Reason::kManagedSave})
    EXPECT_THAT(blockers, Has(reason));
}

TEST(JudgeTest, EachManagerHasASwitchOfItsOwn) {
  for (const auto& [uri, name] :
       {std::pair("http://ovirt.org/vm/1.0", "Enable Discard"),
        std::pair("http://openstack.org/xmlns/libvirt/nova/1.1", "hw_disk_discard"),
        std::pair("http://opennebula.org/xmlns/libvirt/1.0", "DISCARD"),
        std::pair("http://kubevirt.io", "KubeVirt")}) {
    MigrationFacts facts;
    facts.saved.metadata_namespaces = {uri};
    const auto blockers = Judge(facts, {}).blockers;
    ASSERT_THAT(blockers, testing::SizeIs(1));
    EXPECT_THAT(blockers[0].detail, testing::HasSubstr(name));
  }
}

// As its KVM plugin writes it; each of the words can be configured.
TEST(JudgeTest, CloudStackIsKnownByWhatTheMachineSaysItIs) {
  for (const auto& [manufacturer, product, is_it] :
       {std::tuple("Apache Software Foundation", "CloudStack KVM Hypervisor", true),
        std::tuple("Apache Software Foundation", "Cloud of ours", true),
        std::tuple("Somebody", "CloudStack KVM Hypervisor", true),
        std::tuple("QEMU", "Standard PC", false)}) {
    const auto domain = xml::ParseDomain(absl::StrCat(
        "<domain type='kvm'><sysinfo type='smbios'><system><entry name='manufacturer'>",
        manufacturer, "</entry><entry name='product'>", product,
        "</entry><entry name='uuid'>8825b180-468f-4227-beb7-6b06fd342116</entry></system></sysinfo>"
        "</domain>"));
    ASSERT_TRUE(domain.ok()) << domain.status();
    MigrationFacts facts;
    facts.saved = *domain;
    const auto blockers = Judge(facts, {}).blockers;
    ASSERT_THAT(blockers, testing::SizeIs(is_it ? 1 : 0)) << manufacturer << product;
    if (is_it) {
      EXPECT_THAT(blockers[0].detail, testing::HasSubstr("rootDiskController"));
    }
  }
}

}  // namespace
}  // namespace virt_reclaim
