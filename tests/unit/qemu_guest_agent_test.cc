#include "host/services/qemu_guest_agent.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

// As qemu-guest-agent 7.2 writes it.
constexpr char kFsInfo[] = R"({"return":[{"name":"vda1","total-bytes":1000,"mountpoint":"/","disk":
[{"serial":"abc","bus-type":"virtio","bus":0,"unit":0,"pci-controller":{"bus":0,"slot":5,"domain":0,
"function":0},"dev":"/dev/vda1","target":0}],"used-bytes":400,"type":"ext4"},
{"name":"sdb","mountpoint":"/data","disk":[{"bus-type":"scsi","bus":0,"unit":3,"target":2,
"pci-controller":{"bus":1,"slot":0,"domain":0,"function":0}}],"type":"xfs"}]})";

TEST(ParseFsInfo, TellsWhereEachDiskSits) {
  const auto list = ParseFsInfo(kFsInfo).value();
  ASSERT_THAT(list, SizeIs(2));
  EXPECT_THAT(list[0].mount_points, ElementsAre("/"));
  EXPECT_EQ(list[0].used, 400u);
  EXPECT_EQ(list[0].free, 600u);
  ASSERT_THAT(list[0].devices, SizeIs(1));
  EXPECT_EQ(list[0].devices[0].name, "vda1");
  EXPECT_EQ(list[0].devices[0].serial, "abc");
  EXPECT_EQ(list[0].devices[0].bus_path, "pci0000:00/0000:00:05.0/virtio");
  // An old one: no sizes, so nothing counts as free; no name; a bus number that does not say where
  // that bus is.
  EXPECT_EQ(list[1].free, 0u);
  EXPECT_EQ(list[1].devices[0].bus_path, "0000:01:00.0");
  EXPECT_EQ(list[1].devices[0].scsi_address, "0:0:2:3");
  EXPECT_FALSE(list[1].devices[0].name.empty());
}

// Only a word for it counts as thawed.
TEST(FreezeBlocker, WhatIsNotKnownMayBeFrozen) {
  const auto reason = [](const absl::StatusOr<std::string>& answer) -> std::string {
    const auto blocker = FreezeBlocker(answer);
    return blocker ? std::string(Code(blocker->reason)) : "";
  };
  EXPECT_EQ(reason(R"({"return":"thawed"})"), "");
  EXPECT_EQ(reason(R"({"return":"frozen"})"), "frozen");
  for (const char* odd : {R"({"return":"Thawed"})", R"({"return":{}})", R"({"return":null})", "{}",
                          "thawed", "", R"(["thawed"])"})
    EXPECT_EQ(reason(odd), "agent-failed") << odd;
  EXPECT_EQ(reason(absl::DeadlineExceededError("no answer")), "agent-silent");
  EXPECT_EQ(reason(absl::DeadlineExceededError("x has not been found")), "agent-silent");
  EXPECT_EQ(reason(absl::AbortedError("timed out")), "busy");
  EXPECT_EQ(reason(absl::UnavailableError("QEMU guest agent is not connected")), "agent-failed");
  // One that was built without it never froze anything; one that may not say so may have.
  EXPECT_EQ(
      reason(absl::InternalError("unable to execute QEMU agent command 'x': The command x has "
                                 "not been found")),
      "");
  EXPECT_EQ(reason(absl::InternalError("The command x has been disabled for this instance")),
            "agent-failed");
  EXPECT_NE(FreezeBlocker(absl::DeadlineExceededError("late"))->detail.find("late"),
            std::string::npos);
}

TEST(ParseFstrim, EachPathHasItsResult) {
  const auto trims = ParseFstrim(R"({"return":{"paths":[{"path":"/","trimmed":600,"minimum":0},
{"path":"/data","error":"trim not supported"},
{"path":"/srv","error":"failed to trim /srv: Input/output error"},
{"path":"/opt","error":"failed to open: Permission denied"}]}})",
                                 ParseFsInfo(kFsInfo).value())
                         .value();
  ASSERT_THAT(trims, SizeIs(4));
  EXPECT_EQ(trims[0].result, GuestTrimResult::kDone);
  EXPECT_EQ(trims[0].trimmed, 600u);
  EXPECT_THAT(trims[0].disks, ElementsAre("vda1"));
  EXPECT_EQ(trims[1].obstacle, GuestObstacle::kDiskNotSupported);  // xfs can, so the disk cannot
  EXPECT_EQ(trims[2].error_name, "EIO");
  EXPECT_EQ(trims[3].result, GuestTrimResult::kFailed);
  EXPECT_EQ(trims[3].error_name, "failed to open: Permission denied");
}

// qemu-guest-agent 7.2 lists and trims each mount, bind mounts and subvolumes of btrfs, too.
TEST(ParseFstrim, AFilesystemThatIsMountedTwiceCountsOnce) {
  const auto disk = [](const char* dev) {
    return absl::StrCat(R"("disk":[{"bus-type":"virtio","dev":"/dev/)", dev,
                        R"(","pci-controller":{"domain":0,"bus":0,"slot":5,"function":0}}])");
  };
  const auto mount = [&](const char* name, const char* point, const char* dev) {
    return absl::StrCat(R"({"name":")", name, R"(","mountpoint":")", point,
                        R"(","type":"btrfs","total-bytes":1000,"used-bytes":400,)", disk(dev), "}");
  };
  const auto list =
      ParseFsInfo(absl::StrCat(R"({"return":[)", mount("vda2", "/", "vda2"), ",",
                               mount("vda2", "/home", "vda2"), ",", mount("vda1", "/boot", "vda1"),
                               ",", mount("vda2", "/other", "vdb2"), ",", mount("", "/a", "vda3"),
                               ",", mount("", "/b", "vda3"), "]}"))
          .value();
  ASSERT_THAT(list, SizeIs(5));  // same names on other disks, and no names, are others
  EXPECT_THAT(list[0].mount_points, ElementsAre("/", "/home"));
  EXPECT_EQ(list[0].used, 400u);
  const auto trims = ParseFstrim(R"({"return":{"paths":[{"path":"/","error":"read-only"},
{"path":"/home","trimmed":600,"minimum":0},{"path":"/boot","trimmed":5},{"path":"/","trimmed":300},
{"path":"/new","trimmed":7},{"path":"/new","trimmed":7}]}})",
                                 list)
                         .value();
  ASSERT_THAT(trims, SizeIs(4));
  EXPECT_EQ(trims[0].mount_point, "/home");
  EXPECT_EQ(trims[0].result, GuestTrimResult::kDone);
  EXPECT_EQ(trims[0].trimmed, 600u);
  EXPECT_THAT(trims[0].disks, ElementsAre("vda2"));
  EXPECT_EQ(trims[1].mount_point, "/boot");
}

TEST(ParseFstrim, OldAgentOnlySaysThatItIsDone) {
  EXPECT_THAT(ParseFstrim(R"({"return":{}})", {}).value(), IsEmpty());
}

TEST(ParseFstrim, HostileAnswersAreBounded) {
  for (const std::string& text :
       {std::string(), std::string("null"), std::string("[]"), std::string("{\"return\""),
        std::string("{}"), std::string("\xff\xfe"),
        absl::StrCat("{\"return\":", std::string(500000, '[')),
        std::string(size_t{2} << 20, ' ')}) {
    EXPECT_FALSE(ParseFstrim(text, {}).ok());
    EXPECT_FALSE(ParseFsInfo(text).ok());
  }
  // Deep, but whole: nothing of it is kept.
  const std::string deep = absl::StrCat(R"({"return":{"paths":[)", std::string(100000, '['),
                                        std::string(100000, ']'), "]}}");
  EXPECT_THAT(ParseFstrim(deep, {}).value(), IsEmpty());

  std::string many = R"({"return":{"paths":[{"path":"/"})";
  for (int i = 0; i < 20000; ++i) absl::StrAppend(&many, R"(,{"path":"/x","trimmed":1})");
  EXPECT_THAT(ParseFstrim(many + "]}}", {}).value(), SizeIs(4096));
}

TEST(ParseFstrim, WrongTypesAreIgnoredAndEscapesMadePrintable) {
  const auto trims = ParseFstrim(R"({"return":{"paths":[7,null,{"path":5,"trimmed":"x"},
{"path":"/\u001b[2J\n","trimmed":-4,"error":{"a":1}},{"path":"/a","trimmed":1e99}]}})",
                                 {})
                         .value();
  ASSERT_THAT(trims, SizeIs(3));
  EXPECT_EQ(trims[0].trimmed, 0u);
  EXPECT_EQ(trims[1].mount_point.find('\x1b'), std::string::npos);
  EXPECT_EQ(trims[1].mount_point.find('\n'), std::string::npos);
  EXPECT_EQ(trims[1].trimmed, 0u);
  EXPECT_EQ(trims[1].result, GuestTrimResult::kFailed);
  EXPECT_EQ(trims[2].trimmed, 0u);
}

TEST(ParseFsInfo, WrongTypesAreIgnored) {
  const auto list = ParseFsInfo(R"({"return":[7,{"name":{},"mountpoint":[],"disk":{"a":1}},
{"name":"x","total-bytes":10,"used-bytes":99,"disk":[1,{"pci-controller":[]},
{"bus-type":"sata","unit":4294967295},{"bus-type":"ide","bus":-1,"unit":-1,
"pci-controller":{"domain":0,"bus":0,"slot":99,"function":0}}]}]})")
                        .value();
  ASSERT_THAT(list, SizeIs(2));
  EXPECT_THAT(list[0].devices, IsEmpty());
  EXPECT_EQ(list[1].used, 10u);
  ASSERT_THAT(list[1].devices, SizeIs(3));
  EXPECT_EQ(list[1].devices[1].ata_port, 0u);
  EXPECT_EQ(list[1].devices[2].bus_path, "");
}

TEST(QemuGuestAgent, SendsTheMinimumAndRefusesMountPoints) {
  FakeWorld world;
  FakeDomain& domain =
      world.AddDomain(DomainXml("web", kUuid, "pc-q35-7.2", {}, ""), DomainState::kRunning);
  domain.qemu_agent.answers = {{"guest-get-fsinfo", R"({"return":[]})"},
                               {"guest-fstrim", R"({"return":{"paths":[]}})"}};
  const Services services = world.services();
  const auto agent = NewQemuGuestAgent(services.hypervisor, kUuid);
  std::vector<GuestTrim> finished;
  GuestTrimOptions options;
  options.minimum = 4 * kMiB;
  ASSERT_TRUE(agent->Trim(options, absl::Seconds(9), {}, nullptr, finished).ok());
  EXPECT_EQ(domain.qemu_commands.back(),
            R"({"execute":"guest-fstrim","arguments":{"minimum":4194304}})");
  options.mount_points = {"/"};
  EXPECT_TRUE(
      absl::IsInvalidArgument(agent->Trim(options, absl::Seconds(9), {}, nullptr, finished)));
}

}  // namespace
}  // namespace virt_reclaim
