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
constexpr uint64_t kStride = (uint64_t{1} << 20) / kBasicBlock;
// Twice what the kernel has under way at once: XLOG_MAX_ICLOGS records.
constexpr uint64_t kAroundHead = 2 * 8 * kMaxRecordBytes / kBasicBlock;

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

absl::Status NoClearEnd() { return DirtyJournalError("its log has no clear end"); }

// What the first words of a basic block say.
struct BlockStart {
  bool header;
  uint32_t cycle;
};

BlockStart StartOf(Bytes bytes, size_t at) {
  const bool header = BigEndian<uint32_t>(bytes, at) == kRecordMagic;
  return {header, BigEndian<uint32_t>(bytes, at + (header ? 4 : 0))};
}

// Looks for the drop block by block, in the order of the ring, which may be gone through twice.
class DropSearch {
 public:
  explicit DropSearch(const Log& log) : log_(log) {}

  absl::Status Go(uint64_t first, uint64_t count) {
    std::vector<uint8_t> chunk;
    for (uint64_t done = 0; done < count;) {
      const uint64_t block = (first + done) % log_.blocks;
      begins_ |= block == 0;  // the round of the ring's end is the one before
      const uint64_t blocks = std::min({kStride, log_.blocks - block, count - done});
      VR_ASSIGN_OR_RETURN(chunk, log_.Read(block, blocks));
      for (uint64_t i = 0; i < blocks; ++i)
        VR_RETURN_IF_ERROR(See(block + i, StartOf(chunk, i * kBasicBlock)));
      done += blocks;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Head> Found() const {
    if (!head_) return NoClearEnd();
    return *head_;
  }

 private:
  absl::Status See(uint64_t block, const BlockStart& start) {
    if (!begins_ && start.cycle != last_cycle_) {
      const bool another = drop_ != kNone && drop_ != block;
      if (another || last_cycle_ == 0 || start.cycle != last_cycle_ - 1) return NoClearEnd();
      drop_ = block;
      if (last_header_ != kNone) head_ = Head{block, last_header_};
    }
    begins_ = false;
    last_cycle_ = start.cycle;
    if (start.header) last_header_ = block;
    return absl::OkStatus();
  }

  const Log& log_;
  static constexpr uint64_t kNone = UINT64_MAX;

  bool begins_ = true;  // nothing stands before the next block
  uint32_t last_cycle_ = 0;
  uint64_t last_header_ = kNone;
  uint64_t drop_ = kNone;
  std::optional<Head> head_;
};

// One block of each stride tells between which the drop is, and that there is no other; around it
// each block is looked at, as the kernel does, which has records under way side by side
// (xlog_find_head): a log may have 2 GiB.
absl::StatusOr<Head> FindHead(const Log& log) {
  std::optional<uint32_t> newest;
  uint64_t last_of_newest = 0;
  for (uint64_t block = 0; block < log.blocks; block += kStride) {
    VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, log.Read(block, 1));
    const uint32_t cycle = StartOf(bytes, 0).cycle;
    if (!newest) newest = cycle;
    const bool follows = last_of_newest + kStride >= block;
    if (cycle == *newest && follows) {
      last_of_newest = block;
    } else if (*newest == 0 || cycle != *newest - 1) {
      return NoClearEnd();
    }
  }
  // Of a small log, all: twice, as its last record may begin anywhere.
  const uint64_t before = std::min(kAroundHead, log.blocks - 1);
  const uint64_t count = std::min(before + kStride + 1 + kAroundHead, 2 * log.blocks);
  DropSearch search(log);
  VR_RETURN_IF_ERROR(search.Go((last_of_newest + log.blocks - before) % log.blocks, count));
  return search.Found();
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
