// What was found out about a domain, its disks and its guest: plain values, collected by
// host/services, judged by assessment.h. Sizes are bytes. What is not known is absent; absent is
// never 0.
#ifndef VIRT_RECLAIM_HOST_MODEL_FACTS_H_
#define VIRT_RECLAIM_HOST_MODEL_FACTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "xml-tools/domain.h"

namespace virt_reclaim {

enum class DomainState {
  kRunning,
  kPaused,
  kShuttingDown,  // the guest has ended, its QEMU has not: it still holds the images
  kShutOff,
  kCrashed,
  kSuspended,
  kUnknown
};
absl::string_view Name(DomainState state);

// What libvirt says of a domain, without asking its QEMU.
struct DomainSummary {
  std::string name;
  std::string uuid;
  DomainState state = DomainState::kUnknown;
  bool persistent = true;
};

// As libvirt names them (virDomainBlockInfo).
struct Usage {
  std::optional<uint64_t> capacity;    // what the guest sees
  std::optional<uint64_t> allocation;  // storage occupied on the host, like du
  std::optional<uint64_t> physical;    // size of the container, like ls
};

// Where a qcow2 image with data_file keeps the guest's data.
struct DataFile {
  std::string path;
  uint64_t device = 0;
  uint64_t inode = 0;
  bool raw = false;  // its bytes lie where the guest's do (data_file_raw)
};

// One file of a disk's backing chain, from the top down. Identity: device and inode, so that a base
// image that several disks share counts once in a total.
struct ImageFile {
  std::string path;
  std::string format;
  Usage usage;
  uint64_t device = 0;
  uint64_t inode = 0;
  // Of a qcow2 image whose header could be read; else 0.
  uint64_t granularity = 0;  // smallest run of bytes that can come free
  uint32_t internal_snapshots = 0;
  uint32_t qcow2_version = 0;  // 2 has no bitmaps
  bool external_data = false;  // the guest's data is in a file of its own
  // That one, counted in `usage`; absent: it cannot be looked at, and the allocation is not known.
  std::optional<DataFile> data = std::nullopt;
  bool unfinished_copy = false;  // sync has begun to write it and has not finished
};

// Where the guest's data is: the file that is punched.
inline const std::string& DataPath(const ImageFile& image) {
  return image.data ? image.data->path : image.path;
}
inline uint64_t DataDevice(const ImageFile& image) {
  return image.data ? image.data->device : image.device;
}

// What an image says of itself, read from its first bytes.
struct ImageHeader {
  std::string format;  // raw, qcow2, or what else it seems to be
  uint64_t capacity = 0;
  uint64_t granularity = 0;  // of qcow2: its cluster; else 0
  uint32_t internal_snapshots = 0;
  bool backing = false;        // it stands on another image
  bool external_data = false;  // the guest's data is in a file of its own
  bool encrypted = false;
  bool needs_check = false;  // marked as dirty or corrupt
  bool bitmaps = false;      // persistent ones
  bool unknown_features = false;
  // With `backing`: where that lies, which may not be there; empty: no file's name ("json:...").
  std::string backing_path = "";
  std::string backing_format = "";  // empty: not said
  bool backing_elsewhere = false;   // it is reached by a network protocol ("nbd://...")
  std::string data_path = "";       // with `external_data`: likewise; empty: not said
};

// A block device of the host, from its sysfs. Sizes in bytes.
struct HostDevice {
  std::string name;              // kernel name: "dm-3"
  std::string dm_name, dm_uuid;  // of device-mapper ones; the UUID begins with the target's name
  std::vector<std::string> parents;  // what it lies on
  std::optional<uint64_t> discard_max;
  uint64_t discard_granularity = 0;
  uint64_t number = 0;  // its st_rdev; 0: not known
  std::optional<uint64_t> size = std::nullopt;
};

// What QEMU itself says of a disk's device; only when the user let us ask.
struct QemuDevice {
  std::optional<bool> discards;  // whether it takes them
  std::string unknown;           // why that is not known; printable
};

// What lies below an image on the host, as far as discards are concerned.
struct ImageStorage {
  std::string filesystem;           // its type, "ext4"; empty: none, or not known
  std::string nfs_version;          // "4.1"; empty: it is not NFS, or not known
  std::optional<bool> punches;      // whether a hole could be punched beside the image
  std::vector<HostDevice> devices;  // image on a block device: that one, then what it lies on
  std::string unknown;              // why the rest is not known; printable
};

// proto: BlockDeviceKind
enum class GuestDeviceKind { kUnknown, kDisk, kPartition, kDmCrypt, kLvm, kDmOther, kMd, kLoop };

// What the guest's kernel says of one of its block devices (proto: BlockDevice). The guest's word:
// bounded and printable, but not believed.
struct GuestDevice {
  std::string name;
  std::vector<std::string> parents;
  bool is_disk = false;
  uint64_t size = 0;
  std::optional<uint64_t> discard_max;
  std::string serial, wwid, bus_path, scsi_address;
  uint32_t ata_port = 0;  // of its controller, from 1; 0: none
  GuestDeviceKind kind = GuestDeviceKind::kUnknown;
  uint64_t discard_granularity = 0;  // bytes
  std::string dm_name, dm_uuid;
  std::string md_level;      // "raid1"
  std::string backing_file;  // of a loop device
};

// Why the guest cannot trim a filesystem (proto: TrimObstacle).
enum class GuestObstacle {
  kUnknown,
  kNone,
  kReadOnly,
  kNoDevice,
  kNetwork,
  kLoop,
  kAutofs,
  kTypeNotSupported,
  kDiskNotSupported,
  kDmCrypt,
  kLayerNotSupported,
  kPartial,
};

struct GuestFilesystem {
  std::string source, type, uuid;
  std::vector<std::string> mount_points;
  // Of each of them: "/" or a btrfs subvolume; empty: a directory that is bind mounted. None at
  // all: not known.
  std::vector<std::string> mount_roots;
  uint64_t size = 0, used = 0, free = 0;
  std::optional<uint64_t> freed_since_trim;  // about; absent: not known
  std::vector<GuestDevice> devices;
  GuestObstacle obstacle = GuestObstacle::kUnknown;
  std::string obstacle_device;
  std::optional<bool> discard_option;  // mounted with 'discard' or 'nodiscard'; empty: neither said
};

struct GuestFacts {
  std::string agent_version, kernel_release, boot_id, os_name;
  absl::Duration uptime;
  std::vector<GuestFilesystem> filesystems;
  std::optional<absl::Duration> agent_uptime;  // since it began; empty: it does not tell
};

// What the guest uses of one of the domain's disks.
struct GuestDiskUse {
  uint64_t used = 0;  // by mounted filesystems
  uint64_t free = 0;  // in mounted filesystems
  // Of the disk, but in the size of no mounted filesystem: other partitions, journals, inode
  // tables. Counts as in use.
  uint64_t unknown = 0;
  GuestObstacle obstacle = GuestObstacle::kUnknown;
  std::string obstacle_device;
};

struct DiskFacts {
  xml::Disk xml;
  Usage usage;                   // allocation: the sum over `chain`, when that is known
  std::vector<ImageFile> chain;  // empty: not local files
  absl::Status image_error;      // of the top image: why it could not be examined
  std::optional<GuestDiskUse> guest;
  // Of `guest`: free there and allocated in the top image, by comparing both maps. Absent: they
  // were not asked, or one of them is not to be had.
  std::optional<uint64_t> free_and_allocated;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_FACTS_H_
