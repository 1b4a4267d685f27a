// From the facts to the message of agent.proto, within the contract's limits: every list bounded,
// every text valid UTF-8, the whole below a message's limit. Pure; any thread.
#ifndef VIRT_RECLAIM_GUEST_CONFIG_PREFLIGHT_PROTO_H_
#define VIRT_RECLAIM_GUEST_CONFIG_PREFLIGHT_PROTO_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"
#include "guest-config/preflight_facts.h"
#include "virt_reclaim/agent/v1/agent.pb.h"

namespace virt_reclaim::agent {

// Adds entries while there is room for them in the message. `bytes` is what it has already.
class ResponseRoom {
 public:
  template <typename Message>
  bool Has(const Message& message) {
    bytes_ += message.ByteSizeLong() + 8;
    return bytes_ <= kMaxBytes;
  }

 private:
  static constexpr size_t kMaxBytes = (size_t{1} << 20) - (size_t{128} << 10);
  size_t bytes_ = size_t{64} << 10;  // for what is not counted: names of kernels and tools
};

// A name, a path, a line as the contract has them: valid UTF-8, cut to its bound in bytes before
// escaping, which makes four bytes of one at worst: 256 lines stay below a message's limit with all
// else.
std::string ProtoName(absl::string_view text);
std::string ProtoPath(absl::string_view text);
std::string ProtoLine(absl::string_view text);

void ToProto(const Preflight& preflight, v1::PreflightResponse& out);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_CONFIG_PREFLIGHT_PROTO_H_
