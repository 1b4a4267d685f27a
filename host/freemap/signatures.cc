#include "host/freemap/signatures.h"

#include <blkid/blkid.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "base/byte_size.h"
#include "base/handle.h"
#include "base/status.h"
#include "host/freemap/bytes.h"
#include "host/freemap/free_list.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

using ProbeHandle = Handle<blkid_struct_probe, blkid_free_probe>;

constexpr uint64_t kHeadBytes = 3 * kMiB;  // VMFS has a magic number at 2 MiB
constexpr int kAmbivalent = -2;            // of blkid_do_safeprobe
constexpr int kNothing = 1;

std::string Value(blkid_probe probe, const char* name) {
  const char* value = nullptr;
  return blkid_probe_lookup_value(probe, name, &value, nullptr) == 0 && value != nullptr ? value
                                                                                         : "";
}

// The beginning and the end of `source`, one behind the other. Signatures at the end are found by
// its distance from the last byte, rounded down to 64 KiB or so: the end stays where it was, modulo
// 1 MiB.
absl::StatusOr<uint64_t> FillScratch(const ByteSource& source, int scratch) {
  const uint64_t size = source.size();
  const uint64_t head = std::min(size, kHeadBytes);
  const uint64_t tail = size <= kHeadBytes + kMiB ? size - head : kMiB + size % kMiB;
  const Extent parts[] = {{0, head}, {size - tail, tail}};
  uint64_t at = 0;
  for (const Extent& part : parts) {
    VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                        source.ReadBytes(part.offset, part.length));
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t n =
          pwrite(scratch, bytes.data() + done, bytes.size() - done, static_cast<off_t>(at + done));
      if (n <= 0) return ErrnoStatus(n < 0 ? errno : EIO, "copy for a probe");
      done += static_cast<size_t>(n);
    }
    at += part.length;
  }
  return at;
}

// Reads `text` at `offset`? False past the end, too.
bool HasText(const ByteSource& source, uint64_t offset, absl::string_view text) {
  const auto bytes = source.ReadBytes(offset, text.size());
  return bytes.ok() && StartsWith(*bytes, 0, text.data(), text.size());
}

// As libblkid judges it: the name in the boot sector, and a record where that says the MFT begins.
bool LooksLikeNtfs(const ByteSource& source) {
  const auto boot = source.ReadBytes(0, 512);
  if (!boot.ok() || !StartsWith(*boot, 3, "NTFS    ", 8)) return false;
  const uint64_t sector = LittleEndian<uint16_t>(*boot, 11);
  const uint32_t count = (*boot)[13];
  // Beyond 128 it is a negative power of two.
  const uint64_t sectors = count <= 128 ? count : uint64_t{1} << std::min(256 - count, 31U);
  const uint64_t first = LittleEndian<uint64_t>(*boot, 0x30);
  const uint64_t cluster = sector * sectors;
  if (cluster == 0 || first > source.size() / cluster) return false;
  return HasText(source, first * cluster, "FILE");
}

// A member of a RAID that says itself where it lies (MD 1.0, linux/raid/md_p.h; SNIA's DDF), or
// that has its mark before the last MiB (Promise): libblkid's name of it. On one of a mirror the
// filesystem begins where the disk does.
std::string RaidMemberOf(const ByteSource& source) {
  constexpr absl::string_view kMd1("\xfc\x4e\x2b\xa9\x01\0\0\0", 8);  // and its major version
  const uint64_t sectors = source.size() / 512;
  const auto from_end = [&](uint64_t count, absl::string_view text) {
    return count <= sectors && HasText(source, (sectors - count) * 512, text);
  };
  if (from_end(16 + sectors % 8, kMd1)) return "linux_raid_member";
  for (const uint64_t count : {uint64_t{1}, uint64_t{257}}) {
    if (from_end(count, "\xde\x11\xde\x11") || from_end(count, "\x11\xde\x11\xde"))
      return "ddf_raid_member";
  }
  return from_end(3087, "Promise Technology, Inc.") ? "promise_fasttrack_raid_member" : "";
}

// The uberblocks of the first two labels of a ZFS, in either byte order: as many as libblkid wants.
bool LooksLikeZfs(const ByteSource& source) {
  constexpr uint64_t kLeastBytes = 64 * kMiB;
  constexpr uint64_t kLabelBytes = 256 * kKiB;
  constexpr uint64_t kBlockBytes = kKiB;
  constexpr int kWanted = 4;
  if (source.size() < kLeastBytes) return false;
  int found = 0;
  for (const uint64_t label : {uint64_t{0}, kLabelBytes}) {
    const auto blocks = source.ReadBytes(label + kLabelBytes / 2, kLabelBytes / 2);
    if (!blocks.ok()) continue;
    for (uint64_t at = 0; at < blocks->size(); at += kBlockBytes) {
      if (StartsWith(*blocks, at, "\x0c\xb1\xba\0\0\0\0\0", 8) ||
          StartsWith(*blocks, at, "\0\0\0\0\0\xba\xb1\x0c", 8))
        ++found;
    }
  }
  return found >= kWanted;
}

// What libblkid looks for only where there is more room than in a copy: 16, 32 and 64 MiB.
std::string TooLargeForACopy(const ByteSource& source) {
  if (HasText(source, 32 * kKiB, "JFS1")) return "jfs";
  if (HasText(source, 64 * kKiB, "\x01\x16\x19\x70")) return "gfs2";
  return LooksLikeZfs(source) ? "zfs_member" : "";
}

// What libblkid misses in a copy of the beginning and the end: a GPT and members of RAIDs name
// sectors, and NTFS a cluster, that are not there; others it takes for too large. Readers check
// theirs from end to end; what counts here is that two things at once are noticed.
absl::StatusOr<Signature> AddWhatItMissed(const ByteSource& source, Signature found) {
  if (std::string raid = RaidMemberOf(source); !raid.empty()) {
    found.type = std::move(raid);  // and whatever its own beginning looks like
  } else if (LooksLikeNtfs(source)) {
    if (!found.type.empty() && found.type != "ntfs")
      return StateError("more than one signature: not clear what it is");
    found.type = "ntfs";
    // Its boot sector passes for an MBR without partitions.
    if (found.table == "dos") found.table.clear();
  }
  constexpr uint64_t kSectorSizes[] = {512, 4096};
  const bool gpt = std::ranges::any_of(
      kSectorSizes, [&](uint64_t sector) { return HasText(source, sector, "EFI PART"); });
  if (gpt) found.table = "gpt";
  // With a table what lies there is a partition's, and looked at as such.
  if (!found.table.empty() || absl::EndsWith(found.type, "raid_member")) return found;
  if (std::string large = TooLargeForACopy(source); !large.empty()) {
    if (!found.type.empty() && found.type != large)
      return StateError("more than one signature: not clear what it is");
    found.type = std::move(large);
  }
  return found;
}

}  // namespace

absl::StatusOr<Signature> ProbeSignature(const ByteSource& source, int scratch) {
  std::optional<ByteSource::Window> window = source.window();
  uint64_t size = source.size();
  const bool whole = window.has_value();
  if (!window) {
    if (scratch < 0) return UnknownError("it does not lie in one piece: cannot be probed");
    VR_ASSIGN_OR_RETURN(size, FillScratch(source, scratch));
    window = {scratch, 0};
  }
  const ProbeHandle probe(blkid_new_probe());
  if (probe == nullptr) return TooLargeError("no memory for a probe");
  errno = 0;
  if (blkid_probe_set_device(probe.get(), window->fd, static_cast<blkid_loff_t>(window->offset),
                             static_cast<blkid_loff_t>(size)) != 0) {
    return ErrnoStatus(errno == 0 ? EIO : errno, "look for signatures");
  }
  blkid_probe_enable_superblocks(probe.get(), 1);
  blkid_probe_set_superblocks_flags(probe.get(), BLKID_SUBLKS_TYPE | BLKID_SUBLKS_BADCSUM);
  blkid_probe_enable_partitions(probe.get(), 1);
  const int result = blkid_do_safeprobe(probe.get());
  if (result == kAmbivalent) return StateError("more than one signature: not clear what it is");
  if (result != 0 && result != kNothing)
    return ErrnoStatus(errno == 0 ? EIO : errno, "look for signatures");
  Signature found;
  if (result != kNothing) {
    if (!Value(probe.get(), "SBBADCSUM").empty()) return DamagedError("a signature's bad checksum");
    found = {Value(probe.get(), "TYPE"), Value(probe.get(), "PTTYPE")};
  }
  if (whole) return found;
  return AddWhatItMissed(source, std::move(found));
}

}  // namespace virt_reclaim::freemap
