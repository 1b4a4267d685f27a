// Frames of HTTP/2 (RFC 9113), for peers that attack: any type, flags and length. Pure.
#ifndef VIRT_RECLAIM_TESTS_COMPONENT_HTTP2_FRAME_H_
#define VIRT_RECLAIM_TESTS_COMPONENT_HTTP2_FRAME_H_

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim::http2 {

inline constexpr uint8_t kData = 0, kHeaders = 1, kRstStream = 3, kSettings = 4, kPing = 6,
                         kGoAway = 7, kWindowUpdate = 8, kContinuation = 9;
inline constexpr uint8_t kAck = 1, kEndStream = 1, kEndHeaders = 4;

inline std::string Frame(uint8_t type, uint8_t flags, uint32_t stream, absl::string_view payload) {
  std::string head;
  for (const int shift : {16, 8, 0}) head += static_cast<char>(payload.size() >> shift);
  head += static_cast<char>(type);
  head += static_cast<char>(flags);
  for (const int shift : {24, 16, 8, 0}) head += static_cast<char>(stream >> shift);
  return absl::StrCat(head, payload);
}

}  // namespace virt_reclaim::http2

#endif  // VIRT_RECLAIM_TESTS_COMPONENT_HTTP2_FRAME_H_
