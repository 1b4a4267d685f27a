// A guest that keeps to every protocol and answers with what a good one never would. What reaches
// the rest of the host is bounded and printable, and what is not understood is unknown.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "absl/time/clock.h"
#include "host/services/guest_agent.h"
#include "tests/component/grpc_guest.h"
#include "tests/component/guest_limits.h"
#include "tests/component/link_test_port.h"

namespace virt_reclaim {
namespace {

// A real gRPC server that answers with what a good one never would.
class LyingAgent : public v1::Agent::Service {
 public:
  grpc::Status GetInfo(grpc::ServerContext*, const v1::GetInfoRequest*,
                       v1::GetInfoResponse* response) override {
    response->set_agent_version("1\x1b[2J\r\n\xe2\x80\xae" + std::string(5000, 'v'));
    response->mutable_uptime()->set_seconds(INT64_MAX);
    response->mutable_uptime()->set_nanos(INT32_MIN);
    response->mutable_agent_uptime()->set_seconds(INT64_MIN);
    return grpc::Status::OK;
  }
  grpc::Status ListFilesystems(grpc::ServerContext*, const v1::ListFilesystemsRequest*,
                               v1::ListFilesystemsResponse* response) override {
    for (int i = 0; i < 20000; ++i) response->add_filesystems()->set_size_bytes(1);
    v1::Filesystem& first = *response->mutable_filesystems(0);
    first.add_mount_points("/mnt/\x1b]0;title\x07");
    first.set_used_bytes(UINT64_MAX);
    first.set_obstacle(static_cast<v1::TrimObstacle>(12345));
    for (int i = 0; i < 1000; ++i) first.add_devices()->add_parents("loop");
    v1::BlockDevice& device = *first.mutable_devices(0);
    device.set_name(std::string(1000, 'n'));
    device.set_kind(static_cast<v1::BlockDeviceKind>(77));
    for (int i = 0; i < 1000; ++i) device.add_parents("\x1b");
    for (std::string* text : {device.mutable_dm_name(), device.mutable_dm_uuid(),
                              device.mutable_md_level(), device.mutable_backing_file()})
      *text = "\x1b[2J\n" + std::string(10000, 'd');
    first.set_discard_option(static_cast<v1::DiscardSetting>(77));
    return grpc::Status::OK;
  }
  grpc::Status Preflight(grpc::ServerContext*, const v1::PreflightRequest*,
                         v1::PreflightResponse* response) override {
    response->set_kernel_release("6\n");
    response->set_kernel_minor(UINT32_MAX);
    response->set_initramfs_tool(static_cast<v1::InitramfsTool>(77));
    response->set_fstrim_timer(static_cast<v1::DiscardSetting>(-1));
    for (int i = 0; i < 1000; ++i) {
      v1::KernelModules& kernel = *response->add_kernels();
      kernel.set_virtio_scsi(static_cast<v1::ModuleState>(99));
      v1::NamedDevice& named = *response->add_names();
      named.set_source(static_cast<v1::NameSource>(99));
      named.set_text(i == 0 ? std::string(100000, 'x') : "\x1b[2J\xe2\x80\xae");
      response->add_mounts()->add_mount_points("/\r");
      response->add_raid_arrays();
      response->add_boot_disks("vda");
    }
    for (int i = 0; i < 1000; ++i) response->mutable_mounts(0)->add_mount_points("/a");
    return grpc::Status::OK;
  }
  grpc::Status WriteMarker(grpc::ServerContext*, const v1::WriteMarkerRequest* request,
                           v1::WriteMarkerResponse* response) override {
    response->set_id(request->size_bytes() == 1 ? "short" : "0123456789abcdef");
    response->set_size_bytes(4096);
    response->set_extents_known(true);
    response->set_disk("vda\n");
    v1::MarkerExtent& extent = *response->add_extents();
    extent.set_length_bytes(4096);
    if (request->size_bytes() == 2) extent.set_offset_bytes(UINT64_MAX);
    if (request->size_bytes() == 3) response->set_start_bytes(UINT64_MAX);
    if (request->size_bytes() == 4) extent.set_length_bytes(UINT64_MAX);
    if (request->size_bytes() == 5) response->clear_extents();
    if (request->size_bytes() == 6) response->set_size_bytes(UINT64_MAX);
    return grpc::Status::OK;
  }
  grpc::Status FixGuest(grpc::ServerContext*, const v1::FixGuestRequest*,
                        v1::FixGuestResponse* response) override {
    response->set_result(static_cast<v1::FixResult>(99));
    for (int i = 0; i < 1000; ++i) {
      response->add_files()->add_lines()->set_after("\x1b[2J");
      response->add_commands()->set_output(i == 0 ? std::string(50000, 'o') : "\x07");
      response->add_refusals("\n");
    }
    return grpc::Status::OK;
  }
  grpc::Status Trim(grpc::ServerContext*, const v1::TrimRequest*,
                    grpc::ServerWriter<v1::TrimEvent>* writer) override {
    v1::TrimEvent event;
    event.mutable_finished()->set_mount_point("/");
    event.mutable_finished()->set_trimmed_bytes(UINT64_MAX);
    while (writer->Write(event)) {
    }
    return grpc::Status::OK;
  }
};

class LyingGuest {
 public:
  std::unique_ptr<GuestAgent> Connect() {
    return ConnectGuestAgent(link::NewFdPort(std::move(sockets_.first), true), absl::Seconds(5), {})
        .value();
  }

 private:
  LyingAgent service_;
  std::pair<UniqueFd, UniqueFd> sockets_ = link::SocketPair();
  GrpcGuest guest_{service_, std::move(sockets_.second)};
};

TEST(LyingGuest, StringsArePrintableAndBounded) {
  LyingGuest guest;
  const auto info = guest.Connect()->GetInfo(absl::Seconds(5), {});
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_LE(info->agent_version.size(), 1100u);
  EXPECT_EQ(info->agent_version.find('\x1b'), std::string::npos);
  EXPECT_EQ(info->agent_version.find('\n'), std::string::npos);
  EXPECT_EQ(info->agent_uptime, absl::ZeroDuration());
}

TEST(LyingGuest, HugeCountsAreCut) {
  LyingGuest guest;
  const auto filesystems = guest.Connect()->ListFilesystems(absl::Seconds(5), {});
  ASSERT_TRUE(filesystems.ok()) << filesystems.status();
  EXPECT_EQ(filesystems->size(), 4096u);
  EXPECT_EQ(filesystems->front().devices.size(), 64u);
  EXPECT_LE(filesystems->front().used, filesystems->front().size);
  EXPECT_EQ(filesystems->front().obstacle, GuestObstacle::kUnknown);
  EXPECT_EQ(filesystems->front().mount_points.front(), "/mnt/\\x1b]0;title\\x07");
  EXPECT_EQ(filesystems->front().discard_option, std::nullopt);
  const GuestDevice& device = filesystems->front().devices.front();
  EXPECT_EQ(device.kind, GuestDeviceKind::kUnknown);
  EXPECT_EQ(device.parents.size(), 64u);
  EXPECT_EQ(device.parents.back(), "\\x1b");
  for (const std::string& text : {device.name, device.dm_name, device.dm_uuid, device.md_level}) {
    EXPECT_LE(text.size(), 300u);
    EXPECT_EQ(text.find_first_of("\x1b\n"), std::string::npos);
  }
  EXPECT_LE(device.backing_file.size(), 4200u);
  EXPECT_EQ(device.backing_file.substr(0, 13), "\\x1b[2J\\x0add");
}

TEST(LyingGuest, PreflightIsBoundedAndUnknownStaysUnknown) {
  LyingGuest guest;
  const auto preflight = guest.Connect()->Preflight(absl::Seconds(5), {});
  ASSERT_TRUE(preflight.ok()) << preflight.status();
  EXPECT_TRUE(preflight->truncated);
  EXPECT_FALSE(preflight->kernel.has_value());
  EXPECT_EQ(preflight->kernel_release, "6\\x0a");
  EXPECT_EQ(preflight->initramfs_tool, GuestInitramfsTool::kUnknown);
  EXPECT_EQ(preflight->fstrim_timer, GuestSetting::kUnknown);
  EXPECT_EQ(preflight->lvm_issue_discards, GuestSetting::kUnknown);
  EXPECT_EQ(preflight->kernels.size(), 8u);
  EXPECT_EQ(preflight->kernels[0].virtio_scsi, GuestModuleState::kUnknown);
  EXPECT_EQ(preflight->names.size(), 256u);
  EXPECT_EQ(preflight->names[0].source, GuestNameSource::kUnknown);
  EXPECT_LE(preflight->names[0].text.size(), 1100u);
  EXPECT_EQ(preflight->names[1].text, "\\x1b[2J\\xe2\\x80\\xae");
  EXPECT_EQ(preflight->mounts.size(), 256u);
  EXPECT_EQ(preflight->mounts[0].mount_points.size(), 64u);
  EXPECT_EQ(preflight->mounts[1].mount_points[0], "/\\x0d");
  EXPECT_EQ(preflight->raid_arrays.size(), 256u);
  EXPECT_EQ(preflight->boot_disks.size(), 64u);
}

TEST(LyingGuest, MarkerWithNonsenseIsNotKnown) {
  LyingGuest guest;
  const auto agent = guest.Connect();
  const auto write = [&](uint64_t size) {
    return agent->WriteMarker("/", size, absl::Seconds(5), {});
  };
  EXPECT_TRUE(absl::IsInvalidArgument(write(1).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(write(6).status()));
  for (const uint64_t lie : {2, 3, 4, 5}) {
    const auto marker = write(lie);
    ASSERT_TRUE(marker.ok()) << marker.status();
    EXPECT_TRUE(marker->extents.empty()) << lie;
    EXPECT_EQ(marker->disk, "") << lie;
  }
  const auto honest = write(4096);
  ASSERT_TRUE(honest.ok()) << honest.status();
  EXPECT_EQ(honest->disk, "vda\\x0a");
  EXPECT_EQ(honest->extents.size(), 1u);
  // This agent has no DiscardMarker.
  EXPECT_TRUE(
      absl::IsUnimplemented(agent->DiscardMarker("/", *honest, absl::Seconds(5), {}).status()));
}

TEST(LyingGuest, FixIsBounded) {
  LyingGuest guest;
  const auto fix = guest.Connect()->FixGuest(GuestFixAction::kApply, absl::Seconds(5), {});
  ASSERT_TRUE(fix.ok()) << fix.status();
  EXPECT_EQ(fix->result, GuestFixResult::kUnknown);
  EXPECT_EQ(fix->files.size(), 256u);
  EXPECT_EQ(fix->files[0].lines[0].after, "\\x1b[2J");
  EXPECT_EQ(fix->commands.size(), 64u);
  EXPECT_LE(fix->commands[0].output.size(), 4100u);
  EXPECT_EQ(fix->refusals.size(), 256u);
  EXPECT_EQ(fix->refusals[0], "\\x0a");
}

TEST(LyingGuest, EndlessStreamEnds) {
  LyingGuest guest;
  const int64_t before = StatusKiB("VmRSS");
  ResetPeak();
  std::vector<GuestTrim> finished;
  const absl::Time start = absl::Now();
  const absl::Status status = guest.Connect()->Trim({}, absl::Seconds(20), {}, nullptr, finished);
  EXPECT_FALSE(status.ok());
  EXPECT_LE(absl::Now() - start, absl::Seconds(20) + kGrace);
  EXPECT_LE(finished.size(), 8192u);
  if (!kSanitized) {
    EXPECT_LE(StatusKiB("VmHWM") - before, kMemoryLimitKiB);
  }
}

}  // namespace
}  // namespace virt_reclaim
