#include "host/freemap/scan.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "host/freemap/foreign_state.h"
#include "host/freemap/lvm_set.h"
#include "host/freemap/partition_table.h"
#include "host/freemap/signatures.h"

namespace virt_reclaim::freemap {
namespace {

constexpr char kSuspended[] = "swsuspend";

constexpr char kPhysicalVolume[] = "LVM2_member";

struct PhysicalVolume {
  Filesystem found;
  SliceSource source;
};

// A slice of BSD or Solaris, or a nested disk. Beside a filesystem it is not clear which of them
// holds, and no engine is to mount it. libblkid 2.38 takes the boot sector of exFAT for a table
// besides.
absl::Status CheckNoTable(const Signature& found) {
  if (found.table.empty() || found.type == "exfat") return absl::OkStatus();
  return found.type.empty() ? UnknownError("a partition table inside")
                            : StateError("a filesystem and a partition table at once");
}

class Scan {
 public:
  Scan(std::span<const ByteSource* const> disks, const ReadOptions& options, int scratch)
      : disks_(disks), options_(options), scratch_(scratch) {}

  ScanResult Run() {
    for (uint32_t disk = 0; disk < disks_.size(); ++disk) ReadDisk(disk);
    ReadLvm();
    if (suspended_) RefuseAll(absl::StrCat("a ", kHibernated, " system is on these disks"));
    return std::move(result_);
  }

 private:
  void ReadDisk(uint32_t disk);
  void ReadContent(uint32_t disk, const ByteSource& source, uint64_t offset, std::string place);
  void ReadFilesystem(Filesystem found, const ByteSource& source);
  void ReadLvm();
  void ReadGroup(const LvmSet& set);
  void ReadVolume(const LvmSet& set, const LvmVolume& volume);
  void AddFreeExtents(const LvmSet& set);
  void AddMapped(Filesystem found, const LvmSet& set, std::vector<FreeList> on_pvs);
  void Refuse(Filesystem found, const absl::Status& why);
  void RefuseAll(const std::string& why);

  std::span<const ByteSource* const> disks_;
  ReadOptions options_;
  int scratch_;
  ScanResult result_;
  std::vector<PhysicalVolume> pvs_;
  size_t extents_ = 0;
  bool suspended_ = false;
};

void Scan::Refuse(Filesystem found, const absl::Status& why) {
  found.refusal = RefusalOf(why);
  found.reason = std::string(why.message());
  if (result_.filesystems.size() < kMaxFilesystems) result_.filesystems.push_back(std::move(found));
}

// What a sleeping kernel has in memory may be newer than any of its disks, however clean they look.
void Scan::RefuseAll(const std::string& why) {
  result_.runs.clear();
  for (Filesystem& filesystem : result_.filesystems) {
    if (filesystem.refusal != Refusal::kNone) continue;
    filesystem.refusal = Refusal::kState;
    filesystem.reason = why;
    filesystem.free_bytes = filesystem.dropped_bytes = 0;
  }
}

void Scan::ReadFilesystem(Filesystem found, const ByteSource& source) {
  if (found.type == kPhysicalVolume && !found.mapped) {  // read when all of them are known
    const SliceSource slice(*disks_[found.disk], found.offset, found.length);
    pvs_.push_back({std::move(found), slice});
    return;
  }
  const Reader reader = ReaderFor(found.type);
  if (found.type == kSuspended) {
    suspended_ = true;
    return Refuse(std::move(found),
                  StateError(absl::StrCat("the memory of a ", kHibernated, " system")));
  }
  if (found.type.empty()) return Refuse(std::move(found), UnknownError("nothing that is known"));
  if (reader == nullptr) {
    const absl::Status why = WhyNoReader(found.type, source);
    return Refuse(std::move(found), why);
  }
  if (result_.filesystems.size() >= kMaxFilesystems) return;
  // One bound for all filesystems together.
  FreeList free(options_.min_bytes, kMaxExtents - extents_);
  absl::Status status = reader(source, options_, found.facts, free);
  if (status.ok()) status = free.Finish(std::min(source.size(), found.facts.size_bytes));
  suspended_ = suspended_ || found.facts.asleep;
  if (!status.ok()) return Refuse(std::move(found), status);
  found.free_bytes = free.free_bytes();
  found.dropped_bytes = free.dropped_bytes();
  FreeRuns runs = {static_cast<uint32_t>(result_.filesystems.size()), found.disk,
                   std::move(free).TakeExtents()};
  for (Extent& extent : runs.extents) extent.offset += found.offset;
  extents_ += runs.extents.size();
  result_.filesystems.push_back(std::move(found));
  if (!runs.extents.empty()) result_.runs.push_back(std::move(runs));
}

void Scan::ReadContent(uint32_t disk, const ByteSource& source, uint64_t offset,
                       std::string place) {
  Filesystem found;
  found.disk = disk;
  found.offset = offset;
  found.length = source.size();
  found.place = std::move(place);
  const absl::StatusOr<Signature> signature = ProbeSignature(source, scratch_);
  if (!signature.ok()) return Refuse(std::move(found), signature.status());
  found.type = signature->type;
  if (const absl::Status table = CheckNoTable(*signature); !table.ok())
    return Refuse(std::move(found), table);
  ReadFilesystem(std::move(found), source);
}

void Scan::ReadDisk(uint32_t disk) {
  const ByteSource& source = *disks_[disk];
  Filesystem whole;
  whole.disk = disk;
  whole.length = source.size();
  whole.place = "disk";
  const absl::StatusOr<Signature> signature = ProbeSignature(source, scratch_);
  if (!signature.ok()) return Refuse(std::move(whole), signature.status());
  if (signature->table.empty() || signature->type == "exfat") {
    // libblkid 2.38 takes the boot sector of exFAT for a partition table besides.
    whole.type = signature->type;
    return ReadFilesystem(std::move(whole), source);
  }
  if (!signature->type.empty())
    return Refuse(std::move(whole), StateError("a filesystem and a partition table at once"));
  const absl::StatusOr<std::vector<Partition>> partitions =
      ReadPartitionTable(source, signature->table);
  if (!partitions.ok()) return Refuse(std::move(whole), partitions.status());
  for (const Partition& partition : *partitions) {
    const SliceSource slice(source, partition.offset, partition.length);
    const std::string place = absl::StrCat("partition ", partition.number);
    if (partition.in_use.empty()) {
      ReadContent(disk, slice, partition.offset, place);
      continue;
    }
    Filesystem found;
    found.disk = disk;
    found.offset = partition.offset;
    found.length = partition.length;
    found.place = place;
    Refuse(std::move(found), UnknownError(partition.in_use));
  }
}

void Scan::ReadLvm() {
  std::vector<const ByteSource*> sources;
  for (const PhysicalVolume& pv : pvs_) sources.push_back(&pv.source);
  for (const LvmSet& set : AssembleLvm(sources)) {
    if (set.status.ok()) {
      ReadGroup(set);
    } else {
      for (const size_t pv : set.pvs) Refuse(pvs_[pv].found, set.status);
    }
  }
}

void Scan::ReadGroup(const LvmSet& set) {
  for (const LvmVolume& volume : set.group.volumes) ReadVolume(set, volume);
  AddFreeExtents(set);
}

void Scan::ReadVolume(const LvmSet& set, const LvmVolume& volume) {
  Filesystem found;
  found.disk = pvs_[set.pvs.front()].found.disk;
  found.mapped = true;
  found.place = absl::StrCat(set.group.name, "/", volume.name);
  if (!volume.in_use.empty()) return Refuse(std::move(found), UnknownError(volume.in_use));
  std::vector<const ByteSource*> sources;
  for (const size_t pv : set.pvs) sources.push_back(&pvs_[pv].source);
  const LvmVolumeSource source(set.group, volume, sources);
  const absl::StatusOr<Signature> signature = ProbeSignature(source, scratch_);
  if (!signature.ok()) return Refuse(std::move(found), signature.status());
  found.type = signature->type;
  if (const absl::Status table = CheckNoTable(*signature); !table.ok())
    return Refuse(std::move(found), table);
  const Reader reader = ReaderFor(found.type);
  if (reader == nullptr || found.type.empty()) return ReadFilesystem(std::move(found), source);
  FreeList free(options_.min_bytes, kMaxExtents - extents_);
  absl::Status status = reader(source, options_, found.facts, free);
  if (status.ok()) status = free.Finish(std::min(source.size(), found.facts.size_bytes));
  suspended_ = suspended_ || found.facts.asleep;
  if (!status.ok()) return Refuse(std::move(found), status);
  found.free_bytes = free.free_bytes();
  found.dropped_bytes = free.dropped_bytes();
  std::vector<FreeList> on_pvs(set.pvs.size(), FreeList(options_.min_bytes, kMaxExtents));
  for (const Extent& run : free.extents())
    source.Map(run, [&](size_t pv, const Extent& extent) {
      on_pvs[pv].Add(extent.offset, extent.length);
    });
  AddMapped(std::move(found), set, std::move(on_pvs));
}

// What no logical volume has. An old signature in it is nobody's.
void Scan::AddFreeExtents(const LvmSet& set) {
  Filesystem found;
  found.disk = pvs_[set.pvs.front()].found.disk;
  found.mapped = true;
  found.place = absl::StrCat(set.group.name, " (free extents)");
  found.type = kPhysicalVolume;
  found.facts.uuid = set.group.id;
  found.facts.block_bytes = set.group.extent_bytes;
  std::vector<FreeList> on_pvs(set.pvs.size(), FreeList(options_.min_bytes, kMaxExtents));
  for (const LvmPiece& piece : set.group.free) {
    on_pvs[piece.pv].Add(LvmByteOf(set.group, piece.pv, piece.first),
                         piece.count * set.group.extent_bytes);
    found.free_bytes += piece.count * set.group.extent_bytes;
  }
  for (const LvmGroup::Pv& pv : set.group.pvs)
    found.facts.size_bytes += pv.count * set.group.extent_bytes;
  AddMapped(std::move(found), set, std::move(on_pvs));
}

void Scan::AddMapped(Filesystem found, const LvmSet& set, std::vector<FreeList> on_pvs) {
  std::map<uint32_t, std::vector<Extent>> on_disks;
  for (size_t pv = 0; pv < on_pvs.size(); ++pv) {
    const PhysicalVolume& volume = pvs_[set.pvs[pv]];
    if (const absl::Status status = on_pvs[pv].Finish(volume.source.size()); !status.ok()) {
      found.free_bytes = found.dropped_bytes = 0;
      return Refuse(std::move(found), status);
    }
    found.dropped_bytes += on_pvs[pv].dropped_bytes();
    for (const Extent& extent : on_pvs[pv].extents())
      on_disks[volume.found.disk].push_back({extent.offset + volume.found.offset, extent.length});
  }
  size_t count = 0;
  for (const auto& [disk, extents] : on_disks) count += extents.size();
  if (count > kMaxExtents - extents_) {
    found.free_bytes = found.dropped_bytes = 0;
    return Refuse(std::move(found), TooLargeError("too many free runs"));
  }
  if (result_.filesystems.size() >= kMaxFilesystems) return;
  extents_ += count;
  for (auto& [disk, extents] : on_disks) {
    std::ranges::sort(extents);  // two volumes on one disk
    result_.runs.push_back(
        {static_cast<uint32_t>(result_.filesystems.size()), disk, std::move(extents)});
  }
  result_.filesystems.push_back(std::move(found));
}

}  // namespace

Reader ReaderFor(absl::string_view blkid_type) {
  struct Known {
    const char* type;
    Reader reader;
  };
  static constexpr Known kKnown[] = {
      {"ext2", ReadExt}, {"ext3", ReadExt},    {"ext4", ReadExt},
      {"xfs", ReadXfs},  {"btrfs", ReadBtrfs}, {"ntfs", ReadNtfs},
      {"vfat", ReadFat}, {"exfat", ReadExfat}, {"swap", ReadSwap},
  };
  for (const Known& known : kKnown) {
    if (blkid_type == known.type) return known.reader;
  }
  return nullptr;
}

ScanResult ScanDisks(std::span<const ByteSource* const> disks, const ReadOptions& options,
                     int scratch) {
  return Scan(disks.first(std::min(disks.size(), kMaxDisks)), options, scratch).Run();
}

}  // namespace virt_reclaim::freemap
