// Which moment of a domain's disk a copy is of: an extended attribute of the copy.
#ifndef VIRT_RECLAIM_HOST_SYNC_CHECKPOINT_NOTE_H_
#define VIRT_RECLAIM_HOST_SYNC_CHECKPOINT_NOTE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim::sync {

// Notes that the copy `path`, last written at `mtime_ns`, is of the checkpoint `name`; on the disk
// when this returns. An error: it was written since, or there are no such attributes.
absl::Status NoteCheckpoint(const std::string& path, const std::string& name, int64_t mtime_ns);

// The checkpoint that the copy is of; empty when there is none, when the copy was written since by
// anybody (its size or mtime is another one), or is unfinished.
std::string NotedCheckpoint(const std::string& path);

}  // namespace virt_reclaim::sync

#endif  // VIRT_RECLAIM_HOST_SYNC_CHECKPOINT_NOTE_H_
