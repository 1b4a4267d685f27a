// The guests of bench/fleet_scan.py: many agents in one process, each behind a unix socket of its
// own, as QEMU has one for a domain's channel. Link, gRPC and service are the agent's; what the
// guest has mounted is made up.
//
//   fleet_agents DIRECTORY COUNT
//
// listens on DIRECTORY/0.sock and so on, prints "ready", and ends with its standard input.
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/byte_size.h"
#include "base/unique_fd.h"
#include "guest-agent/server.h"
#include "guest-agent/service.h"
#include "proto/link/bridge.h"

namespace virt_reclaim::agent {
namespace {

// One disk where the domain's XML has it, with three partitions.
FilesystemList MadeUpFilesystems() {
  BlockDevice disk;
  disk.name = "vda";
  disk.number = makedev(254, 0);
  disk.kind = DeviceKind::kDisk;
  disk.size_bytes = 20 * kGiB;
  disk.discard_max_bytes = kGiB;
  disk.discard_granularity_bytes = 512;
  disk.bus_path = "pci0000:00/0000:00:05.0/virtio2";
  FilesystemList list;
  for (const char* mount_point : {"/", "/home", "/var"}) {
    BlockDevice partition = disk;
    partition.name += std::to_string(list.filesystems.size() + 1);
    partition.kind = DeviceKind::kPartition;
    partition.parents = {disk.name};
    Filesystem filesystem;
    filesystem.source = "/dev/" + partition.name;
    filesystem.type = "ext4";
    filesystem.mount_points = {mount_point};
    filesystem.size_bytes = 6 * kGiB;
    filesystem.used_bytes = kGiB;
    filesystem.free_bytes = 5 * kGiB;
    filesystem.chain.devices = {partition, disk};
    filesystem.chain.tops = 1;
    filesystem.verdict = {Obstacle::kNone, ""};
    list.filesystems.push_back(filesystem);
  }
  return list;
}

UniqueFd Listen(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid() ||
      bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(fd.get(), 1) != 0)
    return UniqueFd();
  return fd;
}

// One guest: host after host, one at a time, until the process ends.
void Serve(const UniqueFd& listener) {
  AgentService service({MadeUpFilesystems, KernelFitrim, {}});
  AgentServer server(service);
  while (true) {
    UniqueFd host(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!host.valid()) return;
    link::AgentLink link(
        link::NewFdPort(std::move(host), /*end_of_file_is_gone=*/true),
        [&](UniqueFd socket) { static_cast<void>(server.Attach(std::move(socket)).ok()); });
    static_cast<void>(link.Run({}).ok());
  }
}

int Main(const std::string& directory, size_t count) {
  std::vector<UniqueFd> listeners;
  for (size_t i = 0; i < count; ++i) {
    listeners.push_back(Listen(directory + "/" + std::to_string(i) + ".sock"));
    if (!listeners.back().valid()) {
      perror("fleet_agents: listen");
      return 1;
    }
  }
  for (const UniqueFd& listener : listeners) std::thread([&listener] { Serve(listener); }).detach();
  puts("ready");
  fflush(stdout);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  _exit(0);
}

}  // namespace
}  // namespace virt_reclaim::agent

int main(int argc, char** argv) {
  if (argc != 3) {
    fputs("usage: fleet_agents DIRECTORY COUNT\n", stderr);
    return 2;
  }
  return virt_reclaim::agent::Main(argv[1], std::stoul(argv[2]));
}
