// NTFS: the zero bits of $Bitmap. Nothing on NTFS has a checksum, so $Bitmap is not believed alone:
// the whole MFT is read, and no run of any record may be free. That also tells a copy of a mounted
// volume, whose map is older than its files. Sources: as ntfs_format.h.
#include <algorithm>
#include <bit>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/ntfs_state.h"
#include "host/freemap/ntfs_stream.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr size_t kNtfsChunk = 64 << 10;
constexpr size_t kMaxHibernationFiles = 16;
constexpr size_t kFileNameBytes = 66;
constexpr char16_t kHibernationFile[] = u"hiberfil.sys";

// A FILE_NAME attribute of hiberfil.sys in the root directory, whatever the case.
bool NamesHibernationFile(Bytes name) {
  constexpr size_t kLength = std::size(kHibernationFile) - 1;
  if (name.size() < kFileNameBytes + 2 * kLength || name[64] != kLength ||
      (LittleEndian<uint64_t>(name, 0) & 0xffffffffffff) != kNtfsRootDirectory) {
    return false;
  }
  for (size_t i = 0; i < kLength; ++i) {
    uint16_t unit = LittleEndian<uint16_t>(name, kFileNameBytes + 2 * i);
    if (unit >= 'A' && unit <= 'Z') unit += 'a' - 'A';
    if (unit != kHibernationFile[i]) return false;
  }
  return true;
}

class NtfsMap {
 public:
  NtfsMap(const ByteSource& source, const NtfsGeometry& geometry, FilesystemFacts& facts,
          FreeList& free)
      : g_(geometry), volume_(source, geometry), source_(source), facts_(facts), free_(free) {}

  absl::Status Read() {
    VR_RETURN_IF_ERROR(volume_.OpenMft());
    const absl::Status at_rest = CheckAtRest();
    if (at_rest.ok()) {
      VR_RETURN_IF_ERROR(ReadBitmap());
      VR_RETURN_IF_ERROR(free_.Finish(g_.clusters * g_.cluster_bytes));
    }
    // Nothing is free then, but a sleeping Windows counts for its other disks too.
    const absl::Status walked = WalkMft();
    return at_rest.ok() ? walked : at_rest;
  }

 private:
  absl::Status CheckAtRest();
  absl::Status ReadBitmap();
  void AddByte(uint8_t bits, uint64_t first);
  absl::Status WalkMft();
  absl::Status TakeRecord(const NtfsRecord& record, uint64_t number);

  const NtfsGeometry& g_;
  NtfsVolume volume_;
  const ByteSource& source_;
  FilesystemFacts& facts_;
  FreeList& free_;
  std::vector<uint64_t> sleepers_;  // records of hiberfil.sys
};

absl::Status NtfsMap::CheckAtRest() {
  VR_RETURN_IF_ERROR(CheckNtfsMirror(source_, g_, volume_));
  VR_RETURN_IF_ERROR(CheckNtfsVolume(volume_, facts_));
  VR_RETURN_IF_ERROR(CheckNtfsLog(volume_));
  return CheckNtfsShadows(source_);
}

void NtfsMap::AddByte(uint8_t bits, uint64_t first) {
  if (bits == 0xff) return;
  const uint64_t count = std::min<uint64_t>(8, g_.clusters - first);
  for (uint64_t i = 0; i < count; ++i) {
    if ((bits >> i & 1) == 0) free_.Add((first + i) * g_.cluster_bytes, g_.cluster_bytes);
  }
}

absl::Status NtfsMap::ReadBitmap() {
  VR_ASSIGN_OR_RETURN(const NtfsStream bitmap, volume_.Open(kNtfsBitmapFile, NtfsType::kData));
  const uint64_t bytes = (g_.clusters + 7) / 8;
  if (bitmap.initialized() < bytes) return DamagedError("$Bitmap is shorter than the volume");
  std::vector<uint8_t> chunk;
  for (uint64_t at = 0; at < bytes; at += chunk.size()) {
    chunk.resize(std::min<uint64_t>(kNtfsChunk, bytes - at));
    VR_RETURN_IF_ERROR(volume_.Read(bitmap, at, chunk));
    for (size_t i = 0; i < chunk.size();) {
      // A wholly free stretch at once.
      const size_t begin = i;
      while (i < chunk.size() && chunk[i] == 0 && (at + i + 1) * 8 <= g_.clusters) ++i;
      free_.Add((at + begin) * 8 * g_.cluster_bytes, (i - begin) * 8 * g_.cluster_bytes);
      if (i == chunk.size()) break;
      AddByte(chunk[i], (at + i) * 8);
      ++i;
    }
  }
  return absl::OkStatus();
}

absl::Status NtfsMap::TakeRecord(const NtfsRecord& record, uint64_t number) {
  return record.ForEach([&](const NtfsAttribute& attribute) -> absl::Status {
    if (attribute.resident) {
      if (attribute.type != NtfsType::kFileName || !NamesHibernationFile(attribute.value))
        return absl::OkStatus();
      if (sleepers_.size() == kMaxHibernationFiles)
        return DamagedError("too many files of one name");
      sleepers_.push_back(record.is_extension() ? record.base() : number);
      return absl::OkStatus();
    }
    return DecodeNtfsRuns(attribute, g_, [&](const NtfsRun& run) -> absl::Status {
      if (run.cluster &&
          free_.Touches(*run.cluster * g_.cluster_bytes, run.count * g_.cluster_bytes)) {
        return DamagedError("a cluster it has is free");
      }
      return absl::OkStatus();
    });
  });
}

// Every record that was ever written; those that are in use name all clusters that are.
absl::Status NtfsMap::WalkMft() {
  VR_ASSIGN_OR_RETURN(const NtfsStream used, volume_.Open(0, NtfsType::kBitmap));
  const uint64_t records = volume_.records();
  if (records <= kNtfsUpCaseFile) return DamagedError("the MFT is too short");
  if (used.initialized() < (records + 7) / 8) return DamagedError("the MFT's bitmap is too short");
  const uint64_t at_once = kNtfsChunk / g_.record_bytes;
  std::vector<uint8_t> chunk;
  std::vector<uint8_t> bits;
  for (uint64_t first = 0; first < records; first += at_once) {  // a multiple of 8
    const uint64_t count = std::min(at_once, records - first);
    chunk.resize(count * g_.record_bytes);
    bits.resize((count + 7) / 8);
    VR_RETURN_IF_ERROR(volume_.Read(volume_.mft(), first * g_.record_bytes, chunk));
    VR_RETURN_IF_ERROR(volume_.Read(used, first / 8, bits));
    for (uint64_t i = 0; i < count; ++i) {
      const Bytes bytes = Part(chunk, i * g_.record_bytes, g_.record_bytes);
      const bool marked = (bits[i / 8] >> (i % 8) & 1) != 0;
      // Formatted or not, what nobody has used yet may hold anything but a record.
      if (!marked && !StartsWith(bytes, 0, "FILE", 4) && !StartsWith(bytes, 0, "BAAD", 4)) continue;
      VR_ASSIGN_OR_RETURN(const NtfsRecord record,
                          NtfsRecord::Parse({bytes.begin(), bytes.end()}, first + i));
      if (!record.in_use()) {
        if (first + i <= kNtfsUpCaseFile) return DamagedError("a file of its own is deleted");
        continue;
      }
      if (!marked) return DamagedError(absl::StrCat("record ", first + i, " is free and in use"));
      VR_RETURN_IF_ERROR(
          Annotate(TakeRecord(record, first + i), absl::StrCat("record ", first + i)));
    }
  }
  for (const uint64_t file : sleepers_)
    VR_RETURN_IF_ERROR(CheckNtfsHibernation(volume_, file, facts_));
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadNtfs(const ByteSource& source, const ReadOptions& options, FilesystemFacts& facts,
                      FreeList& free) {
  VR_ASSIGN_OR_RETURN(const NtfsGeometry geometry, ReadNtfsBoot(source, facts));
  if (options.strict) return UncheckedError("NTFS has no checksums");
  const absl::Status status = NtfsMap(source, geometry, facts, free).Read();
  // A part that a readable volume always has.
  if (absl::IsNotFound(status)) return DamagedError("a file of its own has no data");
  return status;
}

}  // namespace virt_reclaim::freemap
