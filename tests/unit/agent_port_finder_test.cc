// Finding the virtio-serial port, with udev and without.
#include <gmock/gmock.h>

#include "absl/strings/str_cat.h"
#include "guest-agent/port_finder.h"
#include "tests/unit/agent_fixtures.h"

namespace virt_reclaim::agent {
namespace {

TEST(PortFinderTest, ByLinkThenBySysfs) {
  const TempTree tree;
  const std::string dev = tree.path() + "/dev";
  const std::string sysfs = tree.path() + "/sys";
  EXPECT_FALSE(FindPort(kPortName, dev, sysfs).has_value());
  tree.Write("sys/class/virtio-ports/vport0p1/name", "org.qemu.guest_agent.0\n");
  tree.Write("sys/class/virtio-ports/vport0p0/other", "");
  EXPECT_FALSE(FindPort(kPortName, dev, sysfs).has_value());
  tree.Write("sys/class/virtio-ports/vport1p2/name", absl::StrCat(kPortName, "\n"));
  EXPECT_EQ(FindPort(kPortName, dev, sysfs), dev + "/vport1p2");
  tree.Write(absl::StrCat("dev/virtio-ports/", kPortName), "");
  EXPECT_EQ(FindPort(kPortName, dev, sysfs), dev + "/virtio-ports/" + kPortName);
}

TEST(PortFinderTest, WhatIsNoPort) {
  const TempTree tree;
  EXPECT_EQ(OpenPort(tree.path() + "/none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenPort(tree.Write("file", "")).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OpenPort(tree.path()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(PortFinderTest, WaitEndsWithTheStop) {
  std::stop_source stop;
  stop.request_stop();
  PortWaiter waiter;
  waiter.Wait(stop.get_token());  // returns
}

}  // namespace
}  // namespace virt_reclaim::agent
