#include "host/services/image_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "host/guard/holders.h"
#include "host/services/allocation_map.h"
#include "host/services/hole_trial.h"
#include "host/services/host_storage.h"
#include "host/services/qcow2_header.h"
#include "host/sync/unfinished_mark.h"

namespace virt_reclaim {
namespace {

constexpr size_t kMaxChain = 200;  // libvirt's own limit (virStorageFileGetMetadata)
constexpr uint64_t kSubclusters = 32;
constexpr uint64_t kPunchTestBytes = 16 * kMiB;
constexpr uint64_t kPunchBytes = 4 * kMiB;  // of which each punch takes away so much
constexpr uint64_t kRoomForPunchTest = 256 * kMiB;
constexpr uint64_t kLeastGranularity = 4096;  // the block of nearly every filesystem
// The watch of a trim must not hang with the storage it looks at.
constexpr absl::Duration kReadPatience = absl::Milliseconds(500);

// O_NONBLOCK: a FIFO in place of an image must not hang us. A lease is another virt-reclaim's more
// often than not, and opening the image would make it stop.
absl::StatusOr<UniqueFd> OpenForHeader(const std::string& path) {
  struct stat st;
  if (stat(path.c_str(), &st) == 0 && HasLease(path, IdentityOf(st)))
    return absl::AbortedError(absl::StrCat("'", path, "' is in use: somebody holds a lease on it"));
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open '", path, "'"));
  return fd;
}

absl::StatusOr<std::string> ReadStart(int fd, const std::string& path) {
  std::string start(kQcow2HeaderBytes, '\0');
  const ssize_t n = pread(fd, start.data(), start.size(), 0);
  if (n < 0) return ErrnoStatus(errno, absl::StrCat("read '", path, "'"));
  start.resize(static_cast<size_t>(n));
  return start;
}

absl::StatusOr<Qcow2Header> ReadQcow2Header(const std::string& path) {
  VR_ASSIGN_OR_RETURN(const UniqueFd fd, OpenForHeader(path));
  VR_ASSIGN_OR_RETURN(const std::string start, ReadStart(fd.get(), path));
  return ParseQcow2Header(start);
}

// By the magic bytes that QEMU's own probes go by (block/*.c); what none of them claims is raw.
std::string FormatOf(absl::string_view start) {
  struct Magic {
    size_t offset;
    absl::string_view bytes;
    const char* format;
  };
  static constexpr Magic kMagics[] = {
      {0, "QFI\xfb", "qcow2"},
      {0, absl::string_view("QED\0", 4), "qed"},
      {0, "KDMV", "vmdk"},
      {0, "COWD", "vmdk"},
      {0, "# Disk DescriptorFile", "vmdk"},
      {0, "conectix", "vpc"},
      {0, "vhdxfile", "vhdx"},
      {64, "\x7f\x10\xda\xbe", "vdi"},
      {0, "WithoutFreeSpace", "parallels"},
      {0, "WithouFreSpacExt", "parallels"},
  };
  for (const Magic& magic : kMagics) {
    if (start.size() > magic.offset && absl::StartsWith(start.substr(magic.offset), magic.bytes))
      return magic.format;
  }
  return "raw";
}

// Where a backing file's name points; empty for what is no plain file name ("nbd://...",
// "json:{...}").
std::string ResolveBacking(const std::string& overlay, const std::string& name) {
  if (absl::StartsWith(name, "/")) return name;
  const size_t colon = name.find(':');
  if (name.empty() || (colon != std::string::npos && name.find('/') > colon)) return "";
  const size_t slash = overlay.rfind('/');
  return slash == std::string::npos ? name : absl::StrCat(overlay.substr(0, slash + 1), name);
}

// "nbd://host/x", "rbd:pool/x". What has a name that is not listed may be a file of this machine.
bool IsNetworkName(absl::string_view name) {
  static constexpr const char* kProtocols[] = {"nbd", "nbds", "rbd",   "iscsi", "iser",   "http",
                                               "ftp", "ftps", "https", "ssh",   "gluster"};
  return std::any_of(std::begin(kProtocols), std::end(kProtocols), [&](const char* protocol) {
    return absl::StartsWith(name, absl::StrCat(protocol, ":"));
  });
}

// The data file that a qcow2 header names, and its `st`; empty: it cannot be looked at. A relative
// name is nobody's: QEMU 7.2 looks for it in its own working directory (measured), libvirt beside
// the image.
std::optional<DataFile> DataFileOf(const Qcow2Header& header, struct stat& st) {
  DataFile data;
  data.path = header.data_file;
  data.raw = header.data_is_raw;
  const bool is_path = absl::StartsWith(data.path, "/") && !absl::StrContains(data.path, '\0');
  if (!is_path || stat(data.path.c_str(), &st) != 0 || !S_ISREG(st.st_mode)) return std::nullopt;
  data.device = st.st_dev;
  data.inode = st.st_ino;
  return data;
}

absl::StatusOr<uint64_t> AllocationOf(const std::string& path, uint64_t device, uint64_t inode) {
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return ErrnoStatus(errno, absl::StrCat("stat '", path, "'"));
  if (st.st_dev != device || st.st_ino != inode) {
    return absl::UnavailableError(
        absl::StrCat("'", path, "' was replaced by another file meanwhile"));
  }
  return AllocatedBytes(st);
}

absl::StatusOr<uint64_t> RoomAt(const std::string& path) {
  struct statvfs room;
  if (statvfs(path.c_str(), &room) != 0)
    return ErrnoStatus(errno, absl::StrCat("look at '", path, "'"));
  return uint64_t{room.f_bavail} * room.f_frsize;
}

// A file without a name, so that nothing is left of it whatever happens.
absl::StatusOr<UniqueFd> TemporaryFile(const std::string& directory) {
  UniqueFd fd(open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (fd.valid()) return fd;
  if (errno != EOPNOTSUPP && errno != EISDIR)
    return ErrnoStatus(errno, absl::StrCat("make a file in '", directory, "'"));
  // NFS and the like.
  std::string name = absl::StrCat(directory, ".virt-reclaim-XXXXXX");
  fd = UniqueFd(mkostemp(name.data(), O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("make a file in '", directory, "'"));
  unlink(name.c_str());
  return fd;
}

absl::StatusOr<std::string> FindRealPath(const std::string& path) {
  std::string real = RealPath(path);
  if (real.empty()) return ErrnoStatus(errno, absl::StrCat("find '", path, "'"));
  return real;
}

// Written and synced: what a filesystem has not allocated yet costs nothing to punch.
absl::Status FillForPunch(int fd, const std::string& directory) {
  const std::string bytes = IncompressibleBytes(size_t{1} << 20);
  for (uint64_t at = 0; at < kPunchTestBytes; at += bytes.size()) {
    const ssize_t n = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (n < 0) return ErrnoStatus(errno, absl::StrCat("write to a file in '", directory, "'"));
    if (static_cast<size_t>(n) != bytes.size())
      return absl::ResourceExhaustedError(absl::StrCat("no space in '", directory, "'"));
  }
  if (fdatasync(fd) != 0)
    return ErrnoStatus(errno, absl::StrCat("sync a file in '", directory, "'"));
  return absl::OkStatus();
}

class PosixImageStore : public ImageStore {
 public:
  absl::StatusOr<std::vector<ImageFile>> Chain(
      const xml::ImageSource& top, const std::vector<xml::ImageSource>& backing) override {
    std::vector<ImageFile> chain;
    xml::ImageSource source = top;
    while (chain.size() < kMaxChain && source.type == "file" && !source.path.empty()) {
      std::string next_name;
      std::string next_format;
      auto file = Examine(source, next_name, next_format);
      if (!file.ok()) {
        if (chain.empty()) return file.status();
        break;
      }
      const bool seen = std::any_of(chain.begin(), chain.end(), [&](const ImageFile& other) {
        return other.device == file->device && other.inode == file->inode;
      });
      if (seen) break;  // a loop in the chain
      chain.push_back(*std::move(file));
      if (chain.size() <= backing.size()) {
        source = backing[chain.size() - 1];
      } else if (backing.empty()) {
        source = {"file", next_format, ResolveBacking(source.path, next_name)};
      } else {
        break;
      }
    }
    return chain;
  }

  absl::StatusOr<bool> CanPunch(const std::string& path) override {
    const std::string directory = path.substr(0, path.rfind('/') + 1);
    VR_ASSIGN_OR_RETURN(const UniqueFd fd, TemporaryFile(directory));
    auto can = TryHole(fd.get());
    if (!can.ok()) return Annotate(can.status(), absl::StrCat("a file in '", directory, "'"));
    return can;
  }

  absl::StatusOr<ImageHeader> ReadHeader(const std::string& path,
                                         const std::string& format) override {
    VR_ASSIGN_OR_RETURN(const UniqueFd fd, OpenForHeader(path));
    const off_t end = lseek(fd.get(), 0, SEEK_END);  // of a block device, too
    if (end < 0) return ErrnoStatus(errno, absl::StrCat("measure '", path, "'"));
    ImageHeader header;
    header.format = format;
    header.capacity = static_cast<uint64_t>(end);
    if (format == "raw") return header;
    VR_ASSIGN_OR_RETURN(const std::string start, ReadStart(fd.get(), path));
    if (format.empty()) header.format = FormatOf(start);
    if (header.format != "qcow2") return header;
    VR_ASSIGN_OR_RETURN(const Qcow2Header qcow2, ParseQcow2Header(start));
    header.capacity = qcow2.virtual_size;
    header.granularity = uint64_t{1} << qcow2.cluster_bits;
    header.internal_snapshots = qcow2.snapshots;
    header.backing = !qcow2.backing_file.empty();
    header.backing_path = ResolveBacking(path, qcow2.backing_file);
    header.backing_format = qcow2.backing_format;
    header.backing_elsewhere = IsNetworkName(qcow2.backing_file);
    header.external_data = qcow2.external_data;
    header.data_path = ResolveBacking(path, qcow2.data_file);
    header.encrypted = qcow2.encrypted;
    header.needs_check = qcow2.dirty || qcow2.corrupt;
    header.bitmaps = qcow2.bitmaps;
    header.unknown_features = qcow2.unknown_features;
    return header;
  }

  absl::StatusOr<absl::Duration> PunchCost(const std::string& path) override {
    const std::string directory = path.substr(0, path.rfind('/') + 1);
    struct statvfs room;
    if (statvfs(directory.c_str(), &room) != 0)
      return ErrnoStatus(errno, absl::StrCat("look at '", directory, "'"));
    if (uint64_t{room.f_bavail} * room.f_frsize < kRoomForPunchTest)
      return absl::ResourceExhaustedError(absl::StrCat("hardly any space in '", directory, "'"));
    VR_ASSIGN_OR_RETURN(const UniqueFd fd, TemporaryFile(directory));
    VR_RETURN_IF_ERROR(FillForPunch(fd.get(), directory));
    absl::Duration best = absl::InfiniteDuration();
    for (uint64_t at = 0; at < kPunchTestBytes; at += kPunchBytes) {
      const absl::Time begin = absl::Now();
      if (fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(at),
                    static_cast<off_t>(kPunchBytes)) != 0) {
        if (errno == EOPNOTSUPP || errno == ENOSYS)
          return absl::UnimplementedError(absl::StrCat("no holes in '", directory, "'"));
        return ErrnoStatus(errno, absl::StrCat("punch a file in '", directory, "'"));
      }
      best = std::min(best, absl::Now() - begin);  // the others were disturbed
    }
    return best / static_cast<int64_t>(kPunchBytes / kMiB);
  }

  absl::StatusOr<ReadTimer> TimeReads(const std::string& path) override {
    const std::string directory = path.substr(0, path.rfind('/') + 1);
    VR_ASSIGN_OR_RETURN(UniqueFd file, TemporaryFile(directory));
    VR_ASSIGN_OR_RETURN(ReadTimer time, NewReadTimer(std::move(file)));
    return WithPatience(std::move(time), kReadPatience);
  }

  absl::StatusOr<uint64_t> Room(const ImageFile& image) override {
    VR_ASSIGN_OR_RETURN(const uint64_t room, RoomAt(image.path));
    if (!image.data) return room;
    VR_ASSIGN_OR_RETURN(const uint64_t of_data, RoomAt(image.data->path));
    return std::min(room, of_data);
  }

  absl::StatusOr<StorageSpace> Space(const ImageFile& image) override {
    return SpaceBelow(DataPath(image));
  }

  absl::StatusOr<bool> LiesOn(const ImageFile& image, const std::string& path) override {
    VR_ASSIGN_OR_RETURN(const std::string real, FindRealPath(path));
    struct stat here, above;
    if (stat(real.c_str(), &here) != 0 || stat((real + "/..").c_str(), &above) != 0)
      return ErrnoStatus(errno, absl::StrCat("stat '", path, "'"));
    if (here.st_dev != above.st_dev || here.st_ino == above.st_ino)
      return image.device == here.st_dev || DataDevice(image) == here.st_dev;
    VR_ASSIGN_OR_RETURN(const std::string file, FindRealPath(image.path));
    VR_ASSIGN_OR_RETURN(const std::string data, FindRealPath(DataPath(image)));
    return absl::StartsWith(file, real + "/") || absl::StartsWith(data, real + "/");
  }

  ImageStorage Storage(const xml::ImageSource& image) override {
    ImageStorage storage;
    struct stat st;
    if (stat(image.path.c_str(), &st) != 0) {
      storage.unknown = Printable(ErrnoStatus(errno, "stat").message());
    } else if (S_ISBLK(st.st_mode)) {
      storage.devices = ReadHostDevices(st.st_rdev);
      if (storage.devices.empty()) storage.unknown = "the block device is not in sysfs";
    } else if (S_ISREG(st.st_mode)) {
      storage.filesystem = FilesystemType(image.path);
      if (storage.filesystem == "nfs") storage.nfs_version = NfsVersion(st.st_dev);
      const auto punches = CanPunch(image.path);
      if (punches.ok()) {
        storage.punches = *punches;
      } else {
        storage.unknown = Printable(punches.status().message());
      }
    } else {
      storage.unknown = "neither a file nor a block device";
    }
    return storage;
  }

  absl::StatusOr<uint64_t> AllocatedWithin(const ImageFile& image, const std::vector<Range>& free,
                                           const std::stop_token& stop) override {
    ImageFile mapped = image;
    if (image.data && image.data->raw) {  // of which qemu-img calls holes data
      mapped.path = image.data->path;
      mapped.format = "raw";
    }
    VR_ASSIGN_OR_RETURN(const std::vector<Range> allocated, ReadAllocationMap(mapped, stop));
    return TotalBytes(
        Intersect(RoundInwards(free, std::max(image.granularity, kLeastGranularity)), allocated));
  }

  absl::StatusOr<uint64_t> Allocation(const std::vector<ImageFile>& chain) override {
    uint64_t sum = 0;
    for (const ImageFile& file : chain) {
      VR_ASSIGN_OR_RETURN(const uint64_t own, AllocationOf(file.path, file.device, file.inode));
      sum += own;
      if (!file.external_data) continue;
      if (!file.data)
        return absl::UnavailableError(
            absl::StrCat("the data file of '", file.path, "' cannot be looked at"));
      VR_ASSIGN_OR_RETURN(const uint64_t data,
                          AllocationOf(file.data->path, file.data->device, file.data->inode));
      sum += data;
    }
    return sum;
  }

 private:
  static absl::StatusOr<ImageFile> Examine(const xml::ImageSource& source, std::string& next_name,
                                           std::string& next_format) {
    struct stat st;
    if (stat(source.path.c_str(), &st) != 0)
      return ErrnoStatus(errno, absl::StrCat("stat '", source.path, "'"));
    if (!S_ISREG(st.st_mode)) {
      return absl::FailedPreconditionError(
          absl::StrCat("'", source.path, "' is not a regular file"));
    }
    ImageFile file;
    file.path = source.path;
    file.format = source.format;
    file.device = st.st_dev;
    file.inode = st.st_ino;
    file.unfinished_copy = sync::IsUnfinished(source.path);
    file.usage.physical = static_cast<uint64_t>(st.st_size);
    file.usage.allocation = AllocatedBytes(st);
    if (source.format == "qcow2") {
      if (auto header = ReadQcow2Header(source.path); header.ok()) {
        file.usage.capacity = header->virtual_size;
        file.granularity = uint64_t{1} << header->cluster_bits;
        if (header->extended_l2) file.granularity /= kSubclusters;
        file.internal_snapshots = header->snapshots;
        file.qcow2_version = header->version;
        file.external_data = header->external_data;
        if (file.external_data) {
          struct stat data;
          file.data = DataFileOf(*header, data);
          if (file.data) {
            *file.usage.allocation += AllocatedBytes(data);
          } else {
            file.usage.allocation.reset();
          }
        }
        next_name = header->backing_file;
        next_format = header->backing_format;
      }
    } else if (source.format == "raw" || source.format.empty()) {
      file.usage.capacity = file.usage.physical;  // libvirt never probes: no format means raw
    }
    return file;
  }
};

}  // namespace

std::unique_ptr<ImageStore> NewImageStore() { return std::make_unique<PosixImageStore>(); }

}  // namespace virt_reclaim
