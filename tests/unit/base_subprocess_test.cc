#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <stop_token>
#include <string>
#include <thread>

#include "base/subprocess.h"

namespace virt_reclaim {
namespace {

// Whoever asked for the stop removes what it was working on right after that.
TEST(SubprocessTest, WhatIsStoppedIsGoneWhenItIsTold) {
  const std::string ready =
      testing::TempDir() + "virt-reclaim-subprocess-" + std::to_string(getpid());
  const std::string script = "trap '' TERM; echo $$ > " + ready + ".new; mv " + ready + ".new " +
                             ready + "; exec sleep 99";
  std::stop_source stop;
  std::jthread stopper([&] {
    while (!std::filesystem::exists(ready))
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    stop.request_stop();
  });
  CommandLimits limits;
  limits.stop = stop.get_token();
  const auto result = RunCommand({"/bin/sh", "-c", script}, limits);
  pid_t child = 0;
  std::ifstream(ready) >> child;
  std::filesystem::remove(ready);
  EXPECT_TRUE(absl::IsCancelled(result.status())) << result.status();
  ASSERT_GT(child, 0);
  EXPECT_EQ(kill(child, 0), -1);
  EXPECT_EQ(errno, ESRCH);
  EXPECT_EQ(waitpid(child, nullptr, WNOHANG), -1);
}

}  // namespace
}  // namespace virt_reclaim
