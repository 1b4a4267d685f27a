// Sources: ntfs-3g's libntfs-3g/logfile.c (ntfs_check_logfile, ntfs_is_logfile_clean) and volume.c;
// libvshadow's documentation of the volume header.
#include "host/freemap/ntfs_state.h"

#include <algorithm>
#include <bit>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uint64_t kMirrored = 4;
constexpr uint16_t kNoClient = 0xffff;
constexpr uint16_t kVolumeIsClean = 2;
constexpr uint64_t kMaxNtfsLogBytes = uint64_t{1} << 32;
constexpr size_t kLogChunk = 1 << 20;
constexpr size_t kHibernationHeader = 4096;
constexpr uint64_t kShadowHeader = 0x1e00;

// UTF-16 to UTF-8, pair by pair; what is no character becomes '?'.
std::string FromUtf16(Bytes bytes) {
  std::string text;
  const auto add = [&text](uint32_t code) {
    if (code < 0x80) {
      text += static_cast<char>(code);
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    text += static_cast<char>((0xff00 >> (more + 1) & 0xff) | code >> (6 * more));
    for (int i = more - 1; i >= 0; --i) text += static_cast<char>(0x80 | (code >> (6 * i) & 0x3f));
  };
  for (size_t at = 0; at + 2 <= bytes.size(); at += 2) {
    const uint32_t unit = LittleEndian<uint16_t>(bytes, at);
    if (unit < 0xd800 || unit > 0xdfff) {
      add(unit);
      continue;
    }
    const uint32_t next = at + 4 <= bytes.size() ? LittleEndian<uint16_t>(bytes, at + 2) : 0;
    if (unit >= 0xdc00 || next < 0xdc00 || next > 0xdfff) {
      add('?');
      continue;
    }
    add(0x10000 + ((unit - 0xd800) << 10) + (next - 0xdc00));
    at += 2;
  }
  return text;
}

bool AllOnes(Bytes bytes) {
  return std::ranges::all_of(bytes, [](uint8_t byte) { return byte == 0xff; });
}

struct Restart {
  uint64_t sequence = 0;
  uint32_t version = 0;  // 0x101 is 1.1
  bool clean = false;
};

// One of the two pages at the log's beginning. `page` as long as the log says its pages are.
absl::StatusOr<Restart> ParseRestart(std::vector<uint8_t> page) {
  if (!StartsWith(page, 0, "RSTR", 4)) return DamagedError("$LogFile has no restart page");
  VR_RETURN_IF_ERROR(Annotate(ApplyNtfsFixups(page), "$LogFile"));
  const size_t area = LittleEndian<uint16_t>(page, 24);
  if (area % 8 != 0 || area < 48 || area + 48 > kNtfsBlock)
    return DamagedError("the restart area of $LogFile");
  return Restart{LittleEndian<uint64_t>(page, area),
                 LittleEndian<uint16_t>(page, 28) * 0x100U + LittleEndian<uint16_t>(page, 26),
                 LittleEndian<uint16_t>(page, area + 12) == kNoClient ||
                     (LittleEndian<uint16_t>(page, area + 14) & kVolumeIsClean) != 0};
}

}  // namespace

absl::Status CheckNtfsMirror(const ByteSource& source, const NtfsGeometry& geometry,
                             const NtfsVolume& volume) {
  const uint64_t at = geometry.mirror * geometry.cluster_bytes;
  for (uint64_t i = 0; i < kMirrored; ++i) {
    VR_ASSIGN_OR_RETURN(const NtfsRecord record, volume.ReadRecord(i));
    VR_ASSIGN_OR_RETURN(std::vector<uint8_t> bytes,
                        source.ReadBytes(at + i * geometry.record_bytes, geometry.record_bytes));
    const absl::StatusOr<NtfsRecord> copy = NtfsRecord::Parse(std::move(bytes), i);
    if (!copy.ok() || !Equal(copy->used(), record.used()))
      return DamagedError("$MFTMirr and $MFT differ");
  }
  VR_ASSIGN_OR_RETURN(const NtfsStream mirror, volume.Open(kNtfsMirrorFile, NtfsType::kData));
  if (mirror.resident() || mirror.runs().empty() ||
      mirror.runs().front().cluster != geometry.mirror) {
    return DamagedError("$MFTMirr does not begin where the boot sector says");
  }
  return absl::OkStatus();
}

absl::Status CheckNtfsVolume(const NtfsVolume& volume, FilesystemFacts& facts) {
  VR_ASSIGN_OR_RETURN(const NtfsRecord record, volume.ReadRecord(kNtfsVolumeFile));
  VR_ASSIGN_OR_RETURN(const std::optional<NtfsAttribute> name, record.Find(NtfsType::kVolumeName));
  if (name && name->resident) facts.label = FromUtf16(name->value);
  VR_ASSIGN_OR_RETURN(const std::optional<NtfsAttribute> information,
                      record.Find(NtfsType::kVolumeInformation));
  if (!information || !information->resident || information->value.size() < 12)
    return DamagedError("$Volume says nothing");
  const uint32_t major = information->value[8];
  const uint32_t minor = information->value[9];
  if ((major != 3 || minor > 1) && (major != 1 || minor != 2))
    return UnknownError(absl::StrCat("version ", major, ".", minor));
  const uint32_t flags = LittleEndian<uint16_t>(information->value, 10);
  if ((flags & 1) != 0) return StateError("marked dirty: chkdsk is to look at it");
  if (flags != 0) return StateError(absl::StrCat("$Volume has flags 0x", absl::Hex(flags)));
  return absl::OkStatus();
}

absl::Status CheckNtfsLog(const NtfsVolume& volume) {
  VR_ASSIGN_OR_RETURN(const NtfsStream log, volume.Open(kNtfsLogFile, NtfsType::kData));
  if (log.size() > kMaxNtfsLogBytes || log.initialized() != log.size() || log.size() < 2 * 4096)
    return DamagedError("$LogFile has an impossible size");
  std::vector<uint8_t> bytes(kNtfsBlock);
  VR_RETURN_IF_ERROR(volume.Read(log, 0, bytes));
  if (AllOnes(bytes)) {  // emptied by mkntfs or ntfs-3g: then all of it is
    for (uint64_t at = 0; at < log.size(); at += bytes.size()) {
      bytes.resize(std::min<uint64_t>(kLogChunk, log.size() - at));
      VR_RETURN_IF_ERROR(volume.Read(log, at, bytes));
      if (!AllOnes(bytes)) return StateError("$LogFile is not empty");
    }
    return absl::OkStatus();
  }
  const uint32_t page = LittleEndian<uint32_t>(bytes, 16);
  if (!std::has_single_bit(page) || page < 4096 || page > 65536 || 2 * uint64_t{page} > log.size())
    return DamagedError("$LogFile has no restart page");
  bytes.resize(page);
  VR_RETURN_IF_ERROR(volume.Read(log, 0, bytes));
  VR_ASSIGN_OR_RETURN(const Restart first, ParseRestart(bytes));
  VR_RETURN_IF_ERROR(volume.Read(log, page, bytes));
  VR_ASSIGN_OR_RETURN(const Restart second, ParseRestart(bytes));
  const Restart& last = first.sequence >= second.sequence ? first : second;
  // Windows writes 2.0 while it has a volume mounted, and 1.1 when it lets go of it.
  if (last.version == 0x200) return StateError("mounted or fast started, as $LogFile says");
  if (last.version != 0x101) return UnknownError("an unknown version of $LogFile");
  if (!last.clean) return StateError("mounted or not cleanly unmounted, as $LogFile says");
  return absl::OkStatus();
}

absl::Status CheckNtfsShadows(const ByteSource& source) {
  static constexpr uint8_t kShadowCopies[] = {0x6b, 0x87, 0x08, 0x38, 0x76, 0xc1, 0x48, 0x4e,
                                              0xb7, 0xae, 0x04, 0x04, 0x6e, 0x6c, 0xc7, 0x52};
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                      source.ReadBytes(kShadowHeader, kNtfsBlock));
  if (!Equal(Part(bytes, 0, 16), kShadowCopies)) return absl::OkStatus();
  // A shadow copy keeps what was deleted since in its old clusters, which are free for NTFS.
  if (LittleEndian<uint64_t>(bytes, 48) != 0)
    return StateError("it has shadow copies, which use clusters that look free");
  return absl::OkStatus();
}

absl::Status CheckNtfsHibernation(const NtfsVolume& volume, uint64_t file, FilesystemFacts& facts) {
  facts.asleep = true;
  const absl::StatusOr<NtfsStream> data = volume.Open(file, NtfsType::kData);
  if (!data.ok()) return StateError("hiberfil.sys cannot be read");
  if (data->initialized() < kHibernationHeader)
    return StateError(absl::StrCat(kHibernated, ": hiberfil.sys is short"));
  std::vector<uint8_t> head(kHibernationHeader);
  if (!volume.Read(*data, 0, head).ok()) return StateError("hiberfil.sys cannot be read");
  // After a resume the word is another, or all is wiped.
  if (!AllZero(head) && !StartsWith(head, 0, "wake", 4) && !StartsWith(head, 0, "WAKE", 4))
    return StateError(
        absl::StrCat(kHibernated, " or fast started: hiberfil.sys holds a system's memory"));
  facts.asleep = false;
  return absl::OkStatus();
}

}  // namespace virt_reclaim::freemap
