// What a guest makes up about its filesystems and devices, to keep us busy or to fill our output.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>

#include "tests/unit/discard_chain_world.h"

namespace virt_reclaim {
namespace {

// As much as fits into one message of a guest that wants to keep us busy.
TEST(DiscardChain, AGuestThatMakesUpAThousandThingsCostsNoTime) {
  World world;
  world.facts.guest->filesystems.clear();
  for (int i = 0; i < 4096; ++i) {
    GuestDevice loop = Device(absl::StrCat("loop", i), GuestDeviceKind::kLoop, kGiB, {});
    loop.backing_file = absl::StrCat("/m/", i + 1, std::string(200, '/'), "f");
    GuestFilesystem filesystem = Filesystem(absl::StrCat("/m/", i), {loop});
    for (int j = 0; j < 60; ++j) filesystem.mount_points.push_back(absl::StrCat("/", i, "/", j));
    if (i % 2 == 1) filesystem.devices.push_back(GuestDisk("vda", 5));
    world.facts.guest->filesystems.push_back(filesystem);
  }
  for (int i = 0; i < 80; ++i) {  // every device above every other
    GuestFilesystem filesystem = Filesystem("/x", {GuestDisk("vda", 5)});
    std::vector<std::string> names{"vda"};
    for (int j = 0; j < 63; ++j) names.push_back(absl::StrCat("dm-", i, "-", j));
    for (const std::string& name : names)
      filesystem.devices.push_back(Device(name, GuestDeviceKind::kDmOther, 0, names));
    world.facts.guest->filesystems.push_back(filesystem);
  }
  // Of the processor, whatever else the machine is at.
  const std::clock_t begin = std::clock();
  const DiscardChain chain = world.Judge();
  EXPECT_LE((std::clock() - begin) / CLOCKS_PER_SEC, 20) << "seconds, with any sanitizer";
  EXPECT_LE(chain.layers.size(), 700u);
  EXPECT_EQ(chain.Verdict(), LayerVerdict::kDrops);
}

TEST(DiscardChain, OfTooManyLayersTheWorstAreKept) {
  World world;
  for (int i = 0; i < 1000; ++i) {
    world.facts.guest->filesystems.push_back(
        Filesystem(absl::StrCat("/", i), {GuestDisk("vda", 5)}));
  }
  world.facts.guest->filesystems.back().obstacle = GuestObstacle::kReadOnly;
  EXPECT_EQ(world.Culprit(), "filesystem partly read-only");
  const std::vector<Layer> layers = world.Judge().layers;
  EXPECT_EQ(layers.at(0).name, "/999");
  EXPECT_EQ(layers.at(200).name, "(801 more)");
  EXPECT_EQ(layers.at(201).kind, LayerKind::kGuestDisk);
}

}  // namespace
}  // namespace virt_reclaim
