// `virt-reclaim virt-sparsify ...`, and this program when it is called virt-sparsify: the drop-in
// for libguestfs's tool. Its command line, messages and statuses; our engine.
#ifndef VIRT_RECLAIM_HOST_CLI_VIRT_SPARSIFY_PROGRAM_H_
#define VIRT_RECLAIM_HOST_CLI_VIRT_SPARSIFY_PROGRAM_H_

#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "host/cli/program.h"

namespace virt_reclaim {

// Any text in this variable of the environment does what --no-libvirt does of sparsify.
inline constexpr char kNoLibvirtVariable[] = "VIRT_RECLAIM_NO_LIBVIRT";

// Where its texts go, at once: scripts wait for them.
struct VirtSparsifyStreams {
  std::function<void(absl::string_view)> out, err;
  // Whether it was SIGTERM that asked for the stop; empty: it was not.
  std::function<bool()> terminated = nullptr;
  // Prints what it gets and waits for a line, or a stop; empty: there is no terminal to ask on.
  std::function<void(absl::string_view)> wait_for_return = nullptr;
};

// Returns the status to end with: 0 done, 1 failed, 2 too little temporary space, 3 discards are
// not supported.
int RunVirtSparsify(const std::vector<std::string>& arguments, const WithServices& with_services,
                    const VirtSparsifyStreams& streams, const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_VIRT_SPARSIFY_PROGRAM_H_
