#include "host/freemap/scan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "host/freemap/partition_table.h"
#include "host/freemap/signatures.h"

namespace virt_reclaim::freemap {
namespace {

constexpr char kSuspended[] = "swsuspend";

class Scan {
 public:
  Scan(std::span<const ByteSource* const> disks, const ReadOptions& options)
      : disks_(disks), options_(options) {}

  ScanResult Run() {
    for (uint32_t disk = 0; disk < disks_.size(); ++disk) ReadDisk(disk);
    if (suspended_) RefuseAll("a hibernated system is on these disks");
    return std::move(result_);
  }

 private:
  void ReadDisk(uint32_t disk);
  void ReadContent(uint32_t disk, const ByteSource& source, uint64_t offset, std::string place);
  void ReadFilesystem(Filesystem found, const ByteSource& source);
  void Refuse(Filesystem found, const absl::Status& why);
  void RefuseAll(const char* why);

  std::span<const ByteSource* const> disks_;
  ReadOptions options_;
  ScanResult result_;
  size_t extents_ = 0;
  bool suspended_ = false;
};

void Scan::Refuse(Filesystem found, const absl::Status& why) {
  found.refusal = RefusalOf(why);
  found.reason = std::string(why.message());
  if (result_.filesystems.size() < kMaxFilesystems) result_.filesystems.push_back(std::move(found));
}

// What a sleeping kernel has in memory may be newer than any of its disks, however clean they look.
void Scan::RefuseAll(const char* why) {
  result_.runs.clear();
  for (Filesystem& filesystem : result_.filesystems) {
    if (filesystem.refusal != Refusal::kNone) continue;
    filesystem.refusal = Refusal::kState;
    filesystem.reason = why;
    filesystem.free_bytes = filesystem.dropped_bytes = 0;
  }
}

void Scan::ReadFilesystem(Filesystem found, const ByteSource& source) {
  const Reader reader = ReaderFor(found.type);
  if (found.type == kSuspended) {
    suspended_ = true;
    return Refuse(std::move(found), StateError("the memory of a hibernated system"));
  }
  if (found.type.empty()) return Refuse(std::move(found), UnknownError("nothing that is known"));
  if (reader == nullptr)
    return Refuse(std::move(found), UnknownError(absl::StrCat("no reader for ", found.type)));
  if (result_.filesystems.size() >= kMaxFilesystems) return;
  // One bound for all filesystems together.
  FreeList free(options_.min_bytes, kMaxExtents - extents_);
  absl::Status status = reader(source, options_, found.facts, free);
  if (status.ok()) status = free.Finish(std::min(source.size(), found.facts.size_bytes));
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
  const absl::StatusOr<Signature> signature = ProbeSignature(source);
  if (!signature.ok()) return Refuse(std::move(found), signature.status());
  found.type = signature->type;
  // A partition table inside a partition: a slice of BSD or Solaris, or a nested disk.
  if (!signature->table.empty() && found.type != "exfat")
    return Refuse(std::move(found), UnknownError("a partition table inside"));
  ReadFilesystem(std::move(found), source);
}

void Scan::ReadDisk(uint32_t disk) {
  const ByteSource& source = *disks_[disk];
  Filesystem whole;
  whole.disk = disk;
  whole.length = source.size();
  whole.place = "disk";
  const absl::StatusOr<Signature> signature = ProbeSignature(source);
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

}  // namespace

Reader ReaderFor(absl::string_view blkid_type) {
  struct Known {
    const char* type;
    Reader reader;
  };
  static constexpr Known kKnown[] = {
      {"ext2", ReadExt}, {"ext3", ReadExt}, {"ext4", ReadExt}, {"xfs", ReadXfs}, {"swap", ReadSwap},
  };
  for (const Known& known : kKnown) {
    if (blkid_type == known.type) return known.reader;
  }
  return nullptr;
}

ScanResult ScanDisks(std::span<const ByteSource* const> disks, const ReadOptions& options) {
  return Scan(disks.first(std::min(disks.size(), kMaxDisks)), options).Run();
}

}  // namespace virt_reclaim::freemap
