#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/journal.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

using testing::SizeIs;

constexpr char kId[] = "00112233445566778899aabbccddeeff";

using Fields = std::multimap<std::string, std::string>;

// As the journal reads a datagram; nothing: it would not be understood.
std::optional<Fields> Parse(absl::string_view text) {
  Fields fields;
  while (!text.empty()) {
    const size_t end = text.find_first_of("=\n");
    if (end == absl::string_view::npos) return std::nullopt;
    const std::string name(text.substr(0, end));
    const bool counted = text[end] == '\n';
    text.remove_prefix(end + 1);
    size_t length = text.find('\n');
    if (counted) {
      if (text.size() < 8) return std::nullopt;
      length = 0;
      for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(text[i]);
      text.remove_prefix(8);
    }
    if (length >= text.size() || text[length] != '\n') return std::nullopt;
    fields.emplace(name, std::string(text.substr(0, length)));
    text.remove_prefix(length + 1);
  }
  return fields;
}

std::vector<std::string> Values(const Fields& fields, const std::string& name) {
  std::vector<std::string> values;
  const auto [begin, end] = fields.equal_range(name);
  for (auto it = begin; it != end; ++it) values.push_back(it->second);
  return values;
}

TEST(JournalDatagram, IsWhatTheProtocolSays) {
  EXPECT_EQ(
      JournalDatagram("virt-reclaim", {kId,
                                       JournalPriority::kWarning,
                                       "web: done",
                                       {{"VIRT_RECLAIM_DOMAIN", "web"}, {"A", "1\n2"}}}),
      absl::StrCat("MESSAGE=web: done\nMESSAGE_ID=", kId,
                   "\nPRIORITY=4\nSYSLOG_IDENTIFIER=virt-reclaim\nVIRT_RECLAIM_DOMAIN=web\nA\n",
                   absl::string_view("\3\0\0\0\0\0\0\0", 8), "1\n2\n"));
}

// What comes from a guest or a file's name is in the values.
TEST(JournalDatagram, NoValueForgesAField) {
  const std::string forged =
      "x\nPRIORITY=0\nMESSAGE_ID=ffffffffffffffffffffffffffffffff\n_UID=0\nX";
  const std::vector<std::string> hostile = {
      forged,
      "\n",
      "=\n=",
      std::string("\0\n\0", 3),
      "a\nVIRT_RECLAIM_DOMAIN=other",
      absl::StrCat("MESSAGE\n", absl::string_view("\4\0\0\0\0\0\0\0", 8), "none\n"),
      std::string(kMaxJournalValueBytes, '\n'),
      std::string(4 * kMaxJournalValueBytes, 'x') + "\nPRIORITY=0"};
  for (const std::string& value : hostile) {
    const auto fields =
        Parse(JournalDatagram("p", {kId, JournalPriority::kInfo, value, {{"DOMAIN", value}}}));
    ASSERT_TRUE(fields);
    EXPECT_THAT(*fields, SizeIs(5));
    EXPECT_THAT(Values(*fields, "PRIORITY"), ElementsAre("6"));
    EXPECT_THAT(Values(*fields, "MESSAGE_ID"), ElementsAre(kId));
    ASSERT_THAT(Values(*fields, "DOMAIN"), SizeIs(1));
    const std::string domain = Values(*fields, "DOMAIN").front();
    EXPECT_EQ(domain.substr(0, kMaxJournalValueBytes), value.substr(0, kMaxJournalValueBytes));
    EXPECT_LE(domain.size(), kMaxJournalValueBytes + 3);
  }
}

TEST(JournalDatagram, ANameThatIsNoneIsLeftOut) {
  for (const char* name : {"", "_UID", "domain", "A=B", "A\nB", "1A", "A B", "\xc3\x84"}) {
    const auto fields =
        Parse(JournalDatagram("p", {kId, JournalPriority::kInfo, "m", {{name, "v"}}}));
    ASSERT_TRUE(fields);
    EXPECT_THAT(*fields, SizeIs(4)) << name;
  }
}

TEST(JournalDatagram, IsBounded) {
  JournalEntry entry{kId, JournalPriority::kError, std::string(1 << 20, 'm'), {}};
  for (int i = 0; i < 1000; ++i) entry.fields.push_back({"REASON", std::string(1000, 'r')});
  const std::string datagram = JournalDatagram("p", entry);
  EXPECT_LE(datagram.size(), kMaxJournalEntryBytes);
  const auto fields = Parse(datagram);
  ASSERT_TRUE(fields);
  EXPECT_THAT(Values(*fields, "PRIORITY"), ElementsAre("3"));
  EXPECT_GT(fields->count("REASON"), 50u);
}

// Stands in for the journal.
struct JournalTest : ::testing::Test {
  JournalTest() {
    char name[] = "/tmp/vr-journal-XXXXXX";
    directory = mkdtemp(name);
    path = directory + "/socket";
    Listen();
  }
  ~JournalTest() override {
    unlink(path.c_str());
    rmdir(directory.c_str());
    unsetenv("JOURNAL_STREAM");
  }
  void Listen() {
    unlink(path.c_str());
    listener.Reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }
  std::string Receive() const {
    pollfd wait = {.fd = listener.get(), .events = POLLIN, .revents = 0};
    if (poll(&wait, 1, 0) != 1) return "";
    std::string datagram(2 * kMaxJournalEntryBytes, '\0');
    const ssize_t n = recv(listener.get(), datagram.data(), datagram.size(), 0);
    datagram.resize(n < 0 ? 0 : static_cast<size_t>(n));
    return datagram;
  }

  std::string directory, path;
  UniqueFd listener;
};

TEST_F(JournalTest, AnEntryIsADatagram) {
  Journal journal("virt-reclaim", path);
  const JournalEntry entry{kId, JournalPriority::kInfo, "web: done", {{"A", "b\nc"}}};
  ASSERT_TRUE(journal.Send(entry));
  EXPECT_EQ(Receive(), JournalDatagram("virt-reclaim", entry));
  EXPECT_EQ(Receive(), "");
  journal.Settle();
}

TEST_F(JournalTest, TheLargestEntryFits) {
  JournalEntry entry{kId, JournalPriority::kInfo, "m", {}};
  for (int i = 0; i < 100; ++i) entry.fields.push_back({"A", std::string(1000, 'a')});
  Journal journal("virt-reclaim", path);
  ASSERT_TRUE(journal.Send(entry));
  EXPECT_EQ(Receive(), JournalDatagram("virt-reclaim", entry));
}

TEST_F(JournalTest, AJournalThatWasRestartedIsFoundAgain) {
  Journal journal("virt-reclaim", path);
  ASSERT_TRUE(journal.Send({kId, JournalPriority::kInfo, "one", {}}));
  Listen();
  ASSERT_TRUE(journal.Send({kId, JournalPriority::kInfo, "two", {}}));
  EXPECT_THAT(Receive(), HasSubstr("MESSAGE=two\n"));
}

TEST_F(JournalTest, WhereNobodyListensItSaysSo) {
  listener.Reset();
  Journal journal("virt-reclaim", path);
  EXPECT_FALSE(journal.Send({kId, JournalPriority::kInfo, "one", {}}));
  journal.Settle();
  EXPECT_FALSE(Journal("p", "/none/at/all").Send({kId, JournalPriority::kInfo, "one", {}}));
  EXPECT_FALSE(Journal("p", std::string(200, 'x')).Send({kId, JournalPriority::kInfo, "one", {}}));
}

TEST_F(JournalTest, ABusyJournalIsGivenUp) {
  Journal journal("virt-reclaim", path);
  // The kernel queues a few datagrams (net.unix.max_dgram_qlen), and only so many bytes of them.
  const JournalEntry entry{kId, JournalPriority::kInfo, std::string(4000, 'm'), {}};
  int sent = 0;
  while (sent < 10000 && journal.Send(entry)) ++sent;
  EXPECT_GT(sent, 0);
  ASSERT_LT(sent, 10000);
  EXPECT_FALSE(journal.Send(entry));  // at once
  EXPECT_EQ(Receive(), JournalDatagram("virt-reclaim", entry));
}

TEST_F(JournalTest, StderrIsTheJournalByItsNumbers) {
  struct stat status;
  ASSERT_EQ(fstat(listener.get(), &status), 0);
  unsetenv("JOURNAL_STREAM");
  EXPECT_FALSE(IsJournal(listener.get()));
  const std::string stream = absl::StrCat(status.st_dev, ":", status.st_ino);
  setenv("JOURNAL_STREAM", stream.c_str(), 1);
  EXPECT_TRUE(IsJournal(listener.get()));
  EXPECT_FALSE(IsJournal(-1));
  const UniqueFd other(dup(STDIN_FILENO));
  EXPECT_FALSE(IsJournal(other.get()));
  for (const char* wrong : {"", ":", "1", "0:0", "a:b"}) {
    setenv("JOURNAL_STREAM", wrong, 1);
    EXPECT_FALSE(IsJournal(listener.get())) << wrong;
  }
  setenv("JOURNAL_STREAM", (stream + "0").c_str(), 1);
  EXPECT_FALSE(IsJournal(listener.get()));
}

}  // namespace
}  // namespace virt_reclaim
