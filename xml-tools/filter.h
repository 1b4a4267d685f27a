// What virt-reclaim-xml does with one file: read it, edit it, and where asked write it back. Blocks
// on file I/O. One thread a file.
#ifndef VIRT_RECLAIM_XML_TOOLS_FILTER_H_
#define VIRT_RECLAIM_XML_TOOLS_FILTER_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim::xml {

// The text of `file`, standard input when it is "-". InvalidArgument when it is longer than
// kMaxXmlBytes.
absl::StatusOr<std::string> ReadText(const std::string& file);

// Puts `after` in the place of `before`, which goes to `file`.bak with the file's mode; symbolic
// links are followed. FailedPrecondition, and nothing changed: no regular file, content other than
// `before` by now, or the backup exists already (it may be the only copy of the original).
absl::Status ReplaceText(const std::string& file, const std::string& before,
                         const std::string& after);

// Writes `text` as `directory`/(the last part of `file`), with the mode of `file`: whole or not at
// all, and not synced, since the input is still there. An older output is replaced;
// FailedPrecondition when that is the input itself, or no regular file.
absl::Status WriteBeside(const std::string& directory, const std::string& file,
                         const std::string& text);

// What follows the last '/'.
absl::string_view BaseName(absl::string_view file);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_FILTER_H_
