#include "host/freemap/signatures.h"

#include <blkid/blkid.h>

#include <cerrno>

#include "base/handle.h"
#include "base/status.h"
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

}  // namespace

absl::StatusOr<Signature> ProbeSignature(const ByteSource& source) {
  const auto window = source.window();
  if (!window) return UnknownError("it does not lie in one piece: cannot be probed");
  const ProbeHandle probe(blkid_new_probe());
  if (probe == nullptr) return TooLargeError("no memory for a probe");
  errno = 0;
  if (blkid_probe_set_device(probe.get(), window->fd, static_cast<blkid_loff_t>(window->offset),
                             static_cast<blkid_loff_t>(source.size())) != 0) {
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
