// Whole-file reads and durable writes with a bound and a Status.
#ifndef VIRT_RECLAIM_BASE_IO_H_
#define VIRT_RECLAIM_BASE_IO_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim {

// The content of `path`; ResourceExhausted when it is longer than `max_bytes`. Works on /proc and
// /sys.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes);

// Writes `content` to a temporary file beside `path`, syncs it and renames it over `path`, so that
// after a power cut there is the old file or the new one, whole.
absl::Status ReplaceFile(const std::string& path, absl::string_view content, mode_t mode);

// The same, and then it is the new one: the directory is synced, too.
absl::Status WriteFileDurably(const std::string& path, absl::string_view content, mode_t mode);

// Makes what was created, renamed or removed in the directory `path` last through a power cut.
absl::Status SyncDirectory(const std::string& path);

// mkdir -p with mode 0700 for what it makes.
absl::Status MakeDirectories(const std::string& path);

// The same, and what it made lasts through a power cut.
absl::Status MakeDirectoriesDurably(const std::string& path);

// Writes all of `text`, however many calls it takes. False, with errno set: not all of it.
bool WriteAll(int fd, absl::string_view text);

// `path` with all its symbolic links resolved; empty, with errno set, where there is nothing.
std::string RealPath(const std::string& path);

// A file's time as nanoseconds since 1970.
inline int64_t Nanoseconds(const struct timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// What the file occupies; st_blocks counts in units of 512 bytes, whatever the filesystem
// (stat(2)).
inline uint64_t AllocatedBytes(const struct stat& status) {
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_IO_H_
