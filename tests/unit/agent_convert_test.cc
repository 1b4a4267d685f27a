// Messages to the host: always valid, always below the contract's limits.
#include <gmock/gmock.h>

#include "guest-agent/convert.h"

namespace virt_reclaim::agent {
namespace {

using ::testing::SizeIs;

constexpr size_t kMessageLimit = size_t{1} << 20;

TEST(ConvertTest, InvalidUtf8IsEscapedSoThatTheMessageSurvives) {
  FilesystemList list;
  Filesystem filesystem;
  filesystem.source = "/dev/\xff";
  filesystem.mount_points = {"/a\xc3"};
  list.filesystems = {filesystem};
  v1::ListFilesystemsResponse response;
  ToProto(list, response);
  v1::ListFilesystemsResponse parsed;
  ASSERT_TRUE(parsed.ParseFromString(response.SerializeAsString()));
  EXPECT_EQ(parsed.filesystems(0).source(), "/dev/\\xff");
  EXPECT_EQ(parsed.filesystems(0).mount_points(0), "/a\\xc3");
  EXPECT_FALSE(parsed.truncated());
}

TEST(ConvertTest, MountOptionDiscardIsSaidOnlyWhenItIsThere) {
  FilesystemList list;
  for (const char* options : {"rw,discard", "rw,nodiscard", "rw,discarded"}) {
    Filesystem filesystem;
    filesystem.options = options;
    list.filesystems.push_back(filesystem);
  }
  v1::ListFilesystemsResponse response;
  ToProto(list, response);
  EXPECT_EQ(response.filesystems(0).discard_option(), v1::DISCARD_SETTING_ENABLED);
  EXPECT_EQ(response.filesystems(1).discard_option(), v1::DISCARD_SETTING_DISABLED);
  EXPECT_EQ(response.filesystems(2).discard_option(), v1::DISCARD_SETTING_UNSPECIFIED);
}

TEST(ConvertTest, WorstCaseStaysBelowTheLimit) {
  const std::string longest(4096, '\xff');  // grows fourfold
  Filesystem filesystem;
  filesystem.source = filesystem.type = filesystem.uuid = longest;
  filesystem.mount_points.assign(kMaxMountPoints, longest);
  filesystem.mount_roots.assign(kMaxMountPoints, longest);
  BlockDevice device;
  device.name = device.dm_name = device.dm_uuid = device.serial = device.wwid = device.bus_path =
      longest;
  device.backing_file = longest;
  device.parents.assign(4, longest);
  filesystem.chain.devices.assign(kMaxDevices, device);
  FilesystemList list;
  list.filesystems.assign(20, filesystem);
  v1::ListFilesystemsResponse response;
  ToProto(list, response);
  EXPECT_TRUE(response.truncated());
  EXPECT_GT(response.filesystems_size(), 0);
  EXPECT_GT(response.filesystems(0).mount_points_size(), 0);
  EXPECT_EQ(response.filesystems(0).mount_roots_size(),
            response.filesystems(0).mount_points_size());
  EXPECT_LT(response.ByteSizeLong(), kMessageLimit);

  v1::TrimEvent event;
  TrimTarget target{filesystem, longest, true};
  ToProto(target, 0, TrimFinished{}, *event.mutable_finished());
  EXPECT_LT(event.ByteSizeLong(), kMessageLimit);
}

TEST(ConvertTest, ManyFilesystemsFit) {
  Filesystem filesystem;
  filesystem.source = "/dev/vda1";
  filesystem.mount_points = {"/"};
  FilesystemList list;
  list.filesystems.assign(kMaxFilesystems, filesystem);
  v1::ListFilesystemsResponse response;
  ToProto(list, response);
  EXPECT_THAT(response.filesystems(), SizeIs(kMaxFilesystems));
  EXPECT_FALSE(response.truncated());
}

TEST(ConvertTest, FinishedNamesTheError) {
  TrimFinished finished;
  finished.result = TrimResult::kFailed;
  finished.error_number = ENOTTY;
  finished.elapsed = std::chrono::milliseconds(1500);
  finished.verdict = {Obstacle::kTypeNotSupported, ""};
  v1::TrimFinished out;
  ToProto(TrimTarget(), 7, finished, out);
  EXPECT_EQ(out.index(), 7U);
  EXPECT_EQ(out.result(), v1::TRIM_RESULT_FAILED);
  EXPECT_EQ(out.error_name(), "ENOTTY");
  EXPECT_EQ(out.obstacle(), v1::TRIM_OBSTACLE_TYPE_NOT_SUPPORTED);
  EXPECT_EQ(out.elapsed().seconds(), 1);
  EXPECT_EQ(out.elapsed().nanos(), 500'000'000);
}

TEST(ConvertTest, ProgressStaysWithinTheSize) {
  TrimTarget target;
  target.filesystem.size_bytes = 1000;
  v1::TrimProgress out;
  ToProto(target, 0, {~uint64_t{0}, 5, 1}, out);
  EXPECT_EQ(out.position_bytes(), 1000U);
}

}  // namespace
}  // namespace virt_reclaim::agent
