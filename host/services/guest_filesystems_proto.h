// From the guest's messages about its filesystems and block devices to plain structs: bounded and
// made printable. Pure; any thread. Only for grpc_guest_agent.cc, its tests and its fuzzer.
#ifndef VIRT_RECLAIM_HOST_SERVICES_GUEST_FILESYSTEMS_PROTO_H_
#define VIRT_RECLAIM_HOST_SERVICES_GUEST_FILESYSTEMS_PROTO_H_

#include <cstddef>
#include <vector>

#include "host/model/facts.h"
#include "virt_reclaim/agent/v1/agent.pb.h"

namespace virt_reclaim {

// The contract's limits, which a guest may break.
inline constexpr int kMaxGuestFilesystems = 4096;
inline constexpr size_t kMaxGuestNameBytes = 256;  // of what is no path

std::vector<GuestFilesystem> FromProto(const agent::v1::ListFilesystemsResponse& proto);
GuestObstacle FromProto(agent::v1::TrimObstacle obstacle);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_GUEST_FILESYSTEMS_PROTO_H_
