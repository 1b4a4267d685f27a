#include "host/sparsify/snapshot_space.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "host/punch/data_map.h"
#include "host/punch/read_at.h"

namespace virt_reclaim::sparsify {
namespace {

constexpr uint64_t kKnownFeatures = 0x1f;  // dirty, corrupt, data file, compression, extended L2
constexpr uint64_t kVersion2Header = 72;
constexpr size_t kSnapshotBytes = 40;  // of one in the table, before what has no fixed length

constexpr uint32_t kMaxSnapshots = 1024;
constexpr uint64_t kMaxExtraBytes = 1024;    // QEMU's own limit, block/qcow2-snapshot.c
constexpr uint64_t kMaxL1Entries = 8 << 20;  // of all L1 tables
constexpr size_t kMaxL2Tables = 1 << 18;
constexpr uint64_t kMaxL2Bytes = kGiB;
constexpr uint64_t kMaxClusters = 64 << 20;  // 128 MiB of marks; 4 TiB of the usual clusters
constexpr size_t kDescribed = 5;

// Who refers to a cluster: from kFirst on one snapshot alone.
using Owner = uint16_t;
constexpr Owner kNobody = 0;
constexpr Owner kGuest = 1;  // the active state, perhaps besides snapshots
constexpr Owner kSeveral = 2;
constexpr Owner kFirst = 3;

uint64_t NumberAt(std::span<const unsigned char> bytes, size_t at, size_t width) {
  return punch::BigEndian(bytes.subspan(at, width));
}

absl::Status Damaged(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("its snapshots cannot be looked at: ", what));
}

absl::Status TooMany(absl::string_view what) {
  return absl::ResourceExhaustedError(absl::StrCat("its snapshots are not looked at: ", what));
}

Owner Joined(Owner old, Owner more) {
  if (old == kNobody || old == more) return more;
  return old == kGuest || more == kGuest ? kGuest : kSeveral;
}

struct Snapshot {
  SnapshotSpace space;
  uint64_t l1_offset = 0;
  uint64_t l1_entries = 0;
};

class Finder {
 public:
  Finder(const punch::ReadBytes& read, uint64_t file_bytes)
      : read_(read), file_bytes_(file_bytes) {}

  absl::StatusOr<SnapshotSpaces> Find(std::span<const Range> data) {
    VR_RETURN_IF_ERROR(ReadHeader());
    VR_RETURN_IF_ERROR(ReadSnapshots());
    owners_.assign((file_bytes_ + cluster_ - 1) / cluster_, kNobody);
    VR_RETURN_IF_ERROR(AddL1(tables_.l1_offset, tables_.l1_entries, kGuest));
    for (size_t i = 0; i < snapshots_.size(); ++i) {
      VR_RETURN_IF_ERROR(
          AddL1(snapshots_[i].l1_offset, snapshots_[i].l1_entries, static_cast<Owner>(kFirst + i)));
    }
    for (const auto& [offset, owner] : l2_tables_) VR_RETURN_IF_ERROR(AddL2(offset, owner));
    return Sum(data);
  }

 private:
  absl::Status ReadHeader() {
    std::vector<unsigned char> start(std::min<uint64_t>(punch::kQcow2StartBytes, file_bytes_));
    if (start.size() < kVersion2Header || !read_(0, start)) return Damaged("no header");
    const auto tables = punch::ParseQcow2Start(
        absl::string_view(reinterpret_cast<const char*>(start.data()), start.size()), file_bytes_);
    if (!tables) return Damaged("no qcow2 image with data of its own");
    if (NumberAt(start, 4, 4) == 3 && (NumberAt(start, 72, 8) & ~kKnownFeatures) != 0)
      return Damaged("unknown features");
    tables_ = *tables;
    cluster_ = uint64_t{1} << tables_.cluster_bits;
    if (file_bytes_ / cluster_ >= kMaxClusters) return TooMany("the image is too large");
    count_ = static_cast<uint32_t>(NumberAt(start, 60, 4));
    snapshots_offset_ = NumberAt(start, 64, 8);
    return count_ > kMaxSnapshots ? TooMany("there are too many") : absl::OkStatus();
  }

  absl::Status ReadSnapshots() {
    uint64_t at = snapshots_offset_;
    for (uint32_t i = 0; i < count_; ++i) {
      std::vector<unsigned char> entry(kSnapshotBytes);
      if (!read_(at, entry)) return Damaged("the table of snapshots");
      Snapshot snapshot;
      snapshot.l1_offset = NumberAt(entry, 0, 8);
      snapshot.l1_entries = NumberAt(entry, 8, 4);
      const uint64_t id_bytes = NumberAt(entry, 12, 2);
      const uint64_t name_bytes = NumberAt(entry, 14, 2);
      const uint64_t extra_bytes = NumberAt(entry, 36, 4);
      if (extra_bytes > kMaxExtraBytes) return Damaged("the table of snapshots");
      std::vector<unsigned char> texts(id_bytes + name_bytes);
      const uint64_t texts_at = at + kSnapshotBytes + extra_bytes;
      if (!read_(texts_at, texts)) return Damaged("the table of snapshots");
      const auto name = texts.begin() + static_cast<std::ptrdiff_t>(id_bytes);
      snapshot.space.id.assign(texts.begin(), name);
      snapshot.space.name.assign(name, texts.end());
      snapshots_.push_back(std::move(snapshot));
      at = RoundUp(texts_at + texts.size(), 8);
    }
    return absl::OkStatus();
  }

  bool IsCluster(uint64_t offset) const { return offset % cluster_ == 0 && offset < file_bytes_; }

  void Mark(Range range, Owner owner) {
    for (uint64_t i = range.begin / cluster_; i * cluster_ < range.end && i < owners_.size(); ++i)
      owners_[i] = Joined(owners_[i], owner);
  }

  absl::Status ForEachEntry(uint64_t offset, uint64_t bytes, uint64_t stride,
                            const std::function<absl::Status(uint64_t)>& entry) const {
    absl::Status status;
    const bool whole = punch::ForEachTableEntry(read_, offset, bytes, stride, [&](uint64_t number) {
      status = entry(number);
      return status.ok();
    });
    if (!status.ok()) return status;
    return whole ? absl::OkStatus() : Damaged("a table outside of the file");
  }

  absl::Status AddL1(uint64_t offset, uint64_t entries, Owner owner) {
    const uint64_t bytes = entries * punch::kQcow2EntryBytes;
    l1_entries_ += entries;
    if (bytes > punch::kQcow2MaxL1Bytes || l1_entries_ > kMaxL1Entries)
      return TooMany("large tables");
    if (bytes > 0 && (!IsCluster(offset) || bytes > file_bytes_ - offset))
      return Damaged("an L1 table outside of the file");
    Mark({offset, offset + bytes}, owner);
    return ForEachEntry(
        offset, bytes, punch::kQcow2EntryBytes, [&](uint64_t entry) -> absl::Status {
          const uint64_t table = entry & punch::kQcow2OffsetMask;
          if (table == 0) return absl::OkStatus();
          if (!IsCluster(table)) return Damaged("an L2 table outside of the file");
          Owner& owners = l2_tables_[table];
          owners = Joined(owners, owner);
          if (l2_tables_.size() > kMaxL2Tables || l2_tables_.size() * cluster_ > kMaxL2Bytes)
            return TooMany("too many tables");
          return absl::OkStatus();
        });
  }

  absl::Status AddL2(uint64_t offset, Owner owner) {
    Mark({offset, offset + cluster_}, owner);
    // QEMU writes whole clusters, but the file may end within the last one.
    const uint64_t bytes = std::min(cluster_, file_bytes_ - offset);
    return ForEachEntry(offset, bytes, tables_.l2_entry_bytes, [&](uint64_t entry) -> absl::Status {
      if ((entry & punch::kQcow2Compressed) != 0) {
        const auto range = punch::CompressedCluster(entry, tables_.cluster_bits, file_bytes_);
        if (!range) return Damaged("a cluster outside of the file");
        Mark(*range, owner);
        return absl::OkStatus();
      }
      const uint64_t data = entry & punch::kQcow2OffsetMask;
      if (data == 0) return absl::OkStatus();
      if (!IsCluster(data)) return Damaged("a cluster outside of the file");
      Mark({data, data + cluster_}, owner);
      return absl::OkStatus();
    });
  }

  SnapshotSpaces Sum(std::span<const Range> data) {
    std::vector<uint64_t> bytes(kFirst + snapshots_.size());
    for (const Range& range : data) {
      for (uint64_t at = range.begin; at < range.end;) {
        const uint64_t index = at / cluster_;
        if (index >= owners_.size()) break;
        const uint64_t end = std::min(range.end, (index + 1) * cluster_);
        bytes[owners_[index]] += end - at;
        at = end;
      }
    }
    SnapshotSpaces spaces;
    spaces.all_bytes = bytes[kSeveral];
    for (size_t i = 0; i < snapshots_.size(); ++i) {
      snapshots_[i].space.only_bytes = bytes[kFirst + i];
      spaces.all_bytes += bytes[kFirst + i];
      spaces.snapshots.push_back(std::move(snapshots_[i].space));
    }
    return spaces;
  }

  const punch::ReadBytes& read_;
  const uint64_t file_bytes_;
  punch::Qcow2Tables tables_;
  uint64_t cluster_ = 0;  // bytes
  uint32_t count_ = 0;
  uint64_t snapshots_offset_ = 0;
  uint64_t l1_entries_ = 0;  // of all tables so far
  std::vector<Snapshot> snapshots_;
  std::map<uint64_t, Owner> l2_tables_;  // each once, however many L1 tables name it
  std::vector<Owner> owners_;            // of each cluster of the file
};

std::string Named(const SnapshotSpace& snapshot) {
  constexpr size_t kMaxNameBytes = 64;
  return absl::StrCat("'", Printable(snapshot.name, kMaxNameBytes), "' (",
                      Printable(snapshot.id, kMaxNameBytes), ")");
}

}  // namespace

absl::StatusOr<SnapshotSpaces> FindSnapshotSpace(const punch::ReadBytes& read, uint64_t file_bytes,
                                                 std::span<const Range> data) {
  return Finder(read, file_bytes).Find(data);
}

absl::StatusOr<SnapshotSpaces> ReadSnapshotSpace(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status;
  if (!fd.valid() || fstat(fd.get(), &status) != 0)
    return ErrnoStatus(errno, absl::StrCat("open '", Printable(path), "'"));
  if (!S_ISREG(status.st_mode)) return absl::InvalidArgumentError("not a file");
  const auto size = static_cast<uint64_t>(status.st_size);
  VR_ASSIGN_OR_RETURN(const std::vector<Range> data, punch::ReadDataRanges(fd.get(), size));
  const auto read = [&](uint64_t offset, std::span<unsigned char> bytes) {
    if (offset > size || bytes.size() > size - offset) return false;
    const ssize_t got =
        punch::ReadAt(fd.get(), reinterpret_cast<char*>(bytes.data()), bytes.size(), offset);
    return got >= 0 && static_cast<size_t>(got) == bytes.size();
  };
  return FindSnapshotSpace(read, size, data);
}

std::string DescribeSnapshotSpace(const SnapshotSpaces& spaces) {
  std::vector<SnapshotSpace> most = spaces.snapshots;
  std::stable_sort(most.begin(), most.end(),
                   [](const SnapshotSpace& one, const SnapshotSpace& two) {
                     return one.only_bytes > two.only_bytes;
                   });
  std::vector<std::string> texts;
  for (const SnapshotSpace& snapshot : most) {
    if (texts.size() == kDescribed) break;
    texts.push_back(absl::StrCat(Named(snapshot), texts.empty() ? " would free " : " ",
                                 FormatByteSize(snapshot.only_bytes)));
  }
  if (texts.empty()) return "";
  if (most.size() > 1)
    texts.push_back(absl::StrCat("all of them ", FormatByteSize(spaces.all_bytes)));
  return absl::StrCat("deleting ", absl::StrJoin(texts, ", "));
}

}  // namespace virt_reclaim::sparsify
