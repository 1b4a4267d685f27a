// Is the log of an XFS clean? A mounted, frozen or crashed one shows nothing in its superblock, and
// its free space btrees are of an older state: the log decides. The log is a ring of 512-byte
// blocks, each beginning with the number of the round (cycle) in which it was written, or with a
// record header that has it in its second word. Where the cycle drops by one, the last record ends.
#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/checksum.h"
#include "host/freemap/refusal.h"
#include "host/freemap/xfs_format.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uint64_t kBasicBlock = 512;
constexpr uint32_t kRecordMagic = 0xfeedbabe;
constexpr uint32_t kCycleSpan = 32 * 1024;        // data that one header has the first words of
constexpr uint32_t kMaxRecordBytes = 256 * 1024;  // XLOG_MAX_RECORD_BSIZE
constexpr uint8_t kUnmountFlag = 0x20;            // XLOG_UNMOUNT_TRANS
constexpr size_t kExtendedHeaderBytes = 260;      // of struct xlog_rec_ext_header
constexpr size_t kReadBytes = size_t{1} << 20;

struct Log {
  const ByteSource& source;
  uint64_t offset;  // bytes
  uint64_t blocks;  // basic blocks

  // `count` basic blocks from `first` on, around the end.
  absl::StatusOr<std::vector<uint8_t>> Read(uint64_t first, uint64_t count) const {
    std::vector<uint8_t> bytes(count * kBasicBlock);
    const uint64_t before_end = std::min(count, blocks - first);
    const std::span<uint8_t> all(bytes);
    VR_RETURN_IF_ERROR(
        source.Read(offset + first * kBasicBlock, all.first(before_end * kBasicBlock)));
    VR_RETURN_IF_ERROR(source.Read(offset, all.subspan(before_end * kBasicBlock)));
    return bytes;
  }
};

struct Head {
  uint64_t block = 0;   // the first after the last record
  uint64_t record = 0;  // where that record begins
};

absl::StatusOr<Head> FindHead(const Log& log) {
  std::optional<uint32_t> last_cycle;
  std::optional<uint64_t> drop;
  std::optional<uint64_t> last_header;
  std::optional<uint64_t> header_before_drop;
  std::vector<uint8_t> chunk;
  for (uint64_t block = 0; block < log.blocks;) {
    chunk.resize(std::min<uint64_t>(kReadBytes, (log.blocks - block) * kBasicBlock));
    VR_RETURN_IF_ERROR(log.source.Read(log.offset + block * kBasicBlock, chunk));
    for (size_t at = 0; at < chunk.size(); at += kBasicBlock, ++block) {
      const bool header = BigEndian<uint32_t>(chunk, at) == kRecordMagic;
      const uint32_t cycle = BigEndian<uint32_t>(chunk, at + (header ? 4 : 0));
      if (last_cycle && cycle != *last_cycle) {
        if (drop || *last_cycle == 0 || cycle != *last_cycle - 1)
          return DirtyJournalError("its log has no clear end");
        drop = block;
        header_before_drop = last_header;
      }
      last_cycle = cycle;
      if (header) last_header = block;
    }
  }
  if (!drop || !last_header) return DirtyJournalError("its log has no clear end");
  // The last record may begin before the end of the ring and end after its start.
  return Head{*drop, header_before_drop.value_or(*last_header)};
}

// The kernel writes the checksum over the header as its compiler pads it: 328 bytes on most
// architectures, 324 on i386; and it is 0 where mkfs.xfs or xfs_repair wrote the record.
bool ChecksumFits(Bytes header, Bytes more_headers, Bytes data) {
  const uint32_t stored = LittleEndian<uint32_t>(header, 32);
  if (stored == 0) return true;
  for (const size_t header_bytes : {size_t{328}, size_t{324}}) {
    uint32_t crc = Crc32cWithout(Part(header, 0, header_bytes), 32);
    const size_t spans = (data.size() + kCycleSpan - 1) / kCycleSpan;
    for (size_t i = 1; i < spans && i * kBasicBlock <= more_headers.size(); ++i)
      crc = Crc32c(Part(more_headers, (i - 1) * kBasicBlock, kExtendedHeaderBytes), crc);
    if (Crc32c(data, crc) == stored) return true;
  }
  return false;
}

absl::Status CheckUnmountRecord(const Log& log, const Head& head, const XfsGeometry& geometry) {
  const absl::Status dirty = DirtyJournalError("its log wants to be replayed: not unmounted");
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> header, log.Read(head.record, 1));
  const uint32_t version = BigEndian<uint32_t>(header, 8);
  const uint32_t length = BigEndian<uint32_t>(header, 12);
  const uint32_t buffer = BigEndian<uint32_t>(header, 320);
  if ((version != 1 && version != 2) || length == 0 || length > kMaxRecordBytes ||
      length % kBasicBlock != 0 || buffer > kMaxRecordBytes) {
    return DamagedError("the last record of its log is impossible");
  }
  const uint64_t headers =
      version == 2 && buffer > kCycleSpan ? (buffer + kCycleSpan - 1) / kCycleSpan : 1;
  const uint64_t blocks = headers + length / kBasicBlock;
  if (blocks > log.blocks) return DamagedError("the last record of its log is impossible");
  const uint64_t lsn = uint64_t{BigEndian<uint32_t>(header, 4)} << 32 | head.record;
  if (BigEndian<uint64_t>(header, 16) != lsn)
    return DamagedError("the last record of its log lies elsewhere");
  if (!Equal(Part(header, 304, 16), geometry.uuid))
    return DamagedError("its log belongs to another filesystem");
  if ((head.record + blocks) % log.blocks != head.block) return dirty;
  if (BigEndian<uint32_t>(header, 40) != 1) return dirty;
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> rest,
                      log.Read((head.record + 1) % log.blocks, blocks - 1));
  const size_t more = (headers - 1) * kBasicBlock;
  const Bytes data = Part(rest, more, length);
  if (!ChecksumFits(header, Part(rest, 0, more), data))
    return DamagedError("bad checksum of the last record of its log");
  if ((data[9] & kUnmountFlag) == 0) return dirty;
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckXfsLogClean(const ByteSource& source, const XfsGeometry& geometry) {
  const uint64_t group = geometry.log_start >> geometry.ag_block_log;
  const uint64_t block = geometry.log_start & ((uint64_t{1} << geometry.ag_block_log) - 1);
  if (group >= geometry.ag_count || geometry.log_blocks == 0) return DamagedError("no log");
  const auto ag = static_cast<uint32_t>(group);
  if (block >= geometry.GroupBlocks(ag) || geometry.log_blocks > geometry.GroupBlocks(ag) - block)
    return DamagedError("its log does not fit where it lies");
  const Log log = {source, geometry.ByteOf(ag, block),
                   (uint64_t{geometry.log_blocks} << geometry.block_log) / kBasicBlock};
  VR_ASSIGN_OR_RETURN(const Head head, FindHead(log));
  return CheckUnmountRecord(log, head, geometry);
}

}  // namespace virt_reclaim::freemap
