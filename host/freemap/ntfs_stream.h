// Attributes of NTFS read through the MFT: what a reader needs to get at the maps. One thread.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_NTFS_STREAM_H_
#define VIRT_RECLAIM_HOST_FREEMAP_NTFS_STREAM_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "host/freemap/byte_source.h"
#include "host/freemap/ntfs_format.h"

namespace virt_reclaim::freemap {

// The bytes of one attribute, neither compressed nor encrypted.
class NtfsStream {
 public:
  uint64_t size() const { return resident_ ? value_.size() : size_; }
  // What was ever written; behind it everything reads as zero, which a map must not.
  uint64_t initialized() const { return resident_ ? value_.size() : initialized_; }
  bool resident() const { return resident_; }
  const std::vector<NtfsRun>& runs() const { return runs_; }

  // DataLoss past initialized(), and in a hole: no map has one.
  absl::Status Read(const ByteSource& source, const NtfsGeometry& geometry, uint64_t offset,
                    std::span<uint8_t> out) const;

 private:
  friend class NtfsVolume;
  absl::Status Append(const NtfsAttribute& attribute, const NtfsGeometry& geometry);
  absl::Status CheckWhole(const NtfsGeometry& geometry) const;

  bool begun_ = false;
  bool resident_ = false;
  std::vector<uint8_t> value_;
  std::vector<NtfsRun> runs_;
  std::vector<uint64_t> starts_;  // VCN of each run
  uint64_t clusters_ = 0;
  uint64_t allocated_ = 0, size_ = 0, initialized_ = 0;
};

class NtfsVolume {
 public:
  // Both borrowed.
  NtfsVolume(const ByteSource& source, const NtfsGeometry& geometry)
      : source_(source), geometry_(geometry) {}

  // First of all: where the MFT lies, pieces in other records included.
  absl::Status OpenMft();
  const NtfsStream& mft() const { return mft_; }
  uint64_t records() const { return mft_.initialized() / geometry_.record_bytes; }

  absl::StatusOr<NtfsRecord> ReadRecord(uint64_t number) const;
  // The unnamed attribute of `type` of a file, all its pieces. NotFound: it has none.
  absl::StatusOr<NtfsStream> Open(uint64_t number, NtfsType type) const;
  absl::Status Read(const NtfsStream& stream, uint64_t offset, std::span<uint8_t> out) const {
    return stream.Read(source_, geometry_, offset, out);
  }

 private:
  absl::Status Fill(const NtfsRecord& record, uint64_t number, NtfsType type,
                    NtfsStream& out) const;
  absl::Status AppendFrom(const NtfsRecord& record, NtfsType type, uint64_t vcn,
                          NtfsStream& out) const;
  absl::Status FollowList(const NtfsRecord& record, uint64_t number, NtfsType type,
                          const NtfsAttribute& list, NtfsStream& out) const;

  const ByteSource& source_;
  const NtfsGeometry& geometry_;
  NtfsStream mft_;
};

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_NTFS_STREAM_H_
