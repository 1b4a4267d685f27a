// Names of the kernel's (any bytes) as valid UTF-8, as protobuf and JSON demand. Pure; any thread.
#ifndef VIRT_RECLAIM_BASE_UTF8_H_
#define VIRT_RECLAIM_BASE_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace virt_reclaim {

struct CodePoint {
  size_t length = 0;  // in bytes; 0: what is there is not valid UTF-8
  uint32_t value = 0;
};

// The code point at the front of `text`, which is not empty (RFC 3629: shortest form only, no
// surrogates).
CodePoint DecodeUtf8(absl::string_view text);

// `text` with each byte that is not valid UTF-8 written as \xNN: the form of agent.proto. At most
// `max_bytes` of input.
std::string Utf8(absl::string_view text, size_t max_bytes = 4096);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_UTF8_H_
