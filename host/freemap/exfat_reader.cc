// exFAT: the zero bits of the allocation bitmap. The boot region, the up-case table and each
// file's entries have checksums, the bitmap has none; so the tree of directories is walked, and
// nothing in it may be free. Source: Microsoft's "exFAT file system specification" 1.00.
#include <algorithm>
#include <bit>
#include <optional>
#include <vector>

#include "base/status.h"
#include "host/freemap/bytes.h"
#include "host/freemap/exfat_boot.h"
#include "host/freemap/fat_clusters.h"
#include "host/freemap/readers.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uint64_t kMaxUpCaseBytes = 128 << 10;
constexpr uint64_t kMaxDirectoryBytes = 256 << 20;  // the specification's bound

enum EntryType : uint8_t {
  kEndOfDirectory = 0x00,
  kBitmapEntry = 0x81,
  kUpCaseEntry = 0x82,
  kLabelEntry = 0x83,
  kFileEntry = 0x85,
  kGuidEntry = 0xa0,
  kStreamEntry = 0xc0,
  kNameEntry = 0xc1,
  kVendorEntry = 0xe0,
  kVendorAllocation = 0xe1,
};
constexpr uint8_t kInUse = 0x80;

// Clusters of a file, a directory or a table.
struct Allocation {
  uint32_t first = 0;
  uint64_t bytes = 0;
  bool contiguous = false;  // the FAT says nothing of it
};

Allocation AllocationIn(Bytes entry, bool contiguous) {
  return {LittleEndian<uint32_t>(entry, 20), LittleEndian<uint64_t>(entry, 24), contiguous};
}

class ExfatMap {
 public:
  ExfatMap(const ByteSource& source, const ExfatGeometry& geometry, FilesystemFacts& facts,
           FreeList& free)
      : source_(source),
        g_(geometry),
        table_(source, FatKind::kExfat, geometry.fat_offset, geometry.fat_bytes),
        walk_(table_, g_.heap, free),
        facts_(facts),
        free_(free) {}

  absl::Status Read() {
    VR_RETURN_IF_ERROR(CheckTable());
    VR_RETURN_IF_ERROR(ReadRoot());
    VR_RETURN_IF_ERROR(ReadBitmap());
    VR_RETURN_IF_ERROR(free_.Finish(facts_.size_bytes));
    VR_RETURN_IF_ERROR(CheckUpCase());
    VR_RETURN_IF_ERROR(CheckBad());
    return WalkTree();
  }

 private:
  absl::Status CheckTable();
  absl::Status ReadRoot();
  absl::Status ReadBitmap();
  absl::Status CheckUpCase();
  absl::Status CheckBad();
  absl::Status WalkTree();
  absl::Status ReadDirectory(const std::vector<uint32_t>& clusters, bool root);
  absl::Status TakePrimary(Bytes entry, bool root);
  absl::Status TakeSet();
  absl::Status TakeAllocation(const Allocation& allocation, std::vector<uint32_t>* clusters);
  absl::StatusOr<std::vector<uint8_t>> ReadCluster(uint32_t cluster) const {
    return source_.ReadBytes(g_.heap.ByteOf(cluster), g_.heap.cluster_bytes);
  }
  uint64_t ClustersFor(uint64_t bytes) const {
    return bytes / g_.heap.cluster_bytes + (bytes % g_.heap.cluster_bytes != 0 ? 1 : 0);
  }

  const ByteSource& source_;
  const ExfatGeometry& g_;
  FatTable table_;
  ClusterWalk walk_;
  FilesystemFacts& facts_;
  FreeList& free_;
  std::optional<Allocation> bitmap_;
  std::optional<Allocation> up_case_;
  uint32_t up_case_checksum_ = 0;
  std::vector<Allocation> pending_;  // directories

  // The set of entries that is being read.
  std::vector<uint8_t> set_;
  size_t set_bytes_ = 0;  // 0: none
};

// The first two entries belong to no cluster.
absl::Status ExfatMap::CheckTable() {
  if (table_.entries() < uint64_t{g_.heap.count} + 2) return DamagedError("the FAT is too short");
  VR_ASSIGN_OR_RETURN(const uint32_t medium, table_.Raw(0));
  VR_ASSIGN_OR_RETURN(const uint32_t ones, table_.Raw(1));
  if (medium != 0xfffffff8 || ones != 0xffffffff)
    return DamagedError("the FAT does not begin as one");
  return absl::OkStatus();
}

// Where the tables are: the first entries of the root directory, as far as its end.
absl::Status ExfatMap::ReadRoot() {
  bool ended = false;
  VR_RETURN_IF_ERROR(
      FollowChain(table_, g_.heap, g_.root, g_.heap.count, [&](uint32_t cluster) -> absl::Status {
        if (ended) return absl::OkStatus();
        VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, ReadCluster(cluster));
        for (size_t at = 0; at < bytes.size() && !ended; at += kFatEntryBytes) {
          const Bytes entry = Part(bytes, at, kFatEntryBytes);
          ended = entry[0] == kEndOfDirectory;
          if (entry[0] != kBitmapEntry && entry[0] != kUpCaseEntry) continue;
          auto& table = entry[0] == kBitmapEntry ? bitmap_ : up_case_;
          if (table) return DamagedError("two tables where one belongs");
          table = AllocationIn(entry, false);
          if (entry[0] == kUpCaseEntry) up_case_checksum_ = LittleEndian<uint32_t>(entry, 4);
          if (entry[0] == kBitmapEntry && (entry[1] & 1) != 0)
            return DamagedError("a second bitmap alone");
        }
        return absl::OkStatus();
      }));
  if (!bitmap_ || !up_case_) return DamagedError("no bitmap, or no up-case table");
  return absl::OkStatus();
}

absl::Status ExfatMap::ReadBitmap() {
  if (bitmap_->bytes != (uint64_t{g_.heap.count} + 7) / 8)
    return DamagedError("the bitmap's length");
  const uint64_t clusters = ClustersFor(bitmap_->bytes);
  uint64_t number = 0;  // of the bits that were read
  VR_RETURN_IF_ERROR(
      FollowChain(table_, g_.heap, bitmap_->first, clusters, [&](uint32_t cluster) -> absl::Status {
        VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, ReadCluster(cluster));
        for (size_t i = 0; i < bytes.size() && number < g_.heap.count; ++i) {
          const uint64_t count = std::min<uint64_t>(8, g_.heap.count - number);
          for (uint64_t bit = 0; bit < count && bytes[i] != 0xff; ++bit) {
            if ((bytes[i] >> bit & 1) == 0)
              free_.Add(g_.heap.ByteOf(static_cast<uint32_t>(number + bit + 2)),
                        g_.heap.cluster_bytes);
          }
          number += count;
        }
        return absl::OkStatus();
      }));
  if (number != g_.heap.count) return DamagedError("the bitmap is too short");
  return absl::OkStatus();
}

// `clusters`, if wanted, gets the numbers; then the allocation is a directory's.
absl::Status ExfatMap::TakeAllocation(const Allocation& allocation,
                                      std::vector<uint32_t>* clusters) {
  const auto keep = [clusters](uint32_t cluster) -> absl::Status {
    if (clusters == nullptr) return absl::OkStatus();
    if (clusters->size() >= kMaxPendingDirectories) return TooLargeError("a directory is too long");
    clusters->push_back(cluster);
    return absl::OkStatus();
  };
  const uint64_t count = ClustersFor(allocation.bytes);
  if (count == 0) {
    if (allocation.first == 0) return absl::OkStatus();
    return DamagedError("an empty file has clusters");
  }
  if (!allocation.contiguous) {
    VR_ASSIGN_OR_RETURN(const uint64_t found, walk_.Chain(allocation.first, keep));
    if (found != count) return DamagedError("a chain of clusters is not as long as its file");
    return absl::OkStatus();
  }
  VR_RETURN_IF_ERROR(walk_.Run(allocation.first, count));
  if (clusters == nullptr) return absl::OkStatus();
  for (uint64_t i = 0; i < count; ++i)
    VR_RETURN_IF_ERROR(keep(allocation.first + static_cast<uint32_t>(i)));
  return absl::OkStatus();
}

absl::Status ExfatMap::CheckUpCase() {
  if (up_case_->bytes == 0 || up_case_->bytes > kMaxUpCaseBytes)
    return DamagedError("the up-case table's length");
  std::vector<uint32_t> clusters;
  VR_RETURN_IF_ERROR(TakeAllocation(*up_case_, &clusters));
  uint32_t sum = 0;
  uint64_t left = up_case_->bytes;
  for (const uint32_t cluster : clusters) {
    const size_t count = std::min<uint64_t>(left, g_.heap.cluster_bytes);
    VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                        source_.ReadBytes(g_.heap.ByteOf(cluster), count));
    for (const uint8_t byte : bytes) sum = std::rotr(sum, 1) + byte;
    left -= count;
  }
  if (sum != up_case_checksum_) return DamagedError("bad checksum of the up-case table");
  return absl::OkStatus();
}

// A bad cluster is never free.
absl::Status ExfatMap::CheckBad() {
  for (uint32_t cluster = 2; cluster - 2 < g_.heap.count; ++cluster) {
    VR_ASSIGN_OR_RETURN(const uint32_t value, table_.Get(cluster));
    if (value == kFatBad && free_.Touches(g_.heap.ByteOf(cluster), g_.heap.cluster_bytes))
      return DamagedError("a bad cluster is free");
  }
  return absl::OkStatus();
}

// A file: its entry, its stream's, its name's, and what vendors add.
absl::Status ExfatMap::TakeSet() {
  uint16_t sum = 0;
  for (size_t i = 0; i < set_.size(); ++i) {
    if (i != 2 && i != 3) sum = static_cast<uint16_t>(std::rotr(sum, 1) + set_[i]);
  }
  if (sum != LittleEndian<uint16_t>(set_, 2))
    return DamagedError("bad checksum of a file's entries");
  constexpr uint16_t kDirectory = 0x10;
  const bool directory = (LittleEndian<uint16_t>(set_, 4) & kDirectory) != 0;
  for (size_t at = kFatEntryBytes; at < set_.size(); at += kFatEntryBytes) {
    const Bytes entry = Part(set_, at, kFatEntryBytes);
    const uint8_t type = entry[0];
    if ((type == kStreamEntry) != (at == kFatEntryBytes)) return DamagedError("a file's entries");
    if (type == kNameEntry || type == kVendorEntry) continue;
    if (type != kStreamEntry && type != kVendorAllocation)
      return UnknownError("an unknown entry of a file");
    const Allocation allocation = AllocationIn(entry, (entry[1] & 2) != 0);
    if ((entry[1] & 1) == 0) {
      if (allocation.first != 0 || allocation.bytes != 0)
        return DamagedError("clusters where none may be");
      continue;
    }
    if (type == kStreamEntry && LittleEndian<uint64_t>(entry, 8) > allocation.bytes)
      return DamagedError("a file is longer than its clusters");
    if (!directory || type != kStreamEntry) {
      VR_RETURN_IF_ERROR(TakeAllocation(allocation, nullptr));
      continue;
    }
    if (allocation.bytes > kMaxDirectoryBytes) return DamagedError("a directory's length");
    if (pending_.size() >= kMaxPendingDirectories) return TooLargeError("too many directories");
    pending_.push_back(allocation);
  }
  return absl::OkStatus();
}

absl::Status ExfatMap::TakePrimary(Bytes entry, bool root) {
  const uint8_t type = entry[0];
  if (type == kFileEntry) {
    set_.assign(entry.begin(), entry.end());
    set_bytes_ = (size_t{entry[1]} + 1) * kFatEntryBytes;
    if (entry[1] < 2) return DamagedError("a file's entries");
    return absl::OkStatus();
  }
  if (!root) return DamagedError("an entry of the root directory elsewhere");
  if (type == kLabelEntry && entry[1] <= 11) {
    for (size_t i = 0; i < entry[1]; ++i) {
      const uint16_t unit = LittleEndian<uint16_t>(entry, 2 + 2 * i);
      facts_.label += unit < 0x80 ? static_cast<char>(unit) : '?';
    }
    return absl::OkStatus();
  }
  if (type == kBitmapEntry || type == kUpCaseEntry) return absl::OkStatus();  // taken before
  if (type == kGuidEntry && entry[1] == 0) return absl::OkStatus();
  return UnknownError("an unknown entry of the root directory");
}

absl::Status ExfatMap::ReadDirectory(const std::vector<uint32_t>& clusters, bool root) {
  bool ended = false;
  set_bytes_ = 0;
  for (const uint32_t cluster : clusters) {
    VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, ReadCluster(cluster));
    for (size_t at = 0; at < bytes.size(); at += kFatEntryBytes) {
      const Bytes entry = Part(bytes, at, kFatEntryBytes);
      ended = ended || entry[0] == kEndOfDirectory;
      if (set_bytes_ != 0) {
        constexpr uint8_t kSecondary = 0x40;
        if ((entry[0] & kInUse) == 0 || (entry[0] & kSecondary) == 0)
          return DamagedError("a file's entries are cut short");
        set_.insert(set_.end(), entry.begin(), entry.end());
        if (set_.size() < set_bytes_) continue;
        set_bytes_ = 0;
        VR_RETURN_IF_ERROR(TakeSet());
        continue;
      }
      if ((entry[0] & kInUse) == 0) continue;
      if (ended) return DamagedError("entries behind the end of a directory");
      VR_RETURN_IF_ERROR(TakePrimary(entry, root));
    }
  }
  if (set_bytes_ != 0) return DamagedError("a file's entries are cut short");
  return absl::OkStatus();
}

absl::Status ExfatMap::WalkTree() {
  VR_RETURN_IF_ERROR(TakeAllocation(*bitmap_, nullptr));
  std::vector<uint32_t> clusters;
  const auto root = walk_.Chain(g_.root, [&clusters](uint32_t cluster) {
    if (clusters.size() >= kMaxPendingDirectories) return TooLargeError("a directory is too long");
    clusters.push_back(cluster);
    return absl::OkStatus();
  });
  VR_RETURN_IF_ERROR(root.status());
  VR_RETURN_IF_ERROR(ReadDirectory(clusters, true));
  while (!pending_.empty()) {
    const Allocation directory = pending_.back();
    pending_.pop_back();
    clusters.clear();
    VR_RETURN_IF_ERROR(TakeAllocation(directory, &clusters));
    VR_RETURN_IF_ERROR(ReadDirectory(clusters, false));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadExfat(const ByteSource& source, const ReadOptions& options, FilesystemFacts& facts,
                       FreeList& free) {
  VR_ASSIGN_OR_RETURN(const ExfatGeometry geometry, ReadExfatBoot(source, facts));
  if (options.strict) return UncheckedError("exFAT has no checksum on its map");
  return ExfatMap(source, geometry, facts, free).Read();
}

}  // namespace virt_reclaim::freemap
