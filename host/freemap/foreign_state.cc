// Sources: the kernel's fs/jfs/jfs_superblock.h and jfs_filsys.h,
// include/uapi/linux/nilfs2_ondisk.h and fs/nilfs2/the_nilfs.c (nilfs_load_super_block),
// include/linux/f2fs_fs.h.
#include "host/freemap/foreign_state.h"

#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/bytes.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

absl::Status StateOfJfs(const ByteSource& source) {
  constexpr uint64_t kSuper = 0x8000;
  constexpr uint32_t kClean = 0;    // FM_CLEAN
  constexpr uint32_t kMounted = 1;  // FM_MOUNT
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> super, source.ReadBytes(kSuper, 64));
  if (!StartsWith(super, 0, "JFS1", 4)) return DamagedError("no superblock");
  const uint32_t state = LittleEndian<uint32_t>(super, 40);
  if (state == kClean) return absl::OkStatus();
  if (state == kMounted) return DirtyJournalError("it was not unmounted");
  return StateError("its superblock notes errors, or an unfinished repair or resize");
}

struct NilfsSuper {
  bool found = false;
  uint64_t checkpoint = 0;
  uint16_t state = 0;
};

absl::StatusOr<NilfsSuper> ReadNilfsSuper(const ByteSource& source, uint64_t offset) {
  constexpr uint16_t kMagic = 0x3434;
  NilfsSuper read;
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> super, source.ReadBytes(offset, 128));
  read.found = LittleEndian<uint16_t>(super, 6) == kMagic;
  read.checkpoint = LittleEndian<uint64_t>(super, 56);
  read.state = LittleEndian<uint16_t>(super, 116);
  return read;
}

absl::Status JudgeNilfs(uint16_t state) {
  constexpr uint16_t kValid = 1;
  constexpr uint16_t kError = 2;
  if ((state & kError) != 0) return StateError("its superblock notes errors");
  if ((state & kValid) == 0) return DirtyJournalError("it was not unmounted");
  return state == kValid ? absl::OkStatus() : StateError("it is being resized");
}

// Of its two superblocks the one with the later checkpoint holds, as for the kernel. A mount marks
// both; an unmount those of the last checkpoint.
absl::Status StateOfNilfs(const ByteSource& source) {
  if (source.size() < 2 * 4096) return DamagedError("no room for its superblocks");
  VR_ASSIGN_OR_RETURN(const NilfsSuper first, ReadNilfsSuper(source, 1024));
  VR_ASSIGN_OR_RETURN(const NilfsSuper second,
                      ReadNilfsSuper(source, (source.size() / 4096 - 1) * 4096));
  if (!first.found && !second.found) return DamagedError("no superblock");
  if (first.found && (!second.found || first.checkpoint >= second.checkpoint))
    VR_RETURN_IF_ERROR(JudgeNilfs(first.state));
  if (second.found && (!first.found || second.checkpoint >= first.checkpoint))
    VR_RETURN_IF_ERROR(JudgeNilfs(second.state));
  return absl::OkStatus();
}

// What was synced since the last checkpoint is in no checkpoint, whose mark of an unmount stays:
// that it is at rest can never be told.
absl::Status StateOfF2fs(const ByteSource& source) {
  constexpr uint32_t kMagic = 0xf2f52010;
  constexpr uint32_t kUnmounted = 0x1;  // CP_UMOUNT_FLAG
  // CP_ERROR, CP_FSCK, CP_QUOTA_NEED_FSCK, CP_DISABLED, CP_RESIZEFS
  constexpr uint32_t kDoubtful = 0x8 | 0x10 | 0x800 | 0x1000 | 0x4000;
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> super, source.ReadBytes(1024, 128));
  const uint32_t log_block = LittleEndian<uint32_t>(super, 16);
  const uint32_t log_segment = LittleEndian<uint32_t>(super, 20);
  if (LittleEndian<uint32_t>(super, 0) != kMagic || log_block < 12 || log_block > 16 ||
      log_segment > 16) {
    return DamagedError("no superblock");
  }
  const uint64_t pack = LittleEndian<uint32_t>(super, 76);
  uint64_t newest = 0;
  uint32_t flags = 0;
  for (const uint64_t block : {pack, pack + (uint64_t{1} << log_segment)}) {
    VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> checkpoint,
                        source.ReadBytes(block << log_block, 192));
    const uint64_t version = LittleEndian<uint64_t>(checkpoint, 0);
    if (version < newest) continue;
    newest = version;
    flags = LittleEndian<uint32_t>(checkpoint, 132);
  }
  if ((flags & kDoubtful) != 0)
    return StateError("its checkpoint notes errors, or an unfinished check or resize");
  if ((flags & kUnmounted) == 0) return DirtyJournalError("it was not unmounted");
  return DirtyJournalError("whether its log wants to be replayed cannot be told");
}

}  // namespace

absl::Status WhyNoReader(absl::string_view type, const ByteSource& source) {
  absl::Status state;
  if (type == "jfs") state = StateOfJfs(source);
  if (type == "nilfs2") state = StateOfNilfs(source);
  if (type == "f2fs") state = StateOfF2fs(source);
  return state.ok() ? UnknownError(absl::StrCat("no reader for ", type)) : state;
}

}  // namespace virt_reclaim::freemap
