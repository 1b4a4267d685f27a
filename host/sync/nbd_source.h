// An image as an NBD server shows it: what a guest would see of a qcow2 file (qemu-nbd), or of a
// running domain's disk at one moment (libvirt's pull-mode backup). Over a unix socket only.
#ifndef VIRT_RECLAIM_HOST_SYNC_NBD_SOURCE_H_
#define VIRT_RECLAIM_HOST_SYNC_NBD_SOURCE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/sync/source.h"

namespace virt_reclaim::sync {

struct NbdExport {
  std::string socket;
  std::string name;    // may be empty: the server's default
  std::string bitmap;  // "qemu:dirty-bitmap:backup-vda": what changed; empty: anything may have
};

class NbdSource : public Source {
 public:
  // What changed since the bitmap began, sorted; absent without one.
  virtual const std::optional<std::vector<Range>>& Changed() const = 0;
};

// Connects and asks where there is data. Unavailable when nobody answers; every request has a
// deadline. The server must allow kThreads + 1 connections.
absl::StatusOr<std::unique_ptr<NbdSource>> OpenNbdSource(const NbdExport& where);

}  // namespace virt_reclaim::sync

#endif  // VIRT_RECLAIM_HOST_SYNC_NBD_SOURCE_H_
