// The files of a guest, as far as its configuration is read: the interface between what judges a
// text and where the text is from. The agent reads the system it runs in
// (guest-agent/root_files.h), the offline reader an image behind libguestfs. Whatever stands in
// place of a file may be there: a FIFO, a device, a symbolic link in a circle, 10 MiB.
#ifndef VIRT_RECLAIM_GUEST_CONFIG_CONFIG_FILES_H_
#define VIRT_RECLAIM_GUEST_CONFIG_CONFIG_FILES_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim::agent {

inline constexpr size_t kMaxConfigBytes = size_t{1} << 20;  // no honest fstab is longer
inline constexpr size_t kMaxListedNames = 1024;

// Paths are absolute and lie below the guest's root; symbolic links are followed inside of it.
// Which threads may call says the class behind it.
class ConfigFiles {
 public:
  virtual ~ConfigFiles() = default;

  virtual bool Exists(const std::string& path) const = 0;
  // Regular files only (FailedPrecondition); NotFound; ResourceExhausted above `max_bytes`.
  virtual absl::StatusOr<std::string> Read(const std::string& path, size_t max_bytes) const = 0;
  absl::StatusOr<std::string> Read(const std::string& path) const {
    return Read(path, kMaxConfigBytes);
  }
  // What the symbolic link `path` says; empty when it is none.
  virtual std::string ReadLink(const std::string& path) const = 0;
  // Sorted, without those that begin with a dot; at most kMaxListedNames.
  virtual std::vector<std::string> List(const std::string& directory) const = 0;
};

// The lines of a table like fstab(5) and crypttab(5), by their fields: those that have at least
// `least` of them and are no comment. The fields point into `text`.
std::vector<std::vector<absl::string_view>> TableLines(absl::string_view text, size_t least);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_CONFIG_CONFIG_FILES_H_
