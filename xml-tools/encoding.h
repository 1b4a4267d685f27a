// Which character encodings the edits can be spliced into: supersets of ASCII, a byte a sign or
// UTF-8. Looked at before any parser sees the text. Pure. Any thread.
#ifndef VIRT_RECLAIM_XML_TOOLS_ENCODING_H_
#define VIRT_RECLAIM_XML_TOOLS_ENCODING_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim::xml {

enum class Encoding {
  kUtf8,       // or plain ASCII: libxml2 reads the bytes as they are
  kEightBits,  // ISO-8859-x, windows-125x: libxml2 converts first
};

// InvalidArgument for UTF-16, UTF-32, any encoding not known to be safe, and NUL bytes.
absl::StatusOr<Encoding> EncodingOf(absl::string_view text);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_ENCODING_H_
