// Printing what came from a guest, a file name or an XML: nothing in it may move the cursor, hide
// text or break a line.
#ifndef VIRT_RECLAIM_BASE_ESCAPE_H_
#define VIRT_RECLAIM_BASE_ESCAPE_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace virt_reclaim {

inline constexpr size_t kMaxPrintedBytes = 4096;  // PATH_MAX: the longest honest name

// `text` as one printable line of valid UTF-8: control characters and invalid UTF-8 bytes become
// \xNN, and so do C1 controls, line separators, zero-width and bidirectional characters (byte by
// byte). A backslash stays, so that a text that was made printable before comes out as it is. Cut
// after `max_bytes` input bytes, with "..." to show it. Any thread.
std::string Printable(absl::string_view text, size_t max_bytes = kMaxPrintedBytes);

// The same in single quotes, as messages have names. Any thread.
std::string Quoted(absl::string_view text, size_t max_bytes = kMaxPrintedBytes);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_ESCAPE_H_
