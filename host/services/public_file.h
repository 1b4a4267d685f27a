// A file that others read while it is replaced: metrics for a textfile collector, a page for a
// browser. One thread at a time for a path; other processes may do the same.
#ifndef VIRT_RECLAIM_HOST_SERVICES_PUBLIC_FILE_H_
#define VIRT_RECLAIM_HOST_SERVICES_PUBLIC_FILE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace virt_reclaim {

// Replaces `path` as a whole and durably (WriteFileDurably), readable by everybody (0644): whoever
// opens it, also after a kill or a power cut, sees the old content or the new one. Takes away what
// killed runs have left beside it: temporary files of that name that are older than an hour at
// `now`. Errors carry the errno, and are InvalidArgument when
// `path` is something else than a file (a link, a device); then the old content is still there.
absl::Status WritePublicFile(const std::string& path, absl::string_view content, absl::Time now);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_PUBLIC_FILE_H_
