#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "host/model/image_judge.h"

namespace virt_reclaim {
namespace {

using testing::Contains;
using testing::Field;
using testing::IsEmpty;

DiskFacts Disk(uint64_t capacity, uint64_t allocation) {
  DiskFacts disk;
  disk.xml.target = "vda";
  ImageFile image;
  image.path = "/images/a.qcow2";
  image.usage = {capacity, allocation, allocation};
  disk.chain = {image};
  disk.usage = image.usage;
  return disk;
}

ImageStorage Storage(bool punches) {
  ImageStorage storage;
  storage.punches = punches;
  return storage;
}

TEST(ImageJudgeTest, AnImageThatHasNeverBeenFullIsThinnedWithoutAsking) {
  const auto judgement = JudgeImage(Disk(10 * kGiB, 10 * kGiB - 4096), Storage(true), false);
  EXPECT_EQ(judgement.refusal, std::nullopt);
  EXPECT_THAT(judgement.risks, IsEmpty());
}

TEST(ImageJudgeTest, APreallocatedOneOnlyWhenTold) {
  for (const uint64_t allocation : {10 * kGiB, 10 * kGiB + 4096}) {
    const auto judgement = JudgeImage(Disk(10 * kGiB, allocation), Storage(true), false);
    ASSERT_TRUE(judgement.refusal);
    EXPECT_EQ(judgement.refusal->reason, Reason::kThickImage);
    EXPECT_EQ(JudgeImage(Disk(10 * kGiB, allocation), Storage(true), true).refusal, std::nullopt);
  }
  DiskFacts unknown = Disk(10 * kGiB, 10 * kGiB);
  // Of a format that we do not read, libvirt knows the capacity.
  unknown.chain[0].usage.capacity = std::nullopt;
  EXPECT_TRUE(JudgeImage(unknown, Storage(true), false).refusal);
  unknown.usage.capacity = std::nullopt;
  EXPECT_EQ(JudgeImage(unknown, Storage(true), false).refusal, std::nullopt);
}

TEST(ImageJudgeTest, StorageThatCannotPunchGivesNothing) {
  const auto judgement = JudgeImage(Disk(10 * kGiB, kGiB), Storage(false), true);
  ASSERT_TRUE(judgement.refusal);
  EXPECT_EQ(judgement.refusal->reason, Reason::kStorageCannotPunch);
  EXPECT_EQ(JudgeImage(Disk(10 * kGiB, kGiB), {}, true).refusal, std::nullopt);
}

HostDevice OnHost(const std::string& name, std::optional<uint64_t> discard_max,
                  std::vector<std::string> parents = {}) {
  HostDevice device;
  device.name = name;
  device.parents = std::move(parents);
  device.discard_max = discard_max;
  return device;
}

TEST(ImageJudgeTest, ABlockDeviceIsJudgedByItsLimits) {
  struct Case {
    const char* what;
    std::vector<HostDevice> devices;
    const char* refused_for;  // empty: not refused
    const char* risk;         // empty: none
  };
  std::vector<HostDevice> thin = {OnHost("dm-1", kMiB, {"dm-2"}), OnHost("dm-2", 0, {"sda"}),
                                  OnHost("sda", 0)};
  thin[0].dm_uuid = "LVM-volume";
  thin[1].dm_uuid = "LVM-pool-tpool";
  std::vector<HostDevice> coarse = thin;
  coarse[0].discard_granularity = kMiB;
  std::vector<HostDevice> crypt = {OnHost("dm-0", 0, {"sda"}), OnHost("sda", kGiB)};
  crypt[0].dm_name = "secret";
  crypt[0].dm_uuid = "CRYPT-LUKS2-abc";
  const std::vector<Case> cases = {
      {"takes them", {OnHost("sda", kGiB)}, "", ""},
      {"takes none", {OnHost("sda", 0)}, "sda", ""},
      {"what it lies on takes none", {OnHost("dm-0", 0, {"sda"}), OnHost("sda", 0)}, "sda", ""},
      {"dm-crypt takes none", crypt, "secret (dm-0), dm-crypt without allow-discards", ""},
      {"a leg takes none",
       {OnHost("md0", kGiB, {"sda", "sdb"}), OnHost("sda", kGiB), OnHost("sdb", 0)},
       "",
       "storage-cannot-punch: sdb"},
      {"a thin volume, whatever lies below its pool", thin, "", ""},
      {"a thin volume of large chunks", coarse, "", "large-clusters: dm-1: chunks of 1.0 MiB"},
      {"sysfs does not say", {OnHost("sda", std::nullopt)}, "", ""},
      {"not in sysfs", {}, "", ""},
  };
  DiskFacts disk;
  disk.xml.target = "vda";
  disk.xml.source = {"block", "raw", "/dev/vg/a"};
  for (const Case& one : cases) {
    ImageStorage storage;
    storage.devices = one.devices;
    const auto judgement = JudgeImage(disk, storage, /*allow_thick=*/true);
    EXPECT_EQ(judgement.refusal.has_value(), *one.refused_for != '\0') << one.what;
    if (judgement.refusal) {
      EXPECT_EQ(judgement.refusal->reason, Reason::kStorageCannotPunch) << one.what;
      EXPECT_EQ(judgement.refusal->detail, one.refused_for) << one.what;
    }
    std::string risk;
    for (const Blocker& blocker : judgement.risks)
      absl::StrAppend(&risk, Code(blocker.reason), ": ", blocker.detail);
    EXPECT_EQ(risk, one.risk) << one.what;
  }
}

TEST(ImageJudgeTest, WhatKeepsSpaceIsSaid) {
  const auto has = [](Reason reason) { return Contains(Field(&Blocker::reason, reason)); };
  DiskFacts disk = Disk(10 * kGiB, kGiB);
  disk.chain[0].internal_snapshots = 2;
  disk.chain[0].granularity = 2 * kMiB;
  disk.chain.push_back(disk.chain[0]);
  const auto judgement = JudgeImage(disk, Storage(true), false);
  EXPECT_EQ(judgement.refusal, std::nullopt);
  EXPECT_THAT(judgement.risks, has(Reason::kInternalSnapshots));
  EXPECT_THAT(judgement.risks, has(Reason::kOverlay));
  EXPECT_THAT(judgement.risks, has(Reason::kLargeClusters));
  DiskFacts block;
  block.xml.source = {"block", "qcow2", "/dev/vg/a"};
  EXPECT_THAT(JudgeImage(block, {}, false).risks, has(Reason::kQcow2OnBlockDevice));
  block.xml.discard_no_unref = "off";
  EXPECT_THAT(JudgeImage(block, {}, false).risks, has(Reason::kQcow2OnBlockDevice));
  block.xml.discard_no_unref = "on";  // the clusters stay where they are
  EXPECT_THAT(JudgeImage(block, {}, false).risks, IsEmpty());
}

}  // namespace
}  // namespace virt_reclaim
