#include "guest-agent/free_map.h"

#include <linux/fsmap.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "guest-agent/target_files.h"

namespace virt_reclaim::agent {
namespace {

constexpr uint32_t kBatch = 1024;  // records a call: 48 KiB

// A device number as fmr_device has it (new_encode_dev in the kernel's include/linux/kdev_t.h).
uint32_t EncodeDevice(dev_t device) {
  const uint32_t number = minor(device);
  return (number & 0xff) | (static_cast<uint32_t>(major(device)) << 8) | ((number & ~0xffU) << 12);
}

bool IsFree(const fsmap& record) {
  return (record.fmr_flags & FMR_OF_SPECIAL_OWNER) != 0 && record.fmr_owner == FMR_OWN_FREE;
}

}  // namespace

void FreeRunCollector::Add(const FreeRun& run) {
  if (run.length_bytes == 0) return;
  if (open_.length_bytes > 0 && open_.offset_bytes + open_.length_bytes == run.offset_bytes) {
    open_.length_bytes += run.length_bytes;
    return;
  }
  Close();
  open_ = run;
}

void FreeRunCollector::Close() {
  if (open_.length_bytes == 0) return;
  if (open_.length_bytes < minimum_) {
    kept_.left_out_bytes += open_.length_bytes;
  } else {
    kept_.runs.push_back(open_);
    if (kept_.runs.size() >= 2 * most_) KeepLongest();
  }
  open_ = {};
}

void FreeRunCollector::KeepLongest() {
  if (kept_.runs.size() <= most_) return;
  std::vector<uint64_t> lengths;
  lengths.reserve(kept_.runs.size());
  for (const FreeRun& run : kept_.runs) lengths.push_back(run.length_bytes);
  const auto last_kept = lengths.begin() + static_cast<ptrdiff_t>(most_) - 1;
  std::nth_element(lengths.begin(), last_kept, lengths.end(), std::greater<>());
  // Of those of just this length some may have to go.
  const uint64_t shortest = *last_kept;
  size_t room = most_ - static_cast<size_t>(std::count_if(
                            kept_.runs.begin(), kept_.runs.end(),
                            [&](const FreeRun& run) { return run.length_bytes > shortest; }));
  std::erase_if(kept_.runs, [&](const FreeRun& run) {
    if (run.length_bytes > shortest) return false;
    if (run.length_bytes == shortest && room > 0) {
      --room;
      return false;
    }
    kept_.left_out_bytes += run.length_bytes;
    return true;
  });
}

FreeRuns FreeRunCollector::Finish() {
  Close();
  KeepLongest();
  return std::move(kept_);
}

absl::StatusOr<FreeRuns> ReadFreeRuns(int fd, dev_t device, uint64_t minimum_bytes,
                                      const std::stop_token& stop) {
  std::vector<uint64_t> storage(fsmap_sizeof(kBatch) / sizeof(uint64_t));  // aligned
  auto* head = reinterpret_cast<fsmap_head*>(storage.data());
  head->fmh_count = kBatch;
  fsmap& high = head->fmh_keys[1];
  high.fmr_device = UINT_MAX;
  high.fmr_flags = UINT_MAX;
  high.fmr_physical = high.fmr_owner = high.fmr_offset = ULLONG_MAX;
  FreeRunCollector collector(minimum_bytes);
  uint64_t reached = 0;
  while (!stop.stop_requested()) {
    if (ioctl(fd, FS_IOC_GETFSMAP, head) != 0) {
      if (errno == ENOTTY || errno == EOPNOTSUPP)
        return absl::FailedPreconditionError("the filesystem does not tell where it is free");
      return ErrnoStatus(errno, "GETFSMAP");
    }
    if (head->fmh_entries == 0) return collector.Finish();
    const uint32_t entries = std::min(head->fmh_entries, kBatch);
    for (uint32_t i = 0; i < entries; ++i) {
      const fsmap& record = head->fmh_recs[i];
      // A log or a realtime device of its own has offsets of its own.
      if (record.fmr_device != EncodeDevice(device)) continue;
      if (record.fmr_physical < reached) continue;
      reached = record.fmr_physical;
      if (IsFree(record)) collector.Add({record.fmr_physical, record.fmr_length});
    }
    if ((head->fmh_recs[entries - 1].fmr_flags & FMR_OF_LAST) != 0) return collector.Finish();
    fsmap_advance(head);
  }
  return absl::CancelledError("stopped");
}

absl::StatusOr<FreeMap> ReadFreeMap(const TrimTarget& target, uint64_t minimum_bytes,
                                    const std::stop_token& stop) {
  const auto place = PlaceOnDisk(target.filesystem);
  if (!place) {
    return absl::FailedPreconditionError(
        "more than a partition table lies between the filesystem and its disk");
  }
  VR_ASSIGN_OR_RETURN(const UniqueFd directory,
                      OpenMountPoint(target.filesystem, target.mount_point));
  FreeMap map;
  map.disk = place->disk;
  VR_ASSIGN_OR_RETURN(map.free,
                      ReadFreeRuns(directory.get(), target.filesystem.device, minimum_bytes, stop));
  for (FreeRun& run : map.free.runs) run.offset_bytes += place->start_bytes;
  return map;
}

}  // namespace virt_reclaim::agent
