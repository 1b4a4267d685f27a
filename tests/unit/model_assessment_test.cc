#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/byte_size.h"
#include "host/model/assessment.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> Codes(const Assessment& assessment) {
  std::vector<std::string> codes;
  for (const Blocker& blocker : assessment.blockers) codes.emplace_back(Code(blocker.reason));
  return codes;
}

xml::Domain Domain(const std::string& machine) {
  xml::Domain domain;
  domain.type = "kvm";
  domain.arch = "x86_64";
  domain.machine = machine;
  return domain;
}

DiskFacts Disk(const std::string& bus, const std::string& discard) {
  DiskFacts disk;
  disk.xml.target = "vda";
  disk.xml.bus = bus;
  disk.xml.device = "disk";
  disk.xml.discard = discard;
  disk.xml.source = {"file", "raw", "/images/a.raw"};
  disk.usage = {kGiB, 600 * kMiB, kGiB};
  return disk;
}

TEST(Assess, NothingStandsInTheWayOfAModernDisk) {
  EXPECT_THAT(Codes(Assess(Domain("pc-q35-7.2"), Disk("virtio", "unmap"))), IsEmpty());
}

TEST(Assess, OldMachineAndIgnoredDiscardAreBothNamed) {
  EXPECT_THAT(Codes(Assess(Domain("pc-i440fx-3.1"), Disk("virtio", ""))),
              ElementsAre("machine-too-old", "discard-ignored"));
}

TEST(Assess, OldMachineDoesNotMatterForOtherBuses) {
  EXPECT_THAT(Codes(Assess(Domain("pc-i440fx-3.1"), Disk("sata", "unmap"))), IsEmpty());
  EXPECT_THAT(Codes(Assess(Domain("pc-i440fx-7.2"), Disk("usb", "unmap"))),
              ElementsAre("bus-drops-discard"));
}

TEST(Assess, WhatInternalSnapshotsKeepIsNotPromised) {
  DiskFacts disk = Disk("virtio", "unmap");
  disk.xml.source.format = "qcow2";
  ImageFile image;
  image.usage = disk.usage;
  image.internal_snapshots = 2;
  disk.chain = {image};
  disk.guest = GuestDiskUse{100 * kMiB, 900 * kMiB, 0, GuestObstacle::kNone, ""};
  for (const bool exact : {false, true}) {
    if (exact) disk.free_and_allocated = 500 * kMiB;
    const Assessment assessment = Assess(Domain("pc-q35-7.2"), disk);
    EXPECT_EQ(assessment.reclaimable, std::nullopt);
    EXPECT_EQ(assessment.held, 500 * kMiB);
    EXPECT_THAT(Codes(assessment), ElementsAre("internal-snapshots"));
  }
  disk.chain[0].internal_snapshots = 0;
  EXPECT_EQ(Assess(Domain("pc-q35-7.2"), disk).reclaimable, 500 * kMiB);
}

TEST(Assess, GuestsRefusalIsNotRepeatedWhenTheHostExplainsIt) {
  DiskFacts disk = Disk("virtio", "unmap");
  disk.guest = GuestDiskUse{0, 0, 0, GuestObstacle::kDiskNotSupported, "vda"};
  EXPECT_THAT(Codes(Assess(Domain("pc-i440fx-3.1"), disk)), ElementsAre("machine-too-old"));
  EXPECT_THAT(Codes(Assess(Domain("pc-i440fx-7.2"), disk)), ElementsAre("guest-not-supported"));
  disk.guest->obstacle = GuestObstacle::kDmCrypt;
  EXPECT_THAT(Codes(Assess(Domain("pc-i440fx-3.1"), disk)),
              ElementsAre("machine-too-old", "dm-crypt"));
}

TEST(Assess, CopiesThatAreNotFinishedAreNamed) {
  DiskFacts disk = Disk("virtio", "unmap");
  disk.chain.resize(1);
  EXPECT_THAT(Codes(Assess(Domain("pc-q35-7.2"), disk)), IsEmpty());
  disk.chain[0].unfinished_copy = true;
  EXPECT_THAT(Codes(Assess(Domain("pc-q35-7.2"), disk)), ElementsAre("unfinished-copy"));
}

TEST(Assess, ImageTroubleIsNamed) {
  DiskFacts disk = Disk("virtio", "unmap");
  disk.image_error = absl::NotFoundError("gone");
  EXPECT_THAT(Codes(Assess(Domain("pc-q35-7.2"), disk)), ElementsAre("image-missing"));
  disk.image_error = absl::PermissionDeniedError("no");
  EXPECT_THAT(Codes(Assess(Domain("pc-q35-7.2"), disk)), ElementsAre("image-unreadable"));
  disk.image_error = absl::OkStatus();
  disk.xml.source = {"network", "raw", "rbd:pool/image"};
  EXPECT_THAT(Codes(Assess(Domain("pc-q35-7.2"), disk)), ElementsAre("no-local-image"));
  disk.image_error =
      absl::FailedPreconditionError("libvirt asks no server for a domain that is off");
  EXPECT_THAT(Codes(Assess(Domain("pc-q35-7.2"), disk)), ElementsAre("no-local-image"));
  disk.xml.source.path.clear();
  EXPECT_THAT(Codes(Assess(Domain("pc-q35-7.2"), disk)), ElementsAre("no-medium"));
  disk.xml.device = "cdrom";
  EXPECT_THAT(Codes(Assess(Domain("pc-q35-7.2"), disk)), ElementsAre("not-a-disk"));
}

TEST(Assess, EstimateNeverPromisesWhatIsInUseOrUnknown) {
  DiskFacts disk = Disk("virtio", "unmap");
  EXPECT_EQ(Assess(Domain("pc-q35-7.2"), disk).reclaimable, std::nullopt);  // no guest asked
  disk.guest = GuestDiskUse{100 * kMiB, 900 * kMiB, 24 * kMiB, GuestObstacle::kNone, ""};
  EXPECT_EQ(Assess(Domain("pc-q35-7.2"), disk).reclaimable, 476 * kMiB);  // 600 - 100 - 24
  disk.guest->unknown = 700 * kMiB;  // an unmounted partition may be all of it
  EXPECT_EQ(Assess(Domain("pc-q35-7.2"), disk).reclaimable, 0u);
  disk.guest->unknown = 0;
  disk.guest->free = 10 * kMiB;
  EXPECT_EQ(Assess(Domain("pc-q35-7.2"), disk).reclaimable, 10 * kMiB);
  disk.guest->used = UINT64_MAX;  // the guest may say anything
  disk.guest->unknown = UINT64_MAX;
  EXPECT_EQ(Assess(Domain("pc-q35-7.2"), disk).reclaimable, 0u);
}

}  // namespace
}  // namespace virt_reclaim
