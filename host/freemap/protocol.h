// What the worker says to its parent, on a pipe. Little endian:
//
//   "VRFREE01"
//   records: type (1 byte), length of the payload (4 bytes, at most kMaxPayload), payload
//     1 filesystem  disk u32, offset u64, length u64, size u64, block u64, free u64, dropped u64,
//                   refusal u8, mapped u8, then place, type, label, uuid, reason: length u16
//                   (at most kMaxText) and so many bytes
//     2 runs        filesystem u32, disk u32, then pairs of offset u64, length u64
//     3 end         filesystems u32, extents u64, CRC-32C of all bytes before this record u32
//     4 failure     text: the worker could not begin; nothing follows
//
// Runs of one filesystem on one disk may be spread over many records; together they are sorted,
// disjoint and inside. The worker writes after it has read everything; without its last record
// nothing it said counts. The parent believes nothing: whoever controls an image may control the
// worker.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_PROTOCOL_H_
#define VIRT_RECLAIM_HOST_FREEMAP_PROTOCOL_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "host/freemap/bytes.h"
#include "host/freemap/scan.h"

namespace virt_reclaim::freemap {

// The worker's descriptor of the first disk; the others follow.
inline constexpr int kFirstDisk = 3;

inline constexpr size_t kMaxPayload = size_t{1} << 16;
inline constexpr size_t kMaxText = 256;

// Takes bytes; false: nobody reads them any more.
using ByteSink = std::function<bool(Bytes)>;

// The worker's half. Texts are cut to kMaxText. Any thread.
bool WriteResult(const ScanResult& result, const ByteSink& sink);
bool WriteFailure(absl::string_view why, const ByteSink& sink);

// The parent's half: takes the bytes as they come and holds no more than the result itself. One
// thread.
class ResultParser {
 public:
  // The sizes of the disks that were handed to the worker, as the parent measured them.
  explicit ResultParser(std::vector<uint64_t> disk_sizes) : disk_sizes_(std::move(disk_sizes)) {}

  // An error is final.
  absl::Status Feed(Bytes bytes);
  // After the last byte. DataLoss: the result is not whole, or the worker broke a rule above. What
  // the texts say is the worker's: bounded, not printable.
  absl::StatusOr<ScanResult> Finish() &&;

 private:
  absl::Status TakeRecord(uint8_t type, Bytes payload);
  absl::Status TakeFilesystem(Bytes payload);
  absl::Status TakeRuns(Bytes payload);
  absl::Status TakeEnd(Bytes payload, uint32_t crc) const;
  absl::Status CheckOverlaps() const;

  std::vector<uint64_t> disk_sizes_;
  std::vector<uint8_t> pending_;  // at most one record
  uint32_t crc_ = 0;
  bool greeted_ = false;
  bool ended_ = false;
  uint64_t extents_ = 0;
  std::vector<uint64_t> listed_;  // bytes in runs, of each filesystem
  ScanResult result_;
};

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_PROTOCOL_H_
