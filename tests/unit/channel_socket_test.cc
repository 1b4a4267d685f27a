#include "host/services/channel_socket.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"

namespace virt_reclaim {
namespace {

TEST(OpenChannelSocket, IsBusyGoneOrTooLongAtOnceAndNeverBlocks) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = absl::StrCat(testing::TempDir(), "/vr-channel-", getpid());
  ASSERT_LT(path.size(), sizeof address.sun_path);
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  UniqueFd qemu(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  unlink(path.c_str());
  ASSERT_EQ(bind(qemu.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(qemu.get(), 0), 0);

  auto port = OpenChannelSocket(path);
  ASSERT_TRUE(port.ok()) << port.status();
  const uint8_t sent = 'x';
  EXPECT_EQ((*port)->Write({&sent, 1}).kind, link::IoResult::Kind::kBytes);
  // Nobody accepts, and the only place in the queue is taken.
  EXPECT_TRUE(absl::IsAborted(OpenChannelSocket(path).status()));

  UniqueFd peer(accept(qemu.get(), nullptr, nullptr));
  uint8_t received = 0;
  EXPECT_EQ(read(peer.get(), &received, 1), 1);
  EXPECT_EQ(received, sent);
  peer.Reset();
  EXPECT_EQ((*port)->Read({&received, 1}).kind, link::IoResult::Kind::kGone);

  qemu.Reset();
  EXPECT_FALSE(OpenChannelSocket(path).ok());
  unlink(path.c_str());
  EXPECT_TRUE(absl::IsNotFound(OpenChannelSocket(path).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(OpenChannelSocket(std::string(200, 'x')).status()));
}

}  // namespace
}  // namespace virt_reclaim
