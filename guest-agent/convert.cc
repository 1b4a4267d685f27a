#include "guest-agent/convert.h"

#include <algorithm>

#include "base/utf8.h"
#include "guest-config/preflight_facts.h"

namespace virt_reclaim::agent {
namespace {

constexpr size_t kMaxResponseBytes =
    (size_t{1} << 20) - (size_t{64} << 10);  // below the message limit, with room
constexpr size_t kMaxFilesystemBytes = size_t{128} << 10;
constexpr size_t kMaxLongNameBytes =
    1024;  // of what is no path; escaping makes it four times as long at worst

static_assert(static_cast<int>(Obstacle::kNone) == v1::TRIM_OBSTACLE_NONE);
static_assert(static_cast<int>(Obstacle::kReadOnly) == v1::TRIM_OBSTACLE_READ_ONLY);
static_assert(static_cast<int>(Obstacle::kNoDevice) == v1::TRIM_OBSTACLE_NO_DEVICE);
static_assert(static_cast<int>(Obstacle::kNetwork) == v1::TRIM_OBSTACLE_NETWORK);
static_assert(static_cast<int>(Obstacle::kLoop) == v1::TRIM_OBSTACLE_LOOP);
static_assert(static_cast<int>(Obstacle::kAutofs) == v1::TRIM_OBSTACLE_AUTOFS);
static_assert(static_cast<int>(Obstacle::kTypeNotSupported) ==
              v1::TRIM_OBSTACLE_TYPE_NOT_SUPPORTED);
static_assert(static_cast<int>(Obstacle::kDiskNotSupported) ==
              v1::TRIM_OBSTACLE_DISK_NOT_SUPPORTED);
static_assert(static_cast<int>(Obstacle::kDmCrypt) == v1::TRIM_OBSTACLE_DM_CRYPT);
static_assert(static_cast<int>(Obstacle::kLayerNotSupported) ==
              v1::TRIM_OBSTACLE_LAYER_NOT_SUPPORTED);
static_assert(static_cast<int>(Obstacle::kPartial) == v1::TRIM_OBSTACLE_PARTIAL);
static_assert(static_cast<int>(DeviceKind::kUnknown) == v1::BLOCK_DEVICE_KIND_UNSPECIFIED);
static_assert(static_cast<int>(DeviceKind::kDisk) == v1::BLOCK_DEVICE_KIND_DISK);
static_assert(static_cast<int>(DeviceKind::kPartition) == v1::BLOCK_DEVICE_KIND_PARTITION);
static_assert(static_cast<int>(DeviceKind::kDmCrypt) == v1::BLOCK_DEVICE_KIND_DM_CRYPT);
static_assert(static_cast<int>(DeviceKind::kLvm) == v1::BLOCK_DEVICE_KIND_LVM);
static_assert(static_cast<int>(DeviceKind::kDmOther) == v1::BLOCK_DEVICE_KIND_DM_OTHER);
static_assert(static_cast<int>(DeviceKind::kMd) == v1::BLOCK_DEVICE_KIND_MD);
static_assert(static_cast<int>(DeviceKind::kLoop) == v1::BLOCK_DEVICE_KIND_LOOP);
static_assert(static_cast<int>(TrimResult::kDone) == v1::TRIM_RESULT_DONE);
static_assert(static_cast<int>(TrimResult::kSkipped) == v1::TRIM_RESULT_SKIPPED);
static_assert(static_cast<int>(TrimResult::kFailed) == v1::TRIM_RESULT_FAILED);
static_assert(static_cast<int>(TrimResult::kCancelled) == v1::TRIM_RESULT_CANCELLED);

std::string LongName(absl::string_view text) { return Utf8(text, kMaxLongNameBytes); }
v1::TrimObstacle ToProto(Obstacle obstacle) { return static_cast<v1::TrimObstacle>(obstacle); }

void ToProto(const BlockDevice& device, v1::BlockDevice& out) {
  out.set_name(LongName(device.name));
  out.set_device_number(DeviceNumberString(device.number));
  out.set_kind(static_cast<v1::BlockDeviceKind>(device.kind));
  for (const std::string& parent : device.parents) out.add_parents(LongName(parent));
  out.set_size_bytes(device.size_bytes);
  out.set_start_bytes(device.start_bytes);
  out.set_discard_max_bytes(device.discard_max_bytes);
  out.set_discard_granularity_bytes(device.discard_granularity_bytes);
  out.set_dm_name(LongName(device.dm_name));
  out.set_dm_uuid(LongName(device.dm_uuid));
  out.set_md_level(LongName(device.md_level));
  out.set_serial(LongName(device.serial));
  out.set_wwid(LongName(device.wwid));
  out.set_bus_path(LongName(device.bus_path));
  out.set_scsi_address(LongName(device.scsi_address));
  out.set_ata_port(device.ata_port);
  out.set_backing_file(Utf8(device.backing_file));
}

// False when something had to be left out.
bool ToProto(const Filesystem& filesystem, v1::Filesystem& out) {
  bool whole = true;
  out.set_source(Utf8(filesystem.source));
  out.set_type(LongName(filesystem.type));
  out.set_uuid(LongName(filesystem.uuid));
  out.set_read_only(filesystem.read_only);
  out.set_size_bytes(filesystem.size_bytes);
  out.set_used_bytes(filesystem.used_bytes);
  out.set_free_bytes(filesystem.free_bytes);
  if (filesystem.freed_since_trim) out.set_freed_since_trim_bytes(*filesystem.freed_since_trim);
  out.set_obstacle(ToProto(filesystem.verdict.obstacle));
  out.set_obstacle_device(LongName(filesystem.verdict.device));
  if (HasOption(filesystem.options, "discard")) out.set_discard_option(v1::DISCARD_SETTING_ENABLED);
  if (HasOption(filesystem.options, "nodiscard"))
    out.set_discard_option(v1::DISCARD_SETTING_DISABLED);
  size_t bytes = out.ByteSizeLong();
  // The two lists share what room there is; the first mount point always has its place.
  for (size_t i = 0; i < filesystem.mount_points.size(); ++i) {
    std::string name = Utf8(filesystem.mount_points[i]);
    std::string root = i < filesystem.mount_roots.size() ? Utf8(filesystem.mount_roots[i]) : "";
    if (bytes + name.size() + root.size() > kMaxFilesystemBytes / 2 &&
        out.mount_points_size() > 0) {
      whole = false;
      break;
    }
    bytes += name.size() + root.size() + 16;
    out.add_mount_points(std::move(name));
    out.add_mount_roots(std::move(root));
  }
  for (const BlockDevice& device : filesystem.chain.devices) {
    v1::BlockDevice message;
    ToProto(device, message);
    bytes += message.ByteSizeLong() + 8;
    if (bytes > kMaxFilesystemBytes) {
      whole = false;
      break;
    }
    *out.add_devices() = std::move(message);
  }
  return whole;
}

}  // namespace

void ToProto(const FilesystemList& list, v1::ListFilesystemsResponse& out) {
  out.set_truncated(list.truncated);
  size_t bytes = 0;
  for (const Filesystem& filesystem : list.filesystems) {
    v1::Filesystem message;
    if (!ToProto(filesystem, message)) out.set_truncated(true);
    bytes += message.ByteSizeLong() + 8;
    if (bytes > kMaxResponseBytes) {
      out.set_truncated(true);
      return;
    }
    *out.add_filesystems() = std::move(message);
  }
}

void ToProto(const TrimTarget& target, uint32_t index, uint32_t count, v1::TrimStarted& out) {
  out.set_mount_point(Utf8(target.mount_point));
  out.set_source(Utf8(target.filesystem.source));
  out.set_size_bytes(target.filesystem.size_bytes);
  out.set_index(index);
  out.set_count(count);
}

void ToProto(const TrimTarget& target, uint32_t index, const FitrimProgress& progress,
             v1::TrimProgress& out) {
  out.set_index(index);
  // The last range reaches to the end of all numbers, and some sizes are without the filesystem's
  // own blocks.
  out.set_position_bytes(std::min(progress.position_bytes, target.filesystem.size_bytes));
  out.set_trimmed_bytes(progress.trimmed_bytes);
}

void ToProto(const TrimTarget& target, uint32_t index, const TrimFinished& finished,
             v1::TrimFinished& out) {
  out.set_index(index);
  out.set_mount_point(Utf8(target.mount_point));
  out.set_source(Utf8(target.filesystem.source));
  out.set_result(static_cast<v1::TrimResult>(finished.result));
  out.set_trimmed_bytes(finished.progress.trimmed_bytes);
  out.set_error_number(finished.error_number);
  if (finished.error_number != 0) out.set_error_name(ErrnoName(finished.error_number));
  ToProto(finished.elapsed, *out.mutable_elapsed());
  out.set_chunks(finished.progress.chunks);
  out.set_obstacle(ToProto(finished.verdict.obstacle));
  out.set_obstacle_device(LongName(finished.verdict.device));
  for (const std::string& disk : target.filesystem.Disks()) out.add_disks(LongName(disk));
}

void ToProto(const TrimTotals& totals, v1::TrimSummary& out) {
  out.set_done(totals.done);
  out.set_skipped(totals.skipped);
  out.set_failed(totals.failed);
  ToProto(totals.elapsed, *out.mutable_elapsed());
}

void ToProto(std::chrono::nanoseconds duration, google::protobuf::Duration& out) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(duration);
  out.set_seconds(seconds.count());
  out.set_nanos(static_cast<int32_t>((duration - seconds).count()));
}

}  // namespace virt_reclaim::agent
