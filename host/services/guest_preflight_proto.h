// From the guest's messages about its configuration to plain structs: bounded and made printable.
// Pure; any thread. Only for grpc_guest_agent.cc and its tests.
#ifndef VIRT_RECLAIM_HOST_SERVICES_GUEST_PREFLIGHT_PROTO_H_
#define VIRT_RECLAIM_HOST_SERVICES_GUEST_PREFLIGHT_PROTO_H_

#include "absl/status/statusor.h"
#include "host/model/guest_preflight.h"
#include "virt_reclaim/agent/v1/agent.pb.h"

namespace virt_reclaim {

GuestPreflight FromProto(const agent::v1::PreflightResponse& proto);
// InvalidArgument: it names no marker that could be looked for.
absl::StatusOr<GuestMarker> FromProto(const agent::v1::WriteMarkerResponse& proto);
// InvalidArgument: runs that cannot be on a disk.
absl::StatusOr<GuestFreeMap> FromProto(const agent::v1::ReadFreeMapResponse& proto);
GuestMarkerDiscard FromProto(const agent::v1::DiscardMarkerResponse& proto);
GuestFix FromProto(const agent::v1::FixGuestResponse& proto);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_GUEST_PREFLIGHT_PROTO_H_
