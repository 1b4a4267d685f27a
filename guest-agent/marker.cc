#include "guest-agent/marker.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/handle.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "guest-agent/target_files.h"

namespace virt_reclaim::agent {
namespace {

constexpr absl::string_view kPrefix = ".virt-reclaim-probe-";
constexpr size_t kMaxExtents = 256;  // the contract's limit
constexpr size_t kWriteBytes = size_t{1} << 20;
constexpr size_t kMaxDirectoryEntries = 100000;
// How long a filesystem may take to free what its journal says is deleted.
constexpr std::chrono::seconds kFreeingPatience{5};
constexpr std::chrono::milliseconds kFreeingStep{100};
// Of an extent whose offset is not where its bytes are, or not only this file's.
constexpr uint32_t kUselessExtent = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC |
                                    FIEMAP_EXTENT_ENCODED | FIEMAP_EXTENT_NOT_ALIGNED |
                                    FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_DATA_TAIL |
                                    FIEMAP_EXTENT_SHARED;

absl::Status CheckSpace(int directory, uint64_t size_bytes) {
  struct statvfs usage = {};
  if (fstatvfs(directory, &usage) != 0) return ErrnoStatus(errno, "statvfs");
  const uint64_t free_bytes = uint64_t{usage.f_bavail} * usage.f_frsize;
  const uint64_t all_bytes = uint64_t{usage.f_blocks} * usage.f_frsize;
  if (free_bytes / 4 < size_bytes || free_bytes < all_bytes / 20) {
    return absl::FailedPreconditionError("too little is free on the filesystem for a marker");
  }
  return absl::OkStatus();
}

// Deletes the markers of a directory but `except`; how many could not be deleted.
size_t RemoveMarkersIn(int directory) {
  UniqueFd copy(openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!copy.valid()) return 0;
  Handle<DIR, closedir> stream(fdopendir(copy.get()));
  if (stream == nullptr) return 0;
  static_cast<void>(copy.Release());
  std::vector<std::string> names;
  for (size_t i = 0; i < kMaxDirectoryEntries; ++i) {
    const dirent* entry = readdir(stream.get());
    if (entry == nullptr) break;
    const absl::string_view name = entry->d_name;
    if (name.size() == kPrefix.size() + 2 * kMarkerIdBytes &&
        name.substr(0, kPrefix.size()) == kPrefix)
      names.emplace_back(name);
  }
  size_t left = 0;
  for (const std::string& name : names) {
    struct stat status = {};
    if (fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    // Anybody may make a file of that name in a directory like /tmp; only ours is ours to delete.
    if (!S_ISREG(status.st_mode) || status.st_uid != geteuid()) continue;
    if (unlinkat(directory, name.c_str(), 0) != 0) ++left;
  }
  return left;
}

absl::Status WriteContent(int fd, absl::string_view id, uint64_t size_bytes,
                          const std::stop_token& stop) {
  uint64_t seed = 0;
  if (getrandom(&seed, sizeof seed, 0) != ssize_t{sizeof seed}) {
    return ErrnoStatus(errno, "getrandom");
  }
  std::mt19937_64 random(seed);
  std::string buffer(std::min<uint64_t>(size_bytes, kWriteBytes), '\0');
  uint64_t block = 0;
  for (uint64_t written = 0; written < size_bytes;) {
    if (stop.stop_requested()) return absl::CancelledError("stopped");
    const size_t length = std::min<uint64_t>(buffer.size(), size_bytes - written);
    for (size_t i = 0; i + sizeof(uint64_t) <= length; i += sizeof(uint64_t)) {
      const uint64_t word = random();
      memcpy(&buffer[i], &word, sizeof word);
    }
    for (size_t i = 0; i < length; i += kMarkerBlockBytes, ++block) {
      memcpy(&buffer[i], id.data(), id.size());
      for (size_t byte = 0; byte < sizeof block; ++byte) {
        buffer[i + id.size() + byte] = static_cast<char>(block >> (8 * byte));
      }
    }
    for (size_t done = 0; done < length;) {
      const ssize_t n = write(fd, &buffer[done], length - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus(errno, "write the marker");
      done += static_cast<size_t>(n);
    }
    written += length;
  }
  return fsync(fd) == 0 ? absl::OkStatus() : ErrnoStatus(errno, "fsync the marker");
}

// The marker's extents on the filesystem's device; false when they are not known, or not all.
bool ReadExtents(int fd, std::vector<MarkerExtent>& out) {
  constexpr size_t kBytes = sizeof(fiemap) + kMaxExtents * sizeof(fiemap_extent);
  std::vector<uint64_t> storage(kBytes / sizeof(uint64_t) + 1);  // aligned
  auto* map = reinterpret_cast<fiemap*>(storage.data());
  map->fm_length = FIEMAP_MAX_OFFSET;
  map->fm_flags = FIEMAP_FLAG_SYNC;
  map->fm_extent_count = kMaxExtents;
  if (ioctl(fd, FS_IOC_FIEMAP, map) != 0) return false;
  bool last = false;
  for (size_t i = 0; i < std::min<size_t>(map->fm_mapped_extents, kMaxExtents); ++i) {
    const fiemap_extent& extent = map->fm_extents[i];
    if ((extent.fe_flags & kUselessExtent) != 0) return false;
    last = (extent.fe_flags & FIEMAP_EXTENT_LAST) != 0;
    if (!out.empty() && out.back().offset_bytes + out.back().length_bytes == extent.fe_physical) {
      out.back().length_bytes += extent.fe_length;
    } else {
      out.push_back({extent.fe_physical, extent.fe_length});
    }
  }
  return last;
}

void FindDisk(const Filesystem& filesystem, Marker& marker) {
  const DeviceChain& chain = filesystem.chain;
  if (chain.tops != 1 || chain.devices.empty()) return;
  marker.device = chain.devices.front().name;
  if (const auto place = PlaceOnDisk(filesystem)) {
    marker.disk = place->disk;
    marker.start_bytes = place->start_bytes;
  }
}

// FIEMAP of btrfs tells addresses of its own, which are no disk's, and neither is a range of its
// FITRIM.
bool HasOwnAddresses(const Filesystem& filesystem) { return filesystem.type == "btrfs"; }

// The file of a loop device, looked at before it is opened: a user who owns its directory may have
// put a device in its place, and opening one can do harm (a watchdog, a tape).
struct BackingFile {
  UniqueFd place;  // O_PATH; invalid: nobody can look at it
  struct stat status = {};

  bool IsRegular() const { return place.valid() && S_ISREG(status.st_mode); }
};

BackingFile FindBackingFile(const BlockDevice& device) {
  BackingFile file;
  file.place.Reset(open(device.backing_file.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (file.place.valid() && fstat(file.place.get(), &file.status) != 0) file.place.Reset();
  return file;
}

// A hole in a file that has all its blocks would take away what somebody reserved: the filesystem
// in it could run out of space below. What cannot be looked at counts as such a file.
absl::Status CheckFiles(const Filesystem& filesystem) {
  for (const BlockDevice& device : filesystem.chain.devices) {
    if (device.kind != DeviceKind::kLoop) continue;
    const BackingFile file = FindBackingFile(device);
    if (file.place.valid() && S_ISBLK(file.status.st_mode)) continue;
    if (!file.IsRegular()) {
      return absl::FailedPreconditionError(
          absl::StrCat("nobody can look at the file of '", device.name, "'"));
    }
    if (file.status.st_blocks * 512 >= file.status.st_size) {
      return absl::FailedPreconditionError(
          absl::StrCat("the file '", Printable(device.backing_file),
                       "' is preallocated, and a probe would thin it"));
    }
  }
  return absl::OkStatus();
}

// Until the filesystems that hold a filesystem's files have written down what was discarded in
// them: before that they neither free it nor discard it. Those of files that cannot be opened are
// left out.
void SyncHolders(const Filesystem& filesystem) {
  for (const BlockDevice& device : filesystem.chain.devices) {
    if (device.kind != DeviceKind::kLoop) continue;
    const BackingFile found = FindBackingFile(device);
    if (!found.IsRegular()) continue;
    const UniqueFd file(open(absl::StrCat("/proc/self/fd/", found.place.get()).c_str(),
                             O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    if (file.valid()) syncfs(file.get());
  }
}

// One range around the marker: a whole filesystem may take minutes, and is a load of its own.
RangePlan PlanAround(const std::vector<MarkerExtent>& extents) {
  uint64_t begin = extents.front().offset_bytes;
  uint64_t end = 0;
  for (const MarkerExtent& extent : extents) {
    begin = std::min(begin, extent.offset_bytes);
    end = std::max(end, extent.offset_bytes + extent.length_bytes);
  }
  return RangePlan(TrimRange{begin, end - begin});
}

}  // namespace

std::string MarkerName(absl::string_view id) {
  return absl::StrCat(kPrefix, absl::BytesToHexString(id));
}

absl::StatusOr<Marker> WriteMarker(const TrimTarget& target, uint64_t size_bytes,
                                   const std::stop_token& stop) {
  if (size_bytes == 0 || size_bytes > kMaxMarkerBytes) {
    return absl::InvalidArgumentError("a marker has 1 byte to 64 MiB");
  }
  if (WillBeSkipped(target)) {
    return absl::FailedPreconditionError(DescribeObstacle(target.filesystem.verdict));
  }
  VR_RETURN_IF_ERROR(CheckFiles(target.filesystem));
  Marker marker;
  marker.size_bytes = (size_bytes + kMarkerBlockBytes - 1) / kMarkerBlockBytes * kMarkerBlockBytes;
  VR_ASSIGN_OR_RETURN(const UniqueFd directory,
                      OpenMountPoint(target.filesystem, target.mount_point));
  RemoveMarkersIn(directory.get());
  VR_RETURN_IF_ERROR(CheckSpace(directory.get(), marker.size_bytes));
  marker.id.resize(kMarkerIdBytes);
  if (getrandom(marker.id.data(), marker.id.size(), 0) != ssize_t{kMarkerIdBytes}) {
    return ErrnoStatus(errno, "getrandom");
  }
  const std::string name = MarkerName(marker.id);
  UniqueFd fd(openat(directory.get(), name.c_str(),
                     O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd.valid()) {
    return ErrnoStatus(errno,
                       absl::StrCat("create a marker on '", Printable(target.mount_point), "'"));
  }
  auto remove = absl::MakeCleanup([&] { unlinkat(directory.get(), name.c_str(), 0); });
  VR_RETURN_IF_ERROR(WriteContent(fd.get(), marker.id, marker.size_bytes, stop));
  marker.extents_known = !HasOwnAddresses(target.filesystem) &&
                         ReadExtents(fd.get(), marker.extents) && !marker.extents.empty();
  if (!marker.extents_known) marker.extents.clear();
  FindDisk(target.filesystem, marker);
  std::move(remove).Cancel();
  return marker;
}

absl::StatusOr<DiscardedMarker> DiscardMarker(const TrimTarget& target, absl::string_view id,
                                              const std::stop_token& stop, FitrimCall call) {
  if (id.size() != kMarkerIdBytes) return absl::InvalidArgumentError("no id of a marker");
  VR_ASSIGN_OR_RETURN(const UniqueFd directory,
                      OpenMountPoint(target.filesystem, target.mount_point));
  const std::string name = MarkerName(id);
  UniqueFd file(openat(directory.get(), name.c_str(),
                       O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY));
  if (!file.valid()) return ErrnoStatus(errno, "open the marker");
  struct stat status = {};
  if (fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return absl::NotFoundError("there is no such marker");
  }
  std::vector<MarkerExtent> extents;
  const bool ranged =
      !HasOwnAddresses(target.filesystem) && ReadExtents(file.get(), extents) && !extents.empty();
  // XFS frees the blocks of a deleted file some time later, in the background, and no sync waits
  // for that; what is cut off is freed now.
  if (ftruncate(file.get(), 0) != 0 || unlinkat(directory.get(), name.c_str(), 0) != 0) {
    return ErrnoStatus(errno, "delete the marker");
  }
  file.Reset();
  DiscardedMarker discarded;
  discarded.whole_filesystem = !ranged;
  const RangePlan plan =
      ranged ? PlanAround(extents) : RangePlan(ReadGeometry(target.filesystem, directory.get()), 0);
  uint64_t marker_bytes = 0;
  if (ranged) {
    for (const MarkerExtent& extent : extents) marker_bytes += extent.length_bytes;
  }
  for (const auto limit = std::chrono::steady_clock::now() + kFreeingPatience;;) {
    // Measured: before the journal is written, ext4 and btrfs trim nothing of it, XFS sometimes.
    if (syncfs(directory.get()) != 0) return ErrnoStatus(errno, "syncfs");
    VR_ASSIGN_OR_RETURN(const FitrimOutcome outcome,
                        RunFitrim(
                            directory.get(), plan, {}, [](const FitrimProgress&) {}, stop, call));
    if (outcome.cancelled) return absl::CancelledError("stopped");
    discarded.trimmed_bytes = outcome.progress.trimmed_bytes;
    discarded.error_number = outcome.error_number;
    // A journal is on the disk before its blocks are free: ext4 frees them in the callback of the
    // commit, which nobody waits for who comes when the commit itself is done (fs/jbd2/commit.c).
    if (discarded.error_number != 0 || discarded.trimmed_bytes >= marker_bytes / 4 * 3 ||
        std::chrono::steady_clock::now() >= limit) {
      SyncHolders(target.filesystem);
      return discarded;
    }
    std::this_thread::sleep_for(kFreeingStep);
  }
}

size_t RemoveLeftMarkers(const FilesystemList& list) {
  size_t left = 0;
  for (const Filesystem& filesystem : list.filesystems) {
    if (filesystem.chain.devices.empty() || filesystem.read_only) continue;
    for (const std::string& mount_point : filesystem.mount_points) {
      const auto directory = OpenMountPoint(filesystem, mount_point);
      if (directory.ok()) left += RemoveMarkersIn(directory->get());
    }
  }
  return left;
}

}  // namespace virt_reclaim::agent
