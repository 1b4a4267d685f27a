#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "host/commands/report.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

// 500 MiB could come back from it.
FakeDomain& AddWeb(FakeWorld& world) {
  world.AddImage("/images/a.raw", kGiB, 600 * kMiB);
  FakeDomain& domain =
      world.AddDomain(DomainXml("web", kUuid, "pc-q35-7.2",
                                {{"vda", "virtio", "/images/a.raw", "unmap"}}, "connected"),
                      DomainState::kRunning);
  domain.agent.facts.filesystems = {FilesystemOn("vda", 5, "/", kGiB, 100 * kMiB)};
  return domain;
}

TEST(MakeReport, ShowsHostAndGuestSideBySide) {
  FakeWorld world;
  world.AddImage("/images/a.raw", kGiB, 600 * kMiB);
  FakeDomain& domain =
      world.AddDomain(DomainXml("web", kUuid, "pc-i440fx-3.1",
                                {{"vda", "virtio", "/images/a.raw", ""}}, "connected"),
                      DomainState::kRunning);
  domain.agent.facts.filesystems = {FilesystemOn("vda", 5, "/", kGiB, 100 * kMiB)};
  const Report report = MakeReport(world.services(), {}, {}).value();
  ASSERT_EQ(report.domains.size(), 1u);
  const ReportedDisk& disk = report.domains[0].disks.at(0);
  EXPECT_EQ(disk.facts.usage.capacity, kGiB);
  EXPECT_EQ(disk.facts.usage.allocation, 600 * kMiB);
  EXPECT_EQ(disk.facts.guest->used, 100 * kMiB);
  EXPECT_EQ(disk.assessment.reclaimable, 500 * kMiB);
  EXPECT_EQ(disk.assessment.blockers.size(), 2u);
  EXPECT_EQ(report.total.reclaimable, 500 * kMiB);
  EXPECT_EQ(report.total.disks_with_guest, 1u);
}

TEST(MakeReport, AGuestThatIsSlowToListIsKnown) {
  FakeWorld world;
  FakeDomain& domain = AddWeb(world);
  const auto known = [&] {
    return MakeReport(world.services(), {}, {}).value().total.disks_with_guest;
  };
  domain.agent.listing_takes = kListingTimeout;
  EXPECT_EQ(known(), 1u);
  domain.agent.listing_takes = kListingTimeout + absl::Seconds(1);
  EXPECT_EQ(known(), 0u);
}

TEST(MakeReport, BothMapsAreCompared) {
  FakeWorld world;
  FakeDomain& domain = AddWeb(world);
  const auto disk = [&](bool exact) {
    ReportOptions options;
    options.exact = exact;
    const Report report = MakeReport(world.services(), options, {}).value();
    const ReportedDisk& first = report.domains[0].disks.at(0);
    EXPECT_EQ(report.total.disks_exact, first.facts.free_and_allocated ? 1 : 0);
    return first;
  };
  EXPECT_EQ(disk(true).assessment.from, ReclaimableFrom::kStatfs) << "the guest has no map";
  domain.agent.free_maps["/"] = {"vda", {{10 * kMiB, 30 * kMiB}, {500 * kMiB, 1000 * kMiB}}};
  EXPECT_EQ(disk(true).assessment.from, ReclaimableFrom::kStatfs) << "the image has none";
  world.allocated["/images/a.raw"] = {{0, 15 * kMiB}, {25 * kMiB, 525 * kMiB}};
  EXPECT_EQ(disk(true).assessment.reclaimable, (5 + 5 + 25) * kMiB);
  EXPECT_EQ(disk(true).assessment.from, ReclaimableFrom::kFreeMap);
  EXPECT_EQ(disk(false).assessment.reclaimable, 500 * kMiB) << "nobody asked";
  // The host's filesystem compresses: no more can come back than the image occupies.
  world.images.at("/images/a.raw").allocation = 12 * kMiB;
  EXPECT_EQ(disk(true).assessment.reclaimable, 12 * kMiB);
  world.images.at("/images/a.raw").allocation = 600 * kMiB;
  // A guest that takes its time.
  domain.agent.free_map_takes = absl::Seconds(61);
  domain.agent.facts.filesystems.push_back(FilesystemOn("vda", 5, "/data", kMiB, kMiB));
  domain.agent.free_maps["/data"] = {"vda", {{1001 * kMiB, 1002 * kMiB}}};
  EXPECT_EQ(disk(true).assessment.from, ReclaimableFrom::kStatfs) << "60 s for all of them";
  domain.agent.free_map_takes = absl::Seconds(25);
  EXPECT_EQ(disk(true).assessment.from, ReclaimableFrom::kFreeMap);
  domain.agent.facts.filesystems.pop_back();
  domain.agent.free_maps.erase("/data");
  // Another filesystem of the same disk that does not tell.
  domain.agent.facts.filesystems.push_back(FilesystemOn("vda", 5, "/data", kMiB, kMiB));
  EXPECT_EQ(disk(true).assessment.from, ReclaimableFrom::kStatfs);
  domain.agent.free_maps["/data"] = {"vda", {{505 * kMiB, 506 * kMiB}}};
  EXPECT_EQ(disk(true).assessment.from, ReclaimableFrom::kStatfs) << "they cannot overlap";
  domain.agent.free_maps["/data"] = {"vdb", {{1000 * kMiB, 1001 * kMiB}}};
  EXPECT_EQ(disk(true).assessment.from, ReclaimableFrom::kStatfs) << "that is another disk";
}

TEST(MakeReport, StoppedGuestsAreReadFromTheirDisks) {
  FakeWorld world;
  world.AddImage("/images/a.raw", kGiB, 600 * kMiB);
  world.AddDomain(
      DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", "/images/a.raw", "unmap"}}, ""),
      DomainState::kShutOff);
  sparsify::SparsifyResult found;
  found.disks.emplace_back().size_bytes = kGiB;
  found.disks[0].reclaimable_bytes = 450 * kMiB;
  freemap::Filesystem& filesystem = found.filesystems.emplace_back().found;
  filesystem.type = "ext4";
  filesystem.facts.size_bytes = 1000 * kMiB;
  filesystem.free_bytes = 900 * kMiB;
  world.sparsify = found;
  ReportOptions options;
  EXPECT_EQ(MakeReport(world.services(), options, {}).value().total.disks_with_guest, 0u);
  options.exact = true;
  const Report report = MakeReport(world.services(), options, {}).value();
  const ReportedDisk& disk = report.domains[0].disks.at(0);
  EXPECT_EQ(disk.assessment.reclaimable, 450 * kMiB);
  EXPECT_EQ(disk.assessment.from, ReclaimableFrom::kFreeMap);
  EXPECT_EQ(disk.facts.guest->used, 100 * kMiB);
  EXPECT_EQ(disk.facts.guest->unknown, 24 * kMiB);
  EXPECT_EQ(report.total.reclaimable, 450 * kMiB);
  EXPECT_EQ(report.total.disks_exact, 1u);
  EXPECT_THAT(world.calls, testing::IsEmpty());

  world.sparsify->filesystems[0].found.refusal = freemap::Refusal::kDirtyJournal;
  EXPECT_EQ(MakeReport(world.services(), options, {}).value().total.disks_with_guest, 0u);
  world.sparsify = absl::UnimplementedError("no holes there");
  EXPECT_EQ(MakeReport(world.services(), options, {}).value().total.disks_exact, 0u);
}

TEST(MakeReport, SharedImageCountsOnceAndUnknownIsNotZero) {
  FakeWorld world;
  world.AddImage("/images/a.raw", kGiB, 600 * kMiB);
  world.AddDomain(
      DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", "/images/a.raw", "unmap"}}, ""),
      DomainState::kShutOff);
  world.AddDomain(DomainXml("web2", kUuid2, "pc-q35-7.2",
                            {{"vda", "virtio", "/images/a.raw", "unmap"},
                             {"vdb", "virtio", "/images/gone.raw", "unmap"}},
                            ""),
                  DomainState::kShutOff);
  const Report report = MakeReport(world.services(), {}, {}).value();
  EXPECT_EQ(report.total.allocation, 600 * kMiB);
  EXPECT_EQ(report.total.disks, 3u);
  EXPECT_EQ(report.total.disks_with_guest, 0u);
  const ReportedDisk& missing = report.domains[1].disks.at(1);
  EXPECT_EQ(missing.facts.usage.allocation, std::nullopt);
  EXPECT_EQ(missing.assessment.blockers.at(0).reason, Reason::kImageMissing);
  EXPECT_EQ(report.domains[0].agent, std::nullopt);  // off: nobody to ask
}

// Overlays of one base, and a disk that two domains share.
TEST(MakeReport, WhatSeveralDisksShareIsPromisedOnce) {
  FakeWorld world;
  world.AddImage("/images/base.qcow2", kGiB, 500 * kMiB);
  const auto add = [&](const std::string& name, const std::string& uuid, const std::string& image,
                       bool overlay) {
    std::string xml =
        DomainXml(name, uuid, "pc-q35-7.2", {{"vda", "virtio", image, "unmap"}}, "connected");
    const std::string source = absl::StrCat("<source file='", image, "'/>");
    if (overlay)
      xml.replace(xml.find(source), source.size(),
                  source +
                      "<backingStore type='file'><format type='raw'/><source "
                      "file='/images/base.qcow2'/><backingStore/></backingStore>");
    world.AddDomain(xml, DomainState::kRunning).agent.facts.filesystems = {
        FilesystemOn("vda", 5, "/", kGiB, 100 * kMiB)};
  };
  world.AddImage("/images/a.raw", kGiB, 80 * kMiB);
  world.AddImage("/images/b.raw", kGiB, 60 * kMiB);
  add("a", kUuid, "/images/a.raw", true);
  add("b", kUuid2, "/images/b.raw", true);
  // Below an overlay nothing comes free, so that each promises no more than it holds itself.
  Report report = MakeReport(world.services(), {}, {}).value();
  EXPECT_EQ(report.total.allocation, 640 * kMiB);
  EXPECT_EQ(report.total.reclaimable, 140 * kMiB);
  // The least that anybody says of it counts.
  world.AddImage("/images/shared.raw", kGiB, 600 * kMiB);
  add("c", "33333333-2222-3333-4444-555555555555", "/images/shared.raw", false);
  add("d", "44444444-2222-3333-4444-555555555555", "/images/shared.raw", false);
  world.domains.at("44444444-2222-3333-4444-555555555555").agent.facts.filesystems = {
      FilesystemOn("vda", 5, "/", kGiB, 200 * kMiB)};
  report = MakeReport(world.services(), {}, {}).value();
  EXPECT_EQ(report.total.allocation, 1240 * kMiB);
  EXPECT_EQ(report.total.reclaimable, 540 * kMiB);
}

TEST(MakeReport, SilentGuestIsARemarkNotAFailure) {
  FakeWorld world;
  world.AddImage("/images/a.raw", kGiB, 600 * kMiB);
  world
      .AddDomain(DomainXml("web", kUuid, "pc-q35-7.2",
                           {{"vda", "virtio", "/images/a.raw", "unmap"}}, "connected"),
                 DomainState::kRunning)
      .agent.connect = absl::DeadlineExceededError("no agent answered");
  const Report report = MakeReport(world.services(), {}, {}).value();
  EXPECT_EQ(report.domains[0].agent->reason, Reason::kAgentSilent);
  EXPECT_EQ(report.domains[0].outcome.kind, OutcomeKind::kDone);
  EXPECT_EQ(report.domains[0].disks.at(0).facts.usage.allocation, 600 * kMiB);
}

TEST(MakeReport, DomainWithoutDisksAndDomainWithBrokenXml) {
  FakeWorld world;
  world.AddDomain(DomainXml("empty", kUuid, "pc-q35-7.2", {}, ""), DomainState::kShutOff);
  FakeDomain& broken =
      world.AddDomain(DomainXml("broken", kUuid2, "pc-q35-7.2", {}, ""), DomainState::kShutOff);
  broken.inactive_xml = broken.live_xml = "<domain";
  const Report report = MakeReport(world.services(), {}, {}).value();
  EXPECT_EQ(report.domains[0].outcome.kind, OutcomeKind::kFailed);  // sorted by name: broken, empty
  EXPECT_EQ(report.domains[1].outcome.reasons.at(0).reason, Reason::kNoDisks);
}

TEST(MakeReport, NotLocalImagesAreLibvirtsWord) {
  FakeWorld world;
  world.images_are_local = false;
  FakeDomain& domain = world.AddDomain(
      DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", "/images/a.raw", "unmap"}}, ""),
      DomainState::kShutOff);
  domain.block_usage["vda"] = {kGiB, kMiB, kGiB};
  const Report report = MakeReport(world.services(), {}, {}).value();
  EXPECT_EQ(report.domains[0].disks.at(0).facts.usage.allocation, kMiB);
}

}  // namespace
}  // namespace virt_reclaim
