#include "host/punch/filesystem.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"

namespace virt_reclaim::punch {
namespace {

// fs/ext4/ext4.h, struct ext4_super_block; all numbers little-endian.
constexpr off_t kExt4Superblock = 1024;
constexpr size_t kExt4LogClusterSize = 0x1c;
constexpr size_t kExt4Magic = 0x38;
constexpr size_t kExt4FeatureRoCompat = 0x64;
constexpr uint32_t kExt4Bigalloc = 0x200;
constexpr uint32_t kExt4MaxLogCluster = 18;  // mke2fs: at most 256 MiB

uint32_t LittleEndian(const unsigned char* bytes, size_t count) {
  uint32_t value = 0;
  for (size_t i = 0; i < count; ++i) value |= uint32_t{bytes[i]} << (8 * i);
  return value;
}

// 0 when there are no clusters, or we cannot know: then single blocks are punched, and some of them
// free nothing.
uint64_t Ext4Cluster(dev_t device) {
  const auto event = ReadFile(
      absl::StrCat("/sys/dev/block/", major(device), ":", minor(device), "/uevent"), 65536);
  if (!event.ok()) return 0;
  std::string node;
  for (const absl::string_view line : absl::StrSplit(*event, '\n')) {
    if (absl::StartsWith(line, "DEVNAME=")) node = absl::StrCat("/dev/", line.substr(8));
  }
  const UniqueFd fd(open(node.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status;
  unsigned char super[1024];
  if (!fd.valid() || fstat(fd.get(), &status) != 0 || !S_ISBLK(status.st_mode) ||
      status.st_rdev != device ||
      pread(fd.get(), super, sizeof super, kExt4Superblock) != ssize_t{sizeof super}) {
    return 0;
  }
  const uint32_t log_cluster = LittleEndian(super + kExt4LogClusterSize, 4);
  const bool bigalloc = (LittleEndian(super + kExt4FeatureRoCompat, 4) & kExt4Bigalloc) != 0;
  if (LittleEndian(super + kExt4Magic, 2) != EXT4_SUPER_MAGIC || !bigalloc ||
      log_cluster > kExt4MaxLogCluster) {
    return 0;
  }
  return uint64_t{1024} << log_cluster;
}

Ability FromErrno(int error) {
  if (error == 0) return Ability::kYes;
  return error == EOPNOTSUPP || error == ENOSYS || error == ENOTTY || error == EINVAL
             ? Ability::kNo
             : Ability::kUnknown;
}

}  // namespace

absl::StatusOr<uint64_t> AllocationUnit(int fd) {
  struct stat status;
  struct statfs filesystem;
  if (fstat(fd, &status) != 0 || fstatfs(fd, &filesystem) != 0) return ErrnoStatus(errno, "statfs");
  int block = 0;
  uint64_t unit = 0;
  if (ioctl(fd, FIGETBSZ, &block) == 0 && block > 0) {
    unit = static_cast<uint64_t>(block);
  } else {
    unit = static_cast<uint64_t>(filesystem.f_bsize);
  }
  if (filesystem.f_type == EXT4_SUPER_MAGIC) {
    const uint64_t cluster = Ext4Cluster(status.st_dev);
    if (cluster % unit == 0 && cluster > unit) unit = cluster;
  }
  if (unit < 512 || (unit & (unit - 1)) != 0)
    return absl::UnimplementedError(absl::StrCat("blocks of ", unit, " bytes"));
  return unit;
}

absl::StatusOr<UniqueFd> MakeTemporary(const std::string& directory, int like) {
  UniqueFd fd(open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, "make a temporary file");
  int wanted = 0;
  int has = 0;
  if (ioctl(like, FS_IOC_GETFLAGS, &wanted) == 0 && ioctl(fd.get(), FS_IOC_GETFLAGS, &has) == 0 &&
      ((wanted ^ has) & FS_NOCOW_FL) != 0) {
    has ^= FS_NOCOW_FL;  // btrfs lets it change while the file is empty
    if (ioctl(fd.get(), FS_IOC_SETFLAGS, &has) != 0) return ErrnoStatus(errno, "set No_COW");
  }
  return fd;
}

DedupeResult Dedupe(int from, uint64_t from_offset, int to, uint64_t to_offset, uint64_t bytes) {
  alignas(file_dedupe_range) unsigned char
      buffer[sizeof(file_dedupe_range) + sizeof(file_dedupe_range_info)] = {};
  auto* call = reinterpret_cast<file_dedupe_range*>(buffer);
  call->src_offset = from_offset;
  call->src_length = bytes;
  call->dest_count = 1;
  call->info[0].dest_fd = to;
  call->info[0].dest_offset = to_offset;
  DedupeResult result;
  while (ioctl(from, FIDEDUPERANGE, call) != 0) {
    if (errno == EINTR) continue;
    result.error = errno;
    return result;
  }
  const int status = call->info[0].status;
  if (status < 0) result.error = -status;
  result.differs = status == FILE_DEDUPE_RANGE_DIFFERS;
  if (status == FILE_DEDUPE_RANGE_SAME) result.bytes = call->info[0].bytes_deduped;
  return result;
}

absl::StatusOr<std::string> RealDirectory(const std::string& path) {
  const std::string real = RealPath(path);
  if (real.empty()) return ErrnoStatus(errno, "resolve " + Quoted(path));
  const size_t slash = real.rfind('/');
  return slash == 0 ? "/" : real.substr(0, slash);
}

absl::StatusOr<FilesystemFacts> ProbeFilesystem(int fd, const std::string& directory) {
  FilesystemFacts facts;
  VR_ASSIGN_OR_RETURN(facts.unit_bytes, AllocationUnit(fd));
  struct statfs filesystem;
  if (fstatfs(fd, &filesystem) != 0) return ErrnoStatus(errno, "statfs");
  facts.btrfs = filesystem.f_type == BTRFS_SUPER_MAGIC;
  const auto target = MakeTemporary(directory, fd);
  const auto source = MakeTemporary(directory, fd);
  if (!target.ok() || !source.ok()) return facts;
  struct stat image;
  struct stat made;
  // A file that is mounted over another one has a directory of another filesystem.
  if (fstat(fd, &image) != 0 || fstat(target->get(), &made) != 0 || image.st_dev != made.st_dev)
    return facts;
  const auto unit = static_cast<off_t>(facts.unit_bytes);
  if (ftruncate(target->get(), unit) != 0 || ftruncate(source->get(), unit) != 0) return facts;
  facts.punches = FromErrno(
      fallocate(target->get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, unit) == 0 ? 0
                                                                                         : errno);
  facts.atomic = FromErrno(Dedupe(source->get(), 0, target->get(), 0, facts.unit_bytes).error);
  return facts;
}

}  // namespace virt_reclaim::punch
