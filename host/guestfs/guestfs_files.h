// The files of a guest whose filesystems are mounted in libguestfs's appliance. Not thread-safe, as
// little as the handle.
#ifndef VIRT_RECLAIM_HOST_GUESTFS_GUESTFS_FILES_H_
#define VIRT_RECLAIM_HOST_GUESTFS_GUESTFS_FILES_H_

#include <guestfs.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/handle.h"
#include "guest-config/config_files.h"
#include "host/guestfs/initramfs_archive.h"

namespace virt_reclaim {

using Guestfs = Handle<guestfs_h, guestfs_close>;

// Not started yet. Its errors come back with the calls: on stderr there is one line, ours. Not
// through libvirt, which would have a domain of its own for it.
absl::StatusOr<Guestfs> CreateGuestfs();

// What the last failed call of `handle` says, with the code of its errno.
absl::Status GuestfsStatus(guestfs_h* handle, absl::string_view what);

class GuestfsFiles : public agent::ConfigFiles {
 public:
  explicit GuestfsFiles(guestfs_h* handle) : handle_(handle) {}

  bool Exists(const std::string& path) const override;
  using ConfigFiles::Read;
  absl::StatusOr<std::string> Read(const std::string& path, size_t max_bytes) const override;
  std::string ReadLink(const std::string& path) const override;
  std::vector<std::string> List(const std::string& directory) const override;

  // The content of a regular file, piece by piece.
  ByteSource Open(const std::string& path) const;

  // What could not be looked at although it is there, "PATH: why": for the caller to tell.
  const std::vector<std::string>& unread() const { return unread_; }

 private:
  absl::StatusOr<uint32_t> Mode(const std::string& path) const;
  absl::Status CheckRegular(const std::string& path) const;
  absl::StatusOr<size_t> ReadAt(const std::string& path, uint64_t offset, char* buffer,
                                size_t size) const;

  guestfs_h* handle_;
  mutable std::vector<std::string> unread_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_GUESTFS_GUESTFS_FILES_H_
