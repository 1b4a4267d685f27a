// The agent's program as a child, with a unix socket in the place of its port. One thread.
#ifndef VIRT_RECLAIM_TESTS_COMPONENT_AGENT_PROGRAM_H_
#define VIRT_RECLAIM_TESTS_COMPONENT_AGENT_PROGRAM_H_

#include <gtest/gtest.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "tests/unit/agent_fixtures.h"

extern char** environ;

namespace virt_reclaim::agent {

// A listening socket, and the agent that connects to it as its port.
struct AgentProgramTest : ::testing::Test {
  AgentProgramTest()
      : path(tree.path() + "/port"), listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(listen(listener.get(), 4), 0);
  }
  ~AgentProgramTest() override {
    if (agent <= 0) return;
    kill(agent, SIGKILL);
    waitpid(agent, nullptr, 0);
  }
  void Start() {
    const std::string port = absl::StrCat("--port=", path);
    const char* arguments[] = {VIRT_RECLAIM_AGENT_PROGRAM, "daemon", port.c_str(), nullptr};
    pid_t child = 0;
    ASSERT_EQ(posix_spawn(&child, VIRT_RECLAIM_AGENT_PROGRAM, nullptr, nullptr,
                          const_cast<char**>(arguments), environ),
              0);
    agent = child;
  }
  UniqueFd Accept() {
    pollfd wait = {.fd = listener.get(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(poll(&wait, 1, 5000), 1);
    return UniqueFd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  }

  TempTree tree;
  std::string path;
  UniqueFd listener;
  pid_t agent = 0;  // 0: none is running
};

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_TESTS_COMPONENT_AGENT_PROGRAM_H_
