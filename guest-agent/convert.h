// From the agent's own structs to the messages of agent.proto, within the contract's limits: every
// string valid UTF-8, every response below 1 MiB. Pure; any thread.
#ifndef VIRT_RECLAIM_GUEST_AGENT_CONVERT_H_
#define VIRT_RECLAIM_GUEST_AGENT_CONVERT_H_

#include <chrono>

#include "guest-agent/filesystems.h"
#include "guest-agent/fix_guest.h"
#include "guest-agent/free_map.h"
#include "guest-agent/marker.h"
#include "guest-agent/trimmer.h"
#include "guest-config/preflight_proto.h"
#include "virt_reclaim/agent/v1/agent.pb.h"

namespace virt_reclaim::agent {

void ToProto(const FilesystemList& list, v1::ListFilesystemsResponse& out);
void ToProto(const TrimTarget& target, uint32_t index, uint32_t count, v1::TrimStarted& out);
void ToProto(const TrimTarget& target, uint32_t index, const FitrimProgress& progress,
             v1::TrimProgress& out);
void ToProto(const TrimTarget& target, uint32_t index, const TrimFinished& finished,
             v1::TrimFinished& out);
void ToProto(const TrimTotals& totals, v1::TrimSummary& out);
void ToProto(const Marker& marker, v1::WriteMarkerResponse& out);
void ToProto(const FreeMap& map, v1::ReadFreeMapResponse& out);
void ToProto(const FixReport& report, v1::FixGuestResponse& out);
void ToProto(std::chrono::nanoseconds duration, google::protobuf::Duration& out);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_CONVERT_H_
