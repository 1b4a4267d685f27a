#include "host/freemap/signatures.h"

#include <blkid/blkid.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <vector>

#include "base/byte_size.h"
#include "base/handle.h"
#include "base/status.h"
#include "host/freemap/free_list.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

using ProbeHandle = Handle<blkid_struct_probe, blkid_free_probe>;

constexpr int kAmbivalent = -2;  // of blkid_do_safeprobe
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
  const uint64_t head = std::min(size, kMiB);
  const uint64_t tail = size <= 2 * kMiB ? size - head : kMiB + size % kMiB;
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

}  // namespace

absl::StatusOr<Signature> ProbeSignature(const ByteSource& source, int scratch) {
  std::optional<ByteSource::Window> window = source.window();
  uint64_t size = source.size();
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
  if (result == kNothing) return Signature{};
  if (result != 0) return ErrnoStatus(errno == 0 ? EIO : errno, "look for signatures");
  if (!Value(probe.get(), "SBBADCSUM").empty()) return DamagedError("a signature's bad checksum");
  return Signature{Value(probe.get(), "TYPE"), Value(probe.get(), "PTTYPE")};
}

}  // namespace virt_reclaim::freemap
