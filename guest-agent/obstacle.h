// Why a filesystem is not, or cannot be, trimmed: the agent's own copy of the contract's
// TrimObstacle, with its names. Pure; any thread.
#ifndef VIRT_RECLAIM_GUEST_AGENT_OBSTACLE_H_
#define VIRT_RECLAIM_GUEST_AGENT_OBSTACLE_H_

#include <string>

#include "absl/strings/string_view.h"

namespace virt_reclaim::agent {

// The numbers are those of agent.proto's TrimObstacle (convert.cc asserts it).
enum class Obstacle {
  kNone = 1,
  kReadOnly = 2,
  kNoDevice = 3,
  kNetwork = 4,
  kLoop = 5,
  kAutofs = 6,
  kTypeNotSupported = 7,
  kDiskNotSupported = 8,
  kDmCrypt = 9,
  kLayerNotSupported = 10,
  kPartial = 11,
};

// What stands in the way and, when it is a device, its kernel name ("dm-1").
struct Verdict {
  Obstacle obstacle = Obstacle::kNone;
  std::string device;
};

// The name in --json and in docs: "read-only", "dm-crypt", "none".
absl::string_view ObstacleName(Obstacle obstacle);

// One sentence part for people, with the device when there is one: "dm-crypt device 'dm-0' does not
// allow discards". The caller prints it through Printable().
std::string DescribeObstacle(const Verdict& verdict);

// "ENOTTY" for ENOTTY, "errno 4095" for what has no name.
std::string ErrnoName(int error_number);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_OBSTACLE_H_
