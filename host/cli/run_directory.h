// Where locks are for whoever runs this program: /run/virt-reclaim is root's. Others have one of
// their own, as they can work on nothing but their own images.
#ifndef VIRT_RECLAIM_HOST_CLI_RUN_DIRECTORY_H_
#define VIRT_RECLAIM_HOST_CLI_RUN_DIRECTORY_H_

#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/temporary_directory.h"

namespace virt_reclaim {

inline constexpr char kRootsRunDirectory[] = "/run/virt-reclaim";

// One thread.
class RunDirectory {
 public:
  // `wanted`, unless that is root's and `writable` is false: then `runtime`/virt-reclaim, or where
  // there is no `runtime` (XDG_RUNTIME_DIR), a temporary one below TMPDIR, whose locks nobody else
  // sees. Errors are those of mkdtemp(3).
  static absl::StatusOr<RunDirectory> Choose(const std::string& wanted, bool writable,
                                             const char* runtime);
  // As the environment and our rights are.
  static absl::StatusOr<RunDirectory> Choose(const std::string& wanted);

  const std::string& path() const { return path_; }

 private:
  explicit RunDirectory(std::string path) : path_(std::move(path)) {}

  std::string path_;
  std::optional<TemporaryDirectory> temporary_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_RUN_DIRECTORY_H_
