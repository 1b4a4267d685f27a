#include "host/freemap/ntfs_stream.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uint64_t kMaxListBytes = 256 << 10;  // Windows' own limit of an attribute list
constexpr size_t kMaxRuns = 1'000'000;         // of one stream; 32 MB here
constexpr size_t kListEntryBytes = 26;

}  // namespace

absl::Status NtfsStream::Read(const ByteSource& source, const NtfsGeometry& geometry,
                              uint64_t offset, std::span<uint8_t> out) const {
  if (offset > initialized() || out.size() > initialized() - offset)
    return DamagedError("it ends too early");
  if (resident_) {
    std::ranges::copy(Part(value_, offset, out.size()), out.begin());
    return absl::OkStatus();
  }
  if (out.empty()) return absl::OkStatus();
  const uint64_t first = offset / geometry.cluster_bytes;
  auto run = static_cast<size_t>(std::ranges::upper_bound(starts_, first) - starts_.begin()) - 1;
  while (!out.empty()) {
    // The MFT is read while not all of its pieces are known.
    if (run >= runs_.size()) return DamagedError("a piece is missing");
    const uint64_t in_run = offset - starts_[run] * geometry.cluster_bytes;
    const uint64_t bytes = runs_[run].count * geometry.cluster_bytes;
    if (in_run >= bytes) {
      ++run;
      continue;
    }
    if (!runs_[run].cluster) return DamagedError("it has a hole");
    const size_t count = std::min<uint64_t>(out.size(), bytes - in_run);
    VR_RETURN_IF_ERROR(
        source.Read(*runs_[run].cluster * geometry.cluster_bytes + in_run, out.first(count)));
    out = out.subspan(count);
    offset += count;
  }
  return absl::OkStatus();
}

absl::Status NtfsStream::Append(const NtfsAttribute& attribute, const NtfsGeometry& geometry) {
  if (attribute.flags != 0) return UnknownError("compressed, encrypted or sparse where no map is");
  if (begun_ && (resident_ || attribute.resident || attribute.first_vcn == 0))
    return DamagedError("an attribute is there twice");
  begun_ = true;
  resident_ = attribute.resident;
  if (resident_) {
    value_.assign(attribute.value.begin(), attribute.value.end());
    return absl::OkStatus();
  }
  if (attribute.first_vcn != clusters_) return DamagedError("a piece is missing");
  // Nothing that is read here has holes, so nothing is longer.
  if (attribute.clusters > geometry.clusters - clusters_)
    return DamagedError("longer than the volume");
  if (attribute.first_vcn == 0) {
    allocated_ = attribute.allocated;
    size_ = attribute.size;
    initialized_ = attribute.initialized;
  }
  return DecodeNtfsRuns(attribute, geometry, [this](const NtfsRun& run) -> absl::Status {
    if (runs_.size() >= kMaxRuns) return TooLargeError("too many runs");
    runs_.push_back(run);
    starts_.push_back(clusters_);
    clusters_ += run.count;
    return absl::OkStatus();
  });
}

absl::Status NtfsStream::CheckWhole(const NtfsGeometry& geometry) const {
  if (resident_) return absl::OkStatus();
  if (allocated_ != clusters_ * geometry.cluster_bytes || size_ > allocated_ ||
      initialized_ > size_) {
    return DamagedError("its sizes disagree");
  }
  return absl::OkStatus();
}

absl::StatusOr<NtfsRecord> NtfsVolume::ReadRecord(uint64_t number) const {
  if (number >= records()) return DamagedError(absl::StrCat("no record ", number, " in the MFT"));
  std::vector<uint8_t> bytes(geometry_.record_bytes);
  VR_RETURN_IF_ERROR(Read(mft_, number * geometry_.record_bytes, bytes));
  VR_ASSIGN_OR_RETURN(NtfsRecord record, NtfsRecord::Parse(std::move(bytes), number));
  if (!record.in_use())
    return DamagedError(absl::StrCat("record ", number, " of the MFT is not in use"));
  return record;
}

// Names the pieces that are in other records. `out` may be the MFT itself: its later pieces are
// described in records of its earlier ones.
absl::Status NtfsVolume::FollowList(const NtfsRecord& record, uint64_t number, NtfsType type,
                                    const NtfsAttribute& list, NtfsStream& out) const {
  NtfsStream entries;
  VR_RETURN_IF_ERROR(entries.Append(list, geometry_));
  VR_RETURN_IF_ERROR(entries.CheckWhole(geometry_));
  if (entries.size() > kMaxListBytes) return DamagedError("a list of attributes is too long");
  std::vector<uint8_t> bytes(entries.size());
  VR_RETURN_IF_ERROR(Read(entries, 0, bytes));
  for (size_t at = 0; at < bytes.size();) {
    if (bytes.size() - at < kListEntryBytes) return DamagedError("a list of attributes is cut");
    const size_t length = LittleEndian<uint16_t>(bytes, at + 4);
    if (length < kListEntryBytes || length % 8 != 0 || length > bytes.size() - at)
      return DamagedError("an entry in a list of attributes");
    const size_t entry = at;
    at += length;
    if (LittleEndian<uint32_t>(bytes, entry) != static_cast<uint32_t>(type) ||
        bytes[entry + 6] != 0) {
      continue;
    }
    const uint64_t vcn = LittleEndian<uint64_t>(bytes, entry + 8);
    const uint64_t where = LittleEndian<uint64_t>(bytes, entry + 16) & 0xffffffffffff;
    if (where == number) {
      // Where the MFT begins was known before its list.
      if (vcn == 0 && out.begun_) continue;
      VR_RETURN_IF_ERROR(AppendFrom(record, type, vcn, out));
      continue;
    }
    VR_ASSIGN_OR_RETURN(const NtfsRecord other, ReadRecord(where));
    if (!other.is_extension() || other.base() != number)
      return DamagedError("a listed record is another file's");
    VR_RETURN_IF_ERROR(AppendFrom(other, type, vcn, out));
  }
  return absl::OkStatus();
}

absl::Status NtfsVolume::AppendFrom(const NtfsRecord& record, NtfsType type, uint64_t vcn,
                                    NtfsStream& out) const {
  VR_ASSIGN_OR_RETURN(const std::optional<NtfsAttribute> piece, record.Find(type, vcn));
  if (!piece) return DamagedError("a listed attribute is missing");
  return out.Append(*piece, geometry_);
}

absl::Status NtfsVolume::Fill(const NtfsRecord& record, uint64_t number, NtfsType type,
                              NtfsStream& out) const {
  if (record.is_extension()) return DamagedError("it is only a part of another file");
  VR_ASSIGN_OR_RETURN(const std::optional<NtfsAttribute> list,
                      record.Find(NtfsType::kAttributeList));
  VR_ASSIGN_OR_RETURN(const std::optional<NtfsAttribute> here, record.Find(type));
  if (here && (!list || &out == &mft_)) VR_RETURN_IF_ERROR(out.Append(*here, geometry_));
  if (list) VR_RETURN_IF_ERROR(FollowList(record, number, type, *list, out));
  if (!out.begun_) return absl::NotFoundError("no such attribute");
  return out.CheckWhole(geometry_);
}

absl::Status NtfsVolume::OpenMft() {
  VR_ASSIGN_OR_RETURN(
      std::vector<uint8_t> bytes,
      source_.ReadBytes(geometry_.mft * geometry_.cluster_bytes, geometry_.record_bytes));
  VR_ASSIGN_OR_RETURN(const NtfsRecord record, NtfsRecord::Parse(std::move(bytes), 0));
  if (!record.in_use()) return DamagedError("the MFT is not in use");
  VR_RETURN_IF_ERROR(Annotate(Fill(record, 0, NtfsType::kData, mft_), "the MFT"));
  if (mft_.resident_ || mft_.runs_.empty() || mft_.runs_.front().cluster != geometry_.mft ||
      mft_.initialized_ % geometry_.record_bytes != 0) {
    return DamagedError("the MFT does not begin where the boot sector says");
  }
  return absl::OkStatus();
}

absl::StatusOr<NtfsStream> NtfsVolume::Open(uint64_t number, NtfsType type) const {
  VR_ASSIGN_OR_RETURN(const NtfsRecord record, ReadRecord(number));
  NtfsStream stream;
  VR_RETURN_IF_ERROR(Fill(record, number, type, stream));
  return stream;
}

}  // namespace virt_reclaim::freemap
