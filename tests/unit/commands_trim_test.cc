#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/byte_size.h"
#include "host/commands/trim.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> Codes(const std::vector<Blocker>& blockers) {
  std::vector<std::string> codes;
  for (const Blocker& blocker : blockers) codes.emplace_back(Code(blocker.reason));
  return codes;
}

GuestTrim Trimmed(const std::string& mount_point, const std::string& disk, uint64_t bytes) {
  GuestTrim trim;
  trim.mount_point = mount_point;
  trim.result = GuestTrimResult::kDone;
  trim.trimmed = bytes;
  trim.obstacle = GuestObstacle::kNone;
  trim.disks = {disk};
  return trim;
}

class TrimTest : public testing::Test {
 protected:
  // One disk, 1 GiB, 600 MiB allocated, of which the guest uses 100 MiB; the guest trims 900 MiB.
  FakeDomain& AddDomain(const std::string& machine, const std::string& discard, uint64_t freed) {
    world_.AddImage("/images/a.raw", kGiB, 600 * kMiB);
    FakeDomain& domain =
        world_.AddDomain(DomainXml("web", kUuid, machine,
                                   {{"vda", "virtio", "/images/a.raw", discard}}, "connected"),
                         DomainState::kRunning);
    domain.agent.facts.filesystems = {FilesystemOn("vda", 5, "/", kGiB, 100 * kMiB)};
    domain.agent.trims = {Trimmed("/", "vda", 900 * kMiB)};
    domain.agent.freed = {{"/images/a.raw", freed}};
    return domain;
  }

  std::vector<TrimmedDomain> Run(const TrimOptions& options = {},
                                 const std::stop_token& stop = {}) {
    const Services services = world_.services();
    const auto plan = PlanTrim(services, options, {});
    EXPECT_TRUE(plan.ok()) << plan.status();
    return ExecuteTrim(services, options, *plan, nullptr, stop);
  }

  static ExitStatus StatusOf(const std::vector<TrimmedDomain>& results) {
    std::vector<Outcome> outcomes;
    for (const TrimmedDomain& result : results) outcomes.push_back(result.outcome);
    return ExitStatusOf(outcomes);
  }

  FakeWorld world_;
};

TEST_F(TrimTest, FreedIsWhatTheHostMeasured) {
  AddDomain("pc-q35-7.2", "unmap", 480 * kMiB);
  const auto results = Run();
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].outcome.kind, OutcomeKind::kDone);
  ASSERT_EQ(results[0].disks.size(), 1u);
  EXPECT_EQ(results[0].disks[0].trimmed, 900 * kMiB);  // the guest's word
  EXPECT_EQ(results[0].disks[0].freed, static_cast<int64_t>(480 * kMiB));
  EXPECT_EQ(results[0].disks[0].allocation_after, 120 * kMiB);
  EXPECT_THAT(results[0].disks[0].reasons, IsEmpty());
  EXPECT_EQ(StatusOf(results), ExitStatus::kDone);
}

TEST_F(TrimTest, TrimmedButNothingFreedIsItsOwnResultWithItsReason) {
  AddDomain("pc-q35-7.2", "", 0);
  const auto results = Run();
  EXPECT_EQ(results[0].disks[0].freed, 0);
  EXPECT_THAT(Codes(results[0].disks[0].reasons), ElementsAre("discard-ignored"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kNothingFreed);
}

TEST_F(TrimTest, GuestThatCannotTrimIsExplainedByTheMachineType) {
  FakeDomain& domain = AddDomain("pc-i440fx-3.1", "", 0);
  domain.agent.facts.filesystems[0].obstacle = GuestObstacle::kDiskNotSupported;
  domain.agent.trims[0].result = GuestTrimResult::kFailed;
  domain.agent.trims[0].trimmed = 0;
  domain.agent.trims[0].obstacle = GuestObstacle::kDiskNotSupported;
  domain.agent.trims[0].error_name = "EOPNOTSUPP";
  const auto results = Run();
  EXPECT_EQ(results[0].outcome.kind, OutcomeKind::kDone);
  EXPECT_THAT(Codes(results[0].disks[0].reasons),
              ElementsAre("machine-too-old", "discard-ignored"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kNothingFreed);
}

TEST_F(TrimTest, SecondTrimFindsNothingAndThatIsFine) {
  FakeDomain& domain = AddDomain("pc-q35-7.2", "unmap", 0);
  world_.images["/images/a.raw"].allocation = 101 * kMiB;  // nearly all of it is in use
  domain.agent.trims[0].trimmed = 900 * kMiB;              // XFS reports all free space each time
  const auto results = Run();
  EXPECT_THAT(Codes(results[0].disks[0].reasons), ElementsAre("nothing-reclaimable"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kDone);
}

TEST_F(TrimTest, MuchReclaimableButNothingFreedAndNoReasonIsSaidSo) {
  AddDomain("pc-q35-7.2", "unmap", 0);
  const auto results = Run();
  EXPECT_THAT(Codes(results[0].disks[0].reasons), ElementsAre("unexplained"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kNothingFreed);
}

TEST_F(TrimTest, Ext4ThatRemembersAnEarlierTrimIsSaidSo) {
  FakeDomain& domain = AddDomain("pc-q35-7.2", "unmap", 0);
  domain.agent.trims[0].trimmed = 0;
  auto results = Run();
  EXPECT_THAT(Codes(results[0].disks[0].reasons), ElementsAre("trim-remembered"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kNothingFreed);
  domain.agent.facts.filesystems[0].type = "xfs";
  EXPECT_THAT(Codes(Run()[0].disks[0].reasons), ElementsAre("unexplained"));
}

// ---- What is no fault

TEST_F(TrimTest, WhatIsNotKnownOfTheMachineIsShownAndNoFault) {
  FakeDomain& domain = AddDomain("strange-9.9", "unmap", 0);
  world_.images["/images/a.raw"].allocation = 101 * kMiB;
  auto results = Run();
  EXPECT_THAT(Codes(results[0].disks[0].reasons),
              ElementsAre("machine-unknown", "nothing-reclaimable"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kDone);
  // What the guest calls free and the host holds is one, whatever the machine.
  world_.images["/images/a.raw"].allocation = 600 * kMiB;
  domain.agent.trims[0].trimmed = 0;
  results = Run();
  EXPECT_THAT(Codes(results[0].disks[0].reasons), ElementsAre("machine-unknown"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kNothingFreed);
}

TEST_F(TrimTest, ANetworkImageIsNoFault) {
  FakeDomain& domain = AddDomain("pc-q35-7.2", "unmap", 0);
  const std::string file = "<source file='/images/a.raw'/>";
  domain.live_xml.replace(domain.live_xml.find(file), file.size(),
                          "<source protocol='rbd' name='pool/a'/>");
  const std::string type = "type='file'";
  domain.live_xml.replace(domain.live_xml.find(type), type.size(), "type='network'");
  domain.block_usage["vda"] = {kGiB, 101 * kMiB, kGiB};
  const auto results = Run();
  EXPECT_EQ(results[0].disks[0].freed, 0);
  EXPECT_THAT(Codes(results[0].disks[0].reasons),
              ElementsAre("no-local-image", "nothing-reclaimable"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kDone);
}

TEST_F(TrimTest, ABlockDeviceThatCannotBeMeasuredIsAFaultOnlyWhenALayerDrops) {
  FakeDomain& domain = AddDomain("pc-q35-7.2", "unmap", 0);
  const std::string file = "<source file='/images/a.raw'/>";
  domain.live_xml.replace(domain.live_xml.find(file), file.size(), "<source dev='/dev/vg/a'/>");
  const std::string type = "type='file'";
  domain.live_xml.replace(domain.live_xml.find(type), type.size(), "type='block'");
  domain.block_usage["vda"] = {kGiB, kGiB, kGiB};
  HostDevice device;
  device.name = "dm-1";
  device.dm_name = "vg-a";
  device.dm_uuid = "LVM-x";
  device.discard_max = kGiB;
  world_.block_storage = {device};
  auto results = Run();
  EXPECT_FALSE(results[0].disks[0].freed.has_value());
  EXPECT_THAT(Codes(results[0].disks[0].reasons), ElementsAre("block-device"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kDone);
  world_.block_storage[0].discard_max = 0;
  results = Run();
  EXPECT_THAT(Codes(results[0].disks[0].reasons),
              ElementsAre("block-device", "storage-cannot-punch"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kNothingFreed);
}

TEST_F(TrimTest, AReadOnlyFilesystemBesideAHealthyOneIsAFaultOnlyWithSomethingToGive) {
  FakeDomain& domain = AddDomain("pc-q35-7.2", "unmap", 0);
  GuestFilesystem fixed = FilesystemOn("vda", 5, "/usr", 0, 0);
  fixed.obstacle = GuestObstacle::kReadOnly;
  domain.agent.facts.filesystems.push_back(fixed);
  world_.images["/images/a.raw"].allocation = 110 * kMiB;
  for (const auto obstacle : {GuestObstacle::kReadOnly, GuestObstacle::kTypeNotSupported}) {
    domain.agent.facts.filesystems[1].obstacle = obstacle;
    const auto results = Run();
    EXPECT_EQ(Codes(results[0].disks[0].reasons).back(), "nothing-reclaimable");
    EXPECT_EQ(StatusOf(results), ExitStatus::kDone);
  }
  world_.images["/images/a.raw"].allocation = 600 * kMiB;
  const auto results = Run();
  EXPECT_THAT(Codes(results[0].disks[0].reasons), ElementsAre("filesystem-not-supported"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kNothingFreed);
}

// A /boot beside what LUKS keeps: some comes back, and by far not all.
TEST_F(TrimTest, WhatDropsDiscardsIsNamedBesideWhatCameBack) {
  FakeDomain& domain = AddDomain("pc-q35-7.2", "unmap", 4096);
  for (GuestFilesystem& boot : domain.agent.facts.filesystems) {
    boot.obstacle = GuestObstacle::kNone;
    boot.devices[0].kind = GuestDeviceKind::kDisk;
    boot.devices[0].discard_max = kGiB;
  }
  EXPECT_THAT(Run()[0].disks[0].reasons, IsEmpty());
  GuestFilesystem root = domain.agent.facts.filesystems[0];
  root.mount_points = {"/data"};
  root.obstacle = GuestObstacle::kDmCrypt;
  root.obstacle_device = "data";
  GuestDevice crypt;
  crypt.name = "dm-0";
  crypt.kind = GuestDeviceKind::kDmCrypt;
  crypt.dm_name = "data";
  crypt.discard_max = 0;
  crypt.parents = {root.devices[0].name};
  root.devices.insert(root.devices.begin(), crypt);
  domain.agent.facts.filesystems.push_back(root);
  world_.images["/images/a.raw"].allocation = 600 * kMiB;
  const auto results = Run();
  EXPECT_EQ(results[0].disks[0].freed, 4096);
  EXPECT_THAT(Codes(results[0].disks[0].reasons), ElementsAre("dm-crypt"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kDone);
}

TEST_F(TrimTest, AGuestThatWritesOverWhatCameFreeIsNotUnexplained) {
  FakeDomain& domain = AddDomain("pc-q35-7.2", "unmap", 0);
  domain.agent.while_trimming = [&] {
    world_.images["/images/a.raw"].allocation = 700 * kMiB;  // 480 MiB free, 580 MiB written
    domain.bytes_written += 580 * kMiB;
  };
  auto results = Run();
  EXPECT_EQ(results[0].disks[0].freed, -100 * static_cast<int64_t>(kMiB));
  EXPECT_THAT(Codes(results[0].disks[0].reasons), ElementsAre("guest-wrote"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kDone);
  // All that it wrote is in the image's growth: nothing came free.
  world_.images["/images/a.raw"].allocation = 600 * kMiB;
  domain.agent.while_trimming = [&] {
    world_.images["/images/a.raw"].allocation = 700 * kMiB;
    domain.bytes_written += 100 * kMiB;
  };
  results = Run();
  EXPECT_THAT(Codes(results[0].disks[0].reasons), ElementsAre("unexplained"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kNothingFreed);
}

TEST_F(TrimTest, IoErrorInTheGuestIsAFailure) {
  FakeDomain& domain = AddDomain("pc-q35-7.2", "unmap", 0);
  domain.agent.trims[0].result = GuestTrimResult::kFailed;
  domain.agent.trims[0].error_name = "EIO";
  const auto results = Run();
  EXPECT_EQ(results[0].outcome.kind, OutcomeKind::kFailed);
  EXPECT_NE(results[0].outcome.error.message().find("EIO"), absl::string_view::npos);
  EXPECT_EQ(StatusOf(results), ExitStatus::kSomeFailed);
}

TEST_F(TrimTest, LostLinkKeepsWhatWasMeasured) {
  FakeDomain& domain = AddDomain("pc-q35-7.2", "unmap", 100 * kMiB);
  domain.agent.trim = absl::UnavailableError("Trim: the agent restarted");
  const auto results = Run();
  EXPECT_EQ(results[0].outcome.kind, OutcomeKind::kFailed);
  EXPECT_EQ(results[0].freed, static_cast<int64_t>(100 * kMiB));
}

TEST_F(TrimTest, EachObstacleHasItsOwnReasonAndStallsNoOther) {
  AddDomain("pc-q35-7.2", "unmap", 480 * kMiB);
  world_.AddImage("/images/b.raw", kGiB, kMiB);
  const auto add = [&](const std::string& name, const std::string& uuid, DomainState state,
                       const std::string& channel) -> FakeDomain& {
    return world_.AddDomain(
        DomainXml(name, uuid, "pc-q35-7.2", {{"vda", "virtio", "/images/b.raw", "unmap"}}, channel),
        state);
  };
  add("off", "00000000-0000-0000-0000-000000000001", DomainState::kShutOff, "");
  add("paused", "00000000-0000-0000-0000-000000000002", DomainState::kPaused, "connected");
  add("backup", "00000000-0000-0000-0000-000000000003", DomainState::kRunning, "connected")
      .activity = {{Reason::kJobActive, ""}};
  add("frozen", "00000000-0000-0000-0000-000000000004", DomainState::kRunning, "connected")
      .activity = {{Reason::kFrozen, ""}};
  add("unsaid", "00000000-0000-0000-0000-000000000009", DomainState::kRunning, "connected")
      .activity = {{Reason::kAgentSilent, "whether it is frozen"}};
  add("noport", "00000000-0000-0000-0000-000000000005", DomainState::kRunning, "");
  add("deaf", "00000000-0000-0000-0000-000000000006", DomainState::kRunning, "disconnected");
  add("dead", "00000000-0000-0000-0000-000000000007", DomainState::kRunning, "connected")
      .agent.connect = absl::DeadlineExceededError("no agent answered");
  add("taken", "00000000-0000-0000-0000-000000000008", DomainState::kRunning, "connected").channel =
      absl::AbortedError("Active channel stream exists for this domain");
  std::map<std::string, std::string> reasons;
  std::map<std::string, OutcomeKind> kinds;
  for (const TrimmedDomain& result : Run()) {
    kinds[result.domain.name] = result.outcome.kind;
    for (const Blocker& blocker : result.outcome.reasons)
      reasons[result.domain.name] = std::string(Code(blocker.reason));
  }
  EXPECT_EQ(reasons["off"], "not-running");
  EXPECT_EQ(reasons["paused"], "paused");
  EXPECT_EQ(reasons["backup"], "job-active");
  EXPECT_EQ(reasons["frozen"], "frozen");
  EXPECT_EQ(reasons["noport"], "no-controller");
  EXPECT_EQ(reasons["deaf"], "agent-not-connected");
  EXPECT_EQ(reasons["dead"], "agent-silent");
  EXPECT_EQ(reasons["taken"], "busy");
  EXPECT_EQ(kinds["web"], OutcomeKind::kDone);
  EXPECT_EQ(reasons["unsaid"], "agent-silent");
  EXPECT_EQ(kinds["unsaid"], OutcomeKind::kFailed);
  EXPECT_EQ(kinds["dead"], OutcomeKind::kFailed);
  EXPECT_EQ(kinds["noport"], OutcomeKind::kSkipped);
}

TEST_F(TrimTest, SecondProgramIsBusyAtOnce) {
  AddDomain("pc-q35-7.2", "unmap", 0);
  const auto lock = DomainLock::Take(world_.services().lock_directory, kUuid);
  ASSERT_TRUE(lock.ok());
  const auto results = Run();
  EXPECT_THAT(Codes(results[0].outcome.reasons), ElementsAre("busy"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kRefused);
}

TEST_F(TrimTest, NamedDomainThatIsOffIsARefusal) {
  AddDomain("pc-q35-7.2", "unmap", 0).summary.state = DomainState::kShutOff;
  EXPECT_EQ(StatusOf(Run()), ExitStatus::kDone);
  TrimOptions options;
  options.domains = {"web"};
  EXPECT_EQ(StatusOf(Run(options)), ExitStatus::kRefused);
}

TEST_F(TrimTest, StopEndsBeforeTheNextDomain) {
  AddDomain("pc-q35-7.2", "unmap", 480 * kMiB);
  std::stop_source stop;
  stop.request_stop();
  const auto results = Run({}, stop.get_token());
  EXPECT_EQ(StatusOf(results), ExitStatus::kInterrupted);
  EXPECT_EQ(world_.images["/images/a.raw"].allocation, 600 * kMiB);
}

TEST_F(TrimTest, BackingChainIsMeasuredWhole) {
  AddDomain("pc-q35-7.2", "unmap", 0);
  FakeDomain& domain = world_.domains[kUuid];
  world_.AddImage("/images/base.raw", kGiB, 50 * kMiB);
  const std::string source = "<source file='/images/a.raw'/>";
  domain.live_xml.replace(domain.live_xml.find(source), source.size(),
                          source +
                              "<backingStore type='file'><format type='raw'/><source "
                              "file='/images/base.raw'/><backingStore/></backingStore>");
  EXPECT_EQ(Run()[0].disks[0].allocation_before, 650 * kMiB);
}

TEST_F(TrimTest, WhatComesFreeInADataFileIsFreed) {
  FakeDomain& domain = AddDomain("pc-q35-7.2", "unmap", 0);
  world_.AddImage("/data/web.data", kGiB, 600 * kMiB);
  world_.images["/images/a.raw"].allocation = kMiB;
  world_.data_files["/images/a.raw"] = "/data/web.data";
  world_.devices["/data/web.data"] = 7;
  domain.agent.freed = {{"/data/web.data", 480 * kMiB}};
  const auto plan = PlanTrim(world_.services(), {}, {});
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->front().storages, (Storages{1, 7}));
  const auto results = Run();
  EXPECT_EQ(results[0].disks[0].allocation_before, 601 * kMiB);
  EXPECT_EQ(results[0].disks[0].freed, 480 * kMiB);
  EXPECT_EQ(StatusOf(results), ExitStatus::kDone);
}

TEST_F(TrimTest, OfADataFileThatCannotBeLookedAtNothingIsKnown) {
  AddDomain("pc-q35-7.2", "unmap", 0);
  world_.data_files["/images/a.raw"] = "";
  const auto results = Run();
  EXPECT_EQ(results[0].disks[0].allocation_before, std::nullopt);
  EXPECT_EQ(results[0].disks[0].freed, std::nullopt);
  EXPECT_THAT(Codes(results[0].disks[0].reasons), ElementsAre("image-unreadable"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kDone);
}

TEST_F(TrimTest, UnknownDomainIsNamed) {
  AddDomain("pc-q35-7.2", "unmap", 0);
  TrimOptions options;
  options.domains = {"wbe\x1b[2J"};
  const auto plan = PlanTrim(world_.services(), options, {});
  EXPECT_TRUE(absl::IsNotFound(plan.status()));
  EXPECT_EQ(plan.status().message().find('\x1b'), absl::string_view::npos);
}

}  // namespace
}  // namespace virt_reclaim
