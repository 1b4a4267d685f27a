// The trims over NBD against a server of the test's own: how many are under way, and what becomes
// of an error. https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/byte_size.h"
#include "base/unique_fd.h"
#include "host/sparsify/nbd_client.h"

namespace virt_reclaim::sparsify {
namespace {

using testing::HasSubstr;

std::string NbdBytes(uint64_t value, size_t bytes) {
  std::string text;
  for (size_t i = bytes; i > 0; --i) text += static_cast<char>(value >> (8 * (i - 1)));
  return text;
}

uint64_t NbdNumber(const std::string& text, size_t at, size_t bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; ++i) value = value << 8 | static_cast<uint8_t>(text.at(at + i));
  return value;
}

// Answers trims and zeroes, the last one first, when as many have come as are sent at once.
class NbdServer {
 public:
  explicit NbdServer(int fd) : fd_(fd) {}

  // Of the requests for this offset; 0: none.
  uint64_t bad_offset = 0;
  uint32_t error = 0;     // NBD_EIO is 5, as Linux's
  bool hangs_up = false;  // instead of answering it

  void Run() {
    Handshake();
    std::vector<std::pair<std::string, uint64_t>> waiting;  // cookie, offset
    while (true) {
      pollfd input = {fd_.get(), POLLIN, 0};
      if (!waiting.empty() && poll(&input, 1, kPatience) == 0) {
        for (; !waiting.empty(); waiting.pop_back()) {
          const auto& [cookie, offset] = waiting.back();
          if (offset == bad_offset && hangs_up) return;
          Answer(offset == bad_offset ? error : 0, cookie);
        }
      }
      const std::string request = Take(28);
      if (request.empty()) return;
      const uint64_t type = NbdNumber(request, 6, 2);
      if (type == kDisconnect) return;
      if (type == kFlush) {
        flushed_with = waiting.size();
        ++flushes;
        Answer(0, request.substr(8, 8));
        continue;
      }
      waiting.emplace_back(request.substr(8, 8), NbdNumber(request, 16, 8));
      most = std::max(most, waiting.size());
      ++requests;
    }
  }

  void HangUp() { fd_.Reset(); }

  // Read them when Run has returned.
  size_t most = 0, requests = 0, flushes = 0, flushed_with = 0;

 private:
  static constexpr int kPatience = 500;  // ms
  static constexpr uint64_t kDisconnect = 2;
  static constexpr uint64_t kFlush = 3;

  void Send(const std::string& bytes) { send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  std::string Take(size_t count) {
    std::string bytes(count, '\0');
    const ssize_t n = recv(fd_.get(), bytes.data(), count, MSG_WAITALL);
    return n == static_cast<ssize_t>(count) ? bytes : "";
  }
  void Answer(uint32_t code, const std::string& cookie) {
    Send(NbdBytes(0x67446698, 4) + NbdBytes(code, 4) + cookie);
  }

  void Handshake() {
    constexpr uint64_t kStructured = 8, kMeta = 10, kGo = 7;
    const auto reply = [&](uint64_t option, uint32_t type, const std::string& data) {
      Send(NbdBytes(0x3e889045565a9, 8) + NbdBytes(option, 4) + NbdBytes(type, 4) +
           NbdBytes(data.size(), 4) + data);
    };
    Send("NBDMAGICIHAVEOPT" + NbdBytes(3, 2));
    Take(4);
    while (true) {
      const std::string header = Take(16);
      if (header.empty()) return;
      const uint64_t option = NbdNumber(header, 8, 4);
      const uint64_t length = NbdNumber(header, 12, 4);
      if (length > 0) Take(length);
      if (option == kMeta) {
        reply(option, 4, NbdBytes(1, 4) + "qemu:allocation-depth");
        reply(option, 4, NbdBytes(2, 4) + "base:allocation");
      }
      if (option == kGo) reply(option, 3, NbdBytes(0, 2) + NbdBytes(kGiB, 8) + NbdBytes(0x65, 2));
      const bool known = option == kStructured || option == kMeta || option == kGo;
      reply(option, known ? 1 : 0x80000001, "");
      if (option == kGo) return;
    }
  }

  UniqueFd fd_;
};

class NbdTrimmerTest : public testing::Test {
 protected:
  NbdTrimmerTest() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    server.emplace(ends[0]);
    client = UniqueFd(ends[1]);
  }

  // What `work` does with a trimmer, and the server with that.
  void With(const std::function<void(NbdTrimmer&)>& work) {
    std::jthread thread([&] {
      server->Run();
      server->HangUp();  // which a client waits for
    });
    auto trimmer = NbdTrimmer::Connect(std::move(client), "image");
    ASSERT_TRUE(trimmer.ok()) << trimmer.status();
    EXPECT_EQ((*trimmer)->size_bytes(), kGiB);
    work(**trimmer);
    trimmer->reset();
  }
  static Range At(uint64_t number) { return {number * kMiB, (number + 1) * kMiB}; }

  std::optional<NbdServer> server;
  UniqueFd client;
};

TEST_F(NbdTrimmerTest, SeveralAreUnderWay) {
  With([](NbdTrimmer& trimmer) {
    for (uint64_t i = 1; i <= 5; ++i) EXPECT_TRUE(trimmer.Trim(At(i)).ok());
    for (uint64_t i = 6; i <= 9; ++i) EXPECT_TRUE(trimmer.Zero(At(i)).ok());
    EXPECT_TRUE(trimmer.Flush().ok());
  });
  EXPECT_EQ(server->most, size_t{NbdTrimmer::kMaxInFlight});
  EXPECT_EQ(server->requests, 9u);
  EXPECT_EQ(server->flushes, 1u);
  EXPECT_EQ(server->flushed_with, 0u);  // all were answered before
}

TEST_F(NbdTrimmerTest, AnErrorIsNotLost) {
  server->bad_offset = 2 * kMiB;
  server->error = EIO;
  With([](NbdTrimmer& trimmer) {
    EXPECT_TRUE(trimmer.Trim(At(1)).ok());
    EXPECT_TRUE(trimmer.Trim(At(2)).ok());
    EXPECT_TRUE(trimmer.Trim(At(3)).ok());
    const absl::Status flushed = trimmer.Flush();
    EXPECT_TRUE(absl::IsInternal(flushed)) << flushed;
    EXPECT_THAT(flushed.message(), HasSubstr("trim at 2097152: Input/output error"));
    EXPECT_EQ(trimmer.Trim(At(4)), flushed);
  });
  EXPECT_EQ(server->requests, 3u);
  EXPECT_EQ(server->flushes, 0u);
}

TEST_F(NbdTrimmerTest, AServerThatGoes) {
  server->bad_offset = 1 * kMiB;
  server->hangs_up = true;
  With([](NbdTrimmer& trimmer) {
    EXPECT_TRUE(trimmer.Zero(At(1)).ok());
    EXPECT_TRUE(trimmer.Zero(At(2)).ok());
    EXPECT_FALSE(trimmer.Flush().ok());
    EXPECT_FALSE(trimmer.Trim(At(3)).ok());
  });
}

// Who gives up in the middle leaves nothing under way.
TEST_F(NbdTrimmerTest, NothingOutlivesIt) {
  With([](NbdTrimmer& trimmer) {
    for (uint64_t i = 1; i <= 3; ++i) EXPECT_TRUE(trimmer.Trim(At(i)).ok());
  });
  EXPECT_EQ(server->requests, 3u);
}

}  // namespace
}  // namespace virt_reclaim::sparsify
