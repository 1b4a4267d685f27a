#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

TEST(ImageJudgeTest, AnImageThatHasNeverBeenFullIsThinnedWithoutAsking) {
  const auto judgement = JudgeImage(Disk(10 * kGiB, 10 * kGiB - 4096), true, false);
  EXPECT_EQ(judgement.refusal, std::nullopt);
  EXPECT_THAT(judgement.risks, IsEmpty());
}

TEST(ImageJudgeTest, APreallocatedOneOnlyWhenTold) {
  for (const uint64_t allocation : {10 * kGiB, 10 * kGiB + 4096}) {
    const auto judgement = JudgeImage(Disk(10 * kGiB, allocation), true, false);
    ASSERT_TRUE(judgement.refusal);
    EXPECT_EQ(judgement.refusal->reason, Reason::kThickImage);
    EXPECT_EQ(JudgeImage(Disk(10 * kGiB, allocation), true, true).refusal, std::nullopt);
  }
  DiskFacts unknown = Disk(10 * kGiB, 10 * kGiB);
  // Of a format that we do not read, libvirt knows the capacity.
  unknown.chain[0].usage.capacity = std::nullopt;
  EXPECT_TRUE(JudgeImage(unknown, true, false).refusal);
  unknown.usage.capacity = std::nullopt;
  EXPECT_EQ(JudgeImage(unknown, true, false).refusal, std::nullopt);
}

TEST(ImageJudgeTest, StorageThatCannotPunchGivesNothing) {
  const auto judgement = JudgeImage(Disk(10 * kGiB, kGiB), false, true);
  ASSERT_TRUE(judgement.refusal);
  EXPECT_EQ(judgement.refusal->reason, Reason::kStorageCannotPunch);
  EXPECT_EQ(JudgeImage(Disk(10 * kGiB, kGiB), std::nullopt, true).refusal, std::nullopt);
}

TEST(ImageJudgeTest, WhatKeepsSpaceIsSaid) {
  const auto has = [](Reason reason) { return Contains(Field(&Blocker::reason, reason)); };
  DiskFacts disk = Disk(10 * kGiB, kGiB);
  disk.chain[0].internal_snapshots = 2;
  disk.chain[0].granularity = 2 * kMiB;
  disk.chain.push_back(disk.chain[0]);
  const auto judgement = JudgeImage(disk, true, false);
  EXPECT_EQ(judgement.refusal, std::nullopt);
  EXPECT_THAT(judgement.risks, has(Reason::kInternalSnapshots));
  EXPECT_THAT(judgement.risks, has(Reason::kOverlay));
  EXPECT_THAT(judgement.risks, has(Reason::kLargeClusters));
  DiskFacts block;
  block.xml.source = {"block", "qcow2", "/dev/vg/a"};
  EXPECT_THAT(JudgeImage(block, std::nullopt, false).risks, has(Reason::kQcow2OnBlockDevice));
}

}  // namespace
}  // namespace virt_reclaim
