#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_replace.h"
#include "base/byte_size.h"
#include "host/commands/explain.h"
#include "host/services/storage_lock.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

class ExplainTest : public testing::Test {
 protected:
  ExplainTest() {
    world_.AddImage("/images/a.raw", kGiB, 600 * kMiB);
    world_.AddImage("/images/b.raw", kGiB, 600 * kMiB);
    domain_ = &world_.AddDomain(DomainXml("web", kUuid, "pc-q35-7.2",
                                          {{"vda", "virtio", "/images/a.raw", "unmap"},
                                           {"vdb", "virtio", "/images/b.raw", "unmap"}},
                                          "connected"),
                                DomainState::kRunning);
    domain_->agent.facts.filesystems = {FilesystemOn("vda", 5, "/", kGiB, 100 * kMiB),
                                        FilesystemOn("vdb", 6, "/srv", kGiB, 100 * kMiB)};
    domain_->agent.image_of = {{"/", "/images/a.raw"}, {"/srv", "/images/b.raw"}};
  }

  ExplainedDomain Run(const std::string& word = "web", bool probe = false) {
    ExplainOptions options;
    options.domains = {word};
    options.probe = probe;
    return Explain(world_.services(), options, {}).value().at(0);
  }
  // Another program that trims on the storage of the images.
  std::unique_ptr<StorageLock> OtherOnTheStorage() {
    auto lock = std::make_unique<StorageLock>(world_.services().lock_directory,
                                              std::set<std::string>{"1"}, 1);
    EXPECT_TRUE(lock->Take().value());
    return lock;
  }
  // A probe of both disks; `meanwhile` is called whenever it has waited for a while.
  ExplainedDomain ProbeInTurn(const std::function<void()>& meanwhile) {
    Services services = world_.services();
    services.sleep = [meanwhile, sleep = services.sleep](absl::Duration duration) {
      sleep(duration);
      meanwhile();
    };
    ExplainOptions options;
    options.domains = {"web"};
    options.probe = true;
    options.waits = [this](const DomainSummary& domain) { waited_.push_back(domain.name); };
    return Explain(services, options, {}).value().at(0);
  }
  static ExitStatus StatusOf(const ExplainedDomain& domain) {
    return ExitStatusOf(std::vector<Outcome>{domain.outcome});
  }

  FakeWorld world_;
  FakeDomain* domain_ = nullptr;
  std::vector<std::string> waited_;
};

TEST_F(ExplainTest, AllWellAndProved) {
  const ExplainedDomain domain = Run("web", true);
  EXPECT_EQ(StatusOf(domain), ExitStatus::kDone);
  ASSERT_EQ(domain.disks.size(), 2u);
  for (const ExplainedDisk& disk : domain.disks) {
    EXPECT_FALSE(disk.culprit.has_value());
    EXPECT_EQ(disk.probe->reaches, true);
  }
}

TEST_F(ExplainTest, AGuestThatIsSlowToListIsKnown) {
  domain_->agent.listing_takes = kListingTimeout;
  EXPECT_FALSE(Run().agent.has_value());
  domain_->agent.listing_takes = kListingTimeout + absl::Seconds(1);
  EXPECT_EQ(Run().agent->reason, Reason::kAgentSilent);
}

TEST_F(ExplainTest, OneDiskOnlyAndNothingElseIsProbed) {
  const ExplainedDomain domain = Run("web:vdb", true);
  ASSERT_EQ(domain.disks.size(), 1u);
  EXPECT_EQ(domain.disks[0].chain.target, "vdb");
  EXPECT_EQ(domain.disks[0].probe->reaches, true);
}

TEST_F(ExplainTest, ADomainWhoseNameLooksLikeADisk) {
  world_.AddDomain(
      DomainXml("web:vda", "22222222-2222-3333-4444-555555555555", "pc-q35-7.2", {}, ""),
      DomainState::kShutOff);
  const ExplainedDomain domain = Run("web:vda");
  EXPECT_EQ(domain.summary.name, "web:vda");
  EXPECT_EQ(domain.outcome.reasons.at(0).reason, Reason::kNoDisks);
}

TEST_F(ExplainTest, ADropIsStatus4WithAndWithoutAProbe) {
  domain_->live_xml =
      DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", "/images/a.raw", ""}}, "connected");
  domain_->inactive_xml = domain_->live_xml;
  domain_->agent.marker_comes_back = false;
  for (const bool probe : {false, true}) {
    const ExplainedDomain domain = Run("web", probe);
    EXPECT_EQ(StatusOf(domain), ExitStatus::kNothingFreed);
    EXPECT_EQ(domain.disks.at(0).culprit->blocker.reason, Reason::kDiscardIgnored);
    EXPECT_EQ(domain.disks[0].probe.has_value(), probe);
    EXPECT_FALSE(probe && domain.disks[0].probe->reaches.value_or(true));
  }
}

TEST_F(ExplainTest, AProbeThatDoesNotComeBackIsACulpritOfItsOwn) {
  domain_->agent.marker_comes_back = false;
  const ExplainedDomain domain = Run("web", true);
  EXPECT_EQ(StatusOf(domain), ExitStatus::kNothingFreed);
  EXPECT_EQ(domain.disks.at(0).culprit->blocker.reason, Reason::kDiscardNotProved);
  EXPECT_EQ(domain.disks.at(0).culprit->layer, std::nullopt);
}

TEST_F(ExplainTest, AnothersDiscardIsNoProof) {
  domain_->agent.marker_comes_back = false;
  domain_->agent.while_discarding = [&] {
    auto& allocation = world_.images["/images/a.raw"].allocation;
    allocation = *allocation - 20 * kMiB;
  };
  // Where the marker lies is known: there is no hole.
  domain_->agent.marker_disk = "vda";
  domain_->agent.marker_extents = {{64 * kMiB, 8 * kMiB}, {128 * kMiB, 8 * kMiB}};
  EXPECT_EQ(Run("web:vda", true).disks.at(0).probe->reaches, false);
  // It is not: the first looks right, the second, which is larger, does not.
  domain_->agent.marker_extents.clear();
  world_.allocated.clear();
  ProbedDisk probe = Run("web:vda", true).disks.at(0).probe.value();
  EXPECT_EQ(probe.reaches, std::nullopt);
  EXPECT_NE(probe.detail.find("do not agree"), std::string::npos);
  // Extents of another disk say nothing of this one.
  domain_->agent.marker_disk = "vdb";
  domain_->agent.marker_extents = {{64 * kMiB, 16 * kMiB}};
  EXPECT_EQ(Run("web:vda", true).disks.at(0).probe->reaches, std::nullopt);
}

TEST_F(ExplainTest, AnothersWritesDoNotDisproveWhatIsAHole) {
  domain_->agent.while_discarding = [&] {
    auto& allocation = world_.images["/images/a.raw"].allocation;
    allocation = *allocation + 20 * kMiB;
  };
  domain_->agent.marker_disk = "vda";
  domain_->agent.marker_extents = {{64 * kMiB, 16 * kMiB}};
  EXPECT_EQ(Run("web:vda", true).disks.at(0).probe->reaches, true);
}

TEST_F(ExplainTest, WhatTheNextStartPutsRightWaitsForAPowerCycle) {
  domain_->live_xml =
      DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", "/images/a.raw", ""}}, "connected");
  const ExplainedDomain domain = Run();
  EXPECT_EQ(domain.disks.at(0).culprit->blocker.reason, Reason::kPowerCyclePending);
}

TEST_F(ExplainTest, AGuestThatIsNotKnownIsARemark) {
  domain_->agent.connect = absl::DeadlineExceededError("no answer");
  ExplainedDomain domain = Run();
  EXPECT_EQ(StatusOf(domain), ExitStatus::kDone);
  EXPECT_EQ(domain.agent->reason, Reason::kAgentSilent);
  EXPECT_EQ(domain.disks.at(0).chain.Verdict(), LayerVerdict::kUnknown);
  // Who asked for a proof did not get it.
  domain = Run("web", true);
  EXPECT_EQ(StatusOf(domain), ExitStatus::kError);
  EXPECT_EQ(domain.disks.size(), 2u);
  domain_->summary.state = DomainState::kShutOff;
  EXPECT_EQ(StatusOf(Run()), ExitStatus::kDone);
  EXPECT_EQ(StatusOf(Run("web", true)), ExitStatus::kRefused);
}

TEST_F(ExplainTest, NoMarkerIsWrittenWhileLibvirtWorksOnTheDomain) {
  domain_->activity = {{Reason::kFrozen, ""}};
  const ExplainedDomain domain = Run("web", true);
  EXPECT_EQ(StatusOf(domain), ExitStatus::kRefused);
  EXPECT_EQ(domain.outcome.reasons.at(0).reason, Reason::kFrozen);
  EXPECT_FALSE(domain.disks.at(0).probe.has_value());
}

TEST_F(ExplainTest, NoTrimOfOthersBesideAProbe) {
  size_t discards = 0;
  domain_->agent.while_discarding = [&] {
    ++discards;
    // Whatever limit the other has.
    StorageLock other(world_.services().lock_directory, {"1"}, 16);
    EXPECT_FALSE(other.Take().value());
  };
  EXPECT_EQ(Run("web", true).disks.at(1).probe->reaches, true);
  EXPECT_GE(discards, 2u);
  EXPECT_NE(OtherOnTheStorage(), nullptr) << "the place is free again";
}

TEST_F(ExplainTest, AProbeWaitsForItsTurnAndLeavesTheDomainFreeMeanwhile) {
  auto other = OtherOnTheStorage();
  size_t looked = 0;
  const ExplainedDomain domain = ProbeInTurn([&] {
    if (other == nullptr) return;
    EXPECT_TRUE(DomainLock::Take(world_.services().lock_directory, kUuid).ok());
    if (++looked == 5) other.reset();
  });
  EXPECT_EQ(waited_, std::vector<std::string>{"web"});
  EXPECT_EQ(looked, 5u);
  EXPECT_EQ(domain.disks.at(0).probe->reaches, true);
  EXPECT_EQ(StatusOf(domain), ExitStatus::kDone);
}

TEST_F(ExplainTest, AProbeThatGetsNoTurnIsRefusedWithTheReason) {
  const auto other = OtherOnTheStorage();
  const absl::Time begin = world_.Now();
  const ExplainedDomain domain = Run("web", true);
  EXPECT_EQ(StatusOf(domain), ExitStatus::kRefused);
  EXPECT_EQ(domain.outcome.reasons, (std::vector<Blocker>{{Reason::kStorageBusy, ""}}));
  ASSERT_EQ(domain.disks.size(), 2u);
  EXPECT_EQ(domain.disks[0].chain.Verdict(), LayerVerdict::kOk) << "the walk needs no turn";
  EXPECT_FALSE(domain.disks[0].probe.has_value());
  EXPECT_GE(world_.Now() - begin, ExplainOptions().turn_timeout);
  EXPECT_LT(world_.Now() - begin, ExplainOptions().turn_timeout + absl::Minutes(1));
}

TEST_F(ExplainTest, AWalkWithoutAProbeNeedsNoTurn) {
  const auto other = OtherOnTheStorage();
  const absl::Time begin = world_.Now();
  EXPECT_EQ(StatusOf(Run()), ExitStatus::kDone);
  EXPECT_EQ(world_.Now(), begin);
}

TEST_F(ExplainTest, WhatBeginsWhileAProbeWaitsIsSeen) {
  auto other = OtherOnTheStorage();
  domain_->agent.while_discarding = [] { ADD_FAILURE() << "a marker was written"; };
  const ExplainedDomain domain = ProbeInTurn([&] {
    domain_->activity = {{Reason::kFrozen, ""}};
    other.reset();
  });
  EXPECT_EQ(domain.outcome.reasons.at(0).reason, Reason::kFrozen);
  EXPECT_FALSE(domain.disks.at(0).probe.has_value());
}

TEST_F(ExplainTest, StopEndsTheWaitForATurn) {
  const auto other = OtherOnTheStorage();
  std::stop_source stop;
  ExplainOptions options;
  options.domains = {"web"};
  options.probe = true;
  options.waits = [&](const DomainSummary&) { stop.request_stop(); };
  const absl::Time begin = world_.Now();
  EXPECT_TRUE(absl::IsCancelled(Explain(world_.services(), options, stop.get_token()).status()));
  EXPECT_LT(world_.Now() - begin, absl::Seconds(1));
}

TEST_F(ExplainTest, APreallocatedImageIsNotThinnedByAProbe) {
  world_.images["/images/a.raw"].allocation = kGiB;
  const ExplainedDomain domain = Run("web", true);
  EXPECT_EQ(domain.disks.at(0).probe->reaches, std::nullopt);
  EXPECT_EQ(domain.disks.at(1).probe->reaches, true);
  EXPECT_EQ(world_.images["/images/a.raw"].allocation, kGiB);
}

TEST_F(ExplainTest, CheckpointsAreSaid) {
  domain_->snapshots.checkpoints = 3;
  EXPECT_EQ(Run().remarks, (std::vector<Blocker>{{Reason::kCheckpoints, "3"}}));
}

TEST_F(ExplainTest, StorageThatCannotPunchAndImagesElsewhere) {
  world_.can_punch = false;
  EXPECT_EQ(Run().disks.at(0).culprit->blocker.reason, Reason::kStorageCannotPunch);
  world_.images_are_local = false;
  domain_->block_usage["vda"] = domain_->block_usage["vdb"] = {kGiB, 600 * kMiB, kGiB};
  const ExplainedDomain domain = Run();
  EXPECT_FALSE(domain.disks.at(0).culprit.has_value());
  EXPECT_EQ(domain.disks.at(0).chain.Verdict(), LayerVerdict::kUnknown);
}

TEST_F(ExplainTest, AFilesystemOnTwoDisksIsProbedWhereItsMarkerLies) {
  GuestFilesystem both = FilesystemOn("vda", 5, "/", kGiB, 100 * kMiB);
  both.devices.push_back(FilesystemOn("vdb", 6, "/", kGiB, 0).devices.front());
  domain_->agent.facts.filesystems = {both};
  const ExplainedDomain domain = Run("web", true);
  EXPECT_EQ(domain.disks.at(0).probe->reaches, true);
  EXPECT_EQ(domain.disks.at(1).probe->reaches, std::nullopt) << "nothing was written to it";
}

TEST_F(ExplainTest, AMirrorWritesToBothDisks) {
  GuestFilesystem mirror = FilesystemOn("vda", 5, "/", kGiB, 100 * kMiB);
  mirror.devices.push_back(FilesystemOn("vdb", 6, "/", kGiB, 0).devices.front());
  GuestDevice md;
  md.name = "md0";
  md.kind = GuestDeviceKind::kMd;
  md.md_level = "raid1";
  md.parents = {mirror.devices.at(0).name, mirror.devices.at(1).name};
  mirror.devices.insert(mirror.devices.begin(), md);
  for (const auto& [level, known] : {std::pair{"raid1", true}, std::pair{"raid0", false}}) {
    mirror.devices.front().md_level = level;
    domain_->agent.facts.filesystems = {mirror};
    const ExplainedDomain domain = Run("web", true);
    EXPECT_EQ(domain.disks.at(0).probe->reaches, true) << level;
    // Its image did not grow: what is written there was allocated before, and stays so.
    EXPECT_EQ(domain.disks.at(1).probe->reaches, known ? std::optional<bool>(false) : std::nullopt)
        << level;
  }
}

// '/in' lies in a file of '/srv', which is on vdb.
class FileProbeTest : public ExplainTest {
 protected:
  FileProbeTest() {
    GuestFilesystem inner;
    inner.type = "ext4";
    inner.mount_points = {"/in"};
    inner.obstacle = GuestObstacle::kLoop;
    GuestDevice loop;
    loop.name = "loop0";
    loop.kind = GuestDeviceKind::kLoop;
    loop.backing_file = "/srv/images/in";
    loop.discard_max = kGiB;
    inner.devices = {loop};
    agent().facts.filesystems.push_back(inner);
    agent().image_of["/in"] = "/images/b.raw";
    agent().holder_of["/in"] = "/srv";
  }
  FakeAgent& agent() { return domain_->agent; }
  GuestFilesystem& holder() { return agent().facts.filesystems.at(1); }
  ProbedFile ProbeIt() {
    const ExplainedDomain domain = Run("web", true);
    EXPECT_EQ(domain.disks.at(0).probe->files.size(), 0u) << "it lies on the other disk";
    EXPECT_EQ(domain.disks.at(1).probe->reaches, true);
    return domain.disks.at(1).probe->files.at(0);
  }
};

TEST_F(FileProbeTest, TheHostGetsNothingBeforeTheHolderIsTrimmedToo) {
  const ProbedFile probed = ProbeIt();
  EXPECT_EQ(probed.mount_point, "/in");
  EXPECT_EQ(probed.holders, std::vector<std::string>{"/srv"});
  EXPECT_EQ(probed.reaches_holder, true);
  EXPECT_EQ(probed.reaches_host, false);
}

TEST_F(FileProbeTest, AHolderMountedWithDiscardPassesItOn) {
  holder().discard_option = true;
  const ProbedFile probed = ProbeIt();
  EXPECT_EQ(probed.reaches_holder, true);
  EXPECT_EQ(probed.reaches_host, true);
  EXPECT_EQ(probed.detail, "");
}

TEST_F(FileProbeTest, AFileThatGetsNoHoles) {
  agent().file_gets_holes = false;
  const ProbedFile probed = ProbeIt();
  EXPECT_EQ(probed.reaches_holder, false);
  EXPECT_EQ(probed.reaches_host, false);
  EXPECT_NE(probed.detail.find("/srv got back 0 B"), std::string::npos) << probed.detail;
}

TEST_F(FileProbeTest, ASmallFilesystemGetsASmallMarker) {
  agent().most_marker["/in"] = 4 * kMiB;
  EXPECT_EQ(ProbeIt().reaches_holder, true);
  agent().most_marker["/in"] = kMiB;
  const ProbedFile probed = ProbeIt();
  EXPECT_EQ(probed.reaches_holder, std::nullopt);
  EXPECT_NE(probed.detail.find("too little is free"), std::string::npos) << probed.detail;
}

TEST_F(FileProbeTest, WhatAnotherFreesOnTheImageOnceIsNoProof) {
  size_t discards = 0;
  agent().file_gets_holes = false;
  agent().while_discarding = [&] {
    auto& allocation = world_.images["/images/b.raw"].allocation;
    // The disk's own probe is the first two; then the file's two.
    if (++discards == 3) allocation = *allocation - 40 * kMiB;
  };
  ExplainOptions options;
  options.domains = {"web:vdb"};
  options.probe = true;
  const ExplainedDomain domain = Explain(world_.services(), options, {}).value().at(0);
  EXPECT_EQ(domain.disks.at(0).probe->files.at(0).reaches_host, std::nullopt);
  EXPECT_EQ(discards, 4u);
}

TEST_F(FileProbeTest, OnlyOfWhatIsExplained) {
  EXPECT_TRUE(Run("web:vda", true).disks.at(0).probe->files.empty());
  agent().facts.filesystems.back().obstacle = GuestObstacle::kReadOnly;  // a snap package
  EXPECT_TRUE(Run("web:vdb", true).disks.at(0).probe->files.empty());
}

TEST_F(FileProbeTest, AGuestWithThousandsOfThemCostsLittle) {
  const GuestFilesystem one = agent().facts.filesystems.back();
  for (int i = 0; i < 5000; ++i) {
    GuestFilesystem copy = one;
    copy.mount_points = {absl::StrCat("/in/", i)};
    agent().facts.filesystems.push_back(copy);
  }
  const absl::Time begin = world_.Now();
  const auto files = Run("web:vdb", true).disks.at(0).probe->files;
  EXPECT_LT(files.size(), 20u);
  EXPECT_EQ(files.back().reaches_holder, std::nullopt);
  EXPECT_NE(files.back().detail.find("too many"), std::string::npos);
  EXPECT_LT(world_.Now() - begin, absl::Minutes(5));
}

TEST_F(ExplainTest, QemuIsAskedOnlyWhenItIsWanted) {
  domain_->live_xml = absl::StrReplaceAll(
      domain_->live_xml, {{"<target dev='vda' bus='virtio'/>",
                           "<target dev='vda' bus='virtio'/><alias name='virtio-disk0'/>"}});
  domain_->device_properties["virtio-disk0.discard"] = 0;
  EXPECT_FALSE(Run().disks.at(0).culprit.has_value());
  EXPECT_EQ(world_.calls, std::vector<std::string>{});
  ExplainOptions options;
  options.domains = {"web"};
  options.ask_qemu = true;
  const ExplainedDomain domain = Explain(world_.services(), options, {}).value().at(0);
  EXPECT_EQ(domain.disks.at(0).culprit->blocker.reason, Reason::kDeviceDiscardOff);
  EXPECT_FALSE(domain.disks.at(1).culprit.has_value()) << "it has no alias";
  EXPECT_EQ(world_.calls, std::vector<std::string>{"ask QEMU of web"});
  domain_->summary.state = DomainState::kShutOff;
  EXPECT_TRUE(Explain(world_.services(), options, {}).ok());
  EXPECT_EQ(world_.calls.size(), 1u);
}

TEST_F(ExplainTest, AProbeLooksAtTheDataFile) {
  const std::string image = domain_->agent.image_of.at("/");
  world_.AddImage("/data/web.data", kGiB, 600 * kMiB);
  world_.images[image].allocation = kMiB;
  world_.data_files[image] = "/data/web.data";
  domain_->agent.image_of["/"] = "/data/web.data";
  EXPECT_EQ(Run("web", true).disks.at(0).probe->reaches, true);
  world_.data_files[image] = "";
  EXPECT_EQ(Run("web", true).disks.at(0).probe->reaches, std::nullopt);
}

TEST_F(ExplainTest, StopEndsIt) {
  std::stop_source stop;
  stop.request_stop();
  ExplainOptions options;
  options.domains = {"web"};
  EXPECT_TRUE(absl::IsCancelled(Explain(world_.services(), options, stop.get_token()).status()));
}

}  // namespace
}  // namespace virt_reclaim
