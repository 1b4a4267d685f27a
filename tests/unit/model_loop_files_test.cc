// Which filesystems of a guest lie in files, and of which disk.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/byte_size.h"
#include "host/model/loop_files.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class LoopFilesTest : public testing::Test {
 protected:
  GuestFilesystem& OnDisk(const std::string& mount_point, const std::string& disk) {
    GuestDevice device;
    device.name = disk;
    device.is_disk = true;
    return AddTo(mount_point, GuestObstacle::kNone, {device});
  }
  GuestFilesystem& InFiles(const std::string& mount_point, const std::vector<std::string>& files) {
    std::vector<GuestDevice> loops;
    for (const std::string& file : files) {
      GuestDevice& loop = loops.emplace_back();
      loop.name = absl::StrCat("loop", loops_++);
      loop.kind = GuestDeviceKind::kLoop;
      loop.backing_file = file;
    }
    return AddTo(mount_point, GuestObstacle::kLoop, loops);
  }
  // "/in <- /srv" of those on vda.
  std::vector<std::string> Found() const {
    std::vector<std::string> found;
    for (const FilesystemInFile& file : FilesystemsInFiles(guest_, {{"sda", "vda"}}, "vda")) {
      found.push_back(absl::StrCat(file.mount_point, " <- ", absl::StrJoin(file.holders, " "),
                                   file.holders_discard ? " discard" : ""));
    }
    return found;
  }

  GuestFacts guest_;

 private:
  GuestFilesystem& AddTo(const std::string& mount_point, GuestObstacle obstacle,
                         std::vector<GuestDevice> devices) {
    GuestFilesystem& filesystem = guest_.filesystems.emplace_back();
    filesystem.mount_points = {mount_point};
    filesystem.obstacle = obstacle;
    filesystem.devices = std::move(devices);
    return filesystem;
  }

  int loops_ = 0;
};

TEST_F(LoopFilesTest, InTheFilesystemThatIsMountedLongestAlongThePath) {
  OnDisk("/", "sda");
  OnDisk("/srv", "sdb");
  InFiles("/a", {"/srv/a"});
  InFiles("/b", {"/srvb"});
  InFiles("/c", {"/home/x/c"});
  EXPECT_THAT(Found(), ElementsAre("/b <- /", "/c <- /"));
}

TEST_F(LoopFilesTest, FilesInFilesAndOnesThatGoInCircles) {
  OnDisk("/srv", "sda");
  InFiles("/a", {"/srv/a"});
  InFiles("/a/b", {"/a/file"});
  InFiles("/x", {"/y/file"});
  InFiles("/y", {"/x/file"});
  EXPECT_THAT(Found(), ElementsAre("/a <- /srv", "/a/b <- /a"));
}

TEST_F(LoopFilesTest, AllThatHoldAPartOfItCount) {
  OnDisk("/srv", "sda");
  OnDisk("/other", "sdb");
  InFiles("/both", {"/srv/1", "/other/2", "/srv/3"});
  InFiles("/elsewhere", {"/other/1", "/nowhere/2"});
  EXPECT_THAT(Found(), ElementsAre("/both <- /other /srv"));
}

TEST_F(LoopFilesTest, OnlyWhereAllThatHoldItAreMountedWithDiscard) {
  OnDisk("/srv", "sda").discard_option = true;
  OnDisk("/more", "sda").discard_option = false;
  InFiles("/a", {"/srv/a"});
  InFiles("/b", {"/srv/b", "/more/b"});
  EXPECT_THAT(Found(), ElementsAre("/a <- /srv discard", "/b <- /more /srv"));
}

TEST_F(LoopFilesTest, WhatCannotBeTrimmedOrIsNotMountedIsLeftOut) {
  OnDisk("/srv", "sda");
  InFiles("/snap", {"/srv/snap"}).obstacle = GuestObstacle::kTypeNotSupported;
  InFiles("/gone", {"/srv/gone"}).mount_points.clear();
  InFiles("/none", {});
  EXPECT_THAT(Found(), IsEmpty());
}

}  // namespace
}  // namespace virt_reclaim
