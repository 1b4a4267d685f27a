// The end-to-end probe of filesystems that lie in files of the guest (on loop devices). What such a
// filesystem discards become holes in its file, which leave the filesystem that holds it with more
// free space; only when that one discards in turn (it is trimmed, or mounted with 'discard') does
// the host get anything. Both halves are measured of one marker: whether the holder has it back,
// and whether the host has it back by itself. That the holder's own discards arrive is the disk's
// probe (discard_probe.h).
#ifndef VIRT_RECLAIM_HOST_COMMANDS_FILE_PROBE_H_
#define VIRT_RECLAIM_HOST_COMMANDS_FILE_PROBE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/commands/services.h"
#include "host/model/loop_files.h"

namespace virt_reclaim {

struct ProbedFile {
  std::string mount_point;
  std::vector<std::string> holders;    // mount points of what holds its files
  std::optional<bool> reaches_holder;  // empty: could not be told, see `detail`
  std::optional<bool> reaches_host;    // no trim of the holders in between; empty: likewise
  std::string detail;                  // why not; printable
};

// Of each of `files`, in their order; of very many, only the first are tried. `allocation`: of the
// images of the disk that they lie on, bytes. Never fails as a whole. A guest that does not answer
// costs a few minutes.
std::vector<ProbedFile> ProbeFiles(const Services& services, GuestAgent& agent,
                                   const std::vector<FilesystemInFile>& files,
                                   const std::function<absl::StatusOr<uint64_t>()>& allocation,
                                   const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_FILE_PROBE_H_
