#include "base/journal.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"

namespace virt_reclaim {
namespace {

using std::chrono::milliseconds;

constexpr size_t kMaxNameBytes = 64;
constexpr time_t kBusySeconds = 1;
constexpr milliseconds kSettleLimit{1000};
constexpr milliseconds kSettleStep{5};
// From the moment it has taken the last datagram until it has read /proc.
constexpr milliseconds kLookUp{20};

// Names of fields with a leading underscore are the journal's own to give.
bool IsName(absl::string_view name) {
  const auto is_capital = [](char c) { return c >= 'A' && c <= 'Z'; };
  return !name.empty() && name.size() <= kMaxNameBytes && is_capital(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return is_capital(c) || (c >= '0' && c <= '9') || c == '_'; });
}

std::string LittleEndian64(uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(value >> (8 * i) & 0xff));
  return bytes;
}

void Add(absl::string_view name, absl::string_view value, std::string& datagram) {
  if (!IsName(name)) return;
  const bool cut = value.size() > kMaxJournalValueBytes;
  const std::string text =
      cut ? absl::StrCat(value.substr(0, kMaxJournalValueBytes), "...") : std::string(value);
  const std::string field = text.find('\n') == std::string::npos
                                ? absl::StrCat(name, "=", text, "\n")
                                : absl::StrCat(name, "\n", LittleEndian64(text.size()), text, "\n");
  if (datagram.size() + field.size() <= kMaxJournalEntryBytes) datagram += field;
}

}  // namespace

std::string JournalDatagram(absl::string_view program, const JournalEntry& entry) {
  std::string datagram;
  Add("MESSAGE", entry.message, datagram);
  Add("MESSAGE_ID", entry.message_id, datagram);
  Add("PRIORITY", absl::StrCat(static_cast<int>(entry.priority)), datagram);
  Add("SYSLOG_IDENTIFIER", program, datagram);
  for (const JournalField& field : entry.fields) Add(field.name, field.value, datagram);
  return datagram;
}

bool IsJournal(int fd) {
  const char* stream = getenv("JOURNAL_STREAM");
  struct stat status;
  if (stream == nullptr || fstat(fd, &status) != 0) return false;
  return absl::StrCat(status.st_dev, ":", status.st_ino) == stream;
}

bool Journal::Connect() {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path_.size() >= sizeof address.sun_path) return false;
  path_.copy(address.sun_path, path_.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const timeval limit = {.tv_sec = kBusySeconds, .tv_usec = 0};
  if (!fd.valid() || setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) != 0 ||
      connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return false;
  socket_ = std::move(fd);
  return true;
}

bool Journal::Send(const JournalEntry& entry) {
  if (given_up_) return false;
  const std::string datagram = JournalDatagram(program_, entry);
  // Twice: the journal may have been restarted since the last entry.
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (!socket_.valid() && !Connect()) return false;
    ssize_t sent = -1;
    do {
      sent = send(socket_.get(), datagram.data(), datagram.size(), MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0) return true;
    given_up_ = errno == EAGAIN;
    socket_.Reset();
    if (given_up_) return false;
  }
  return false;
}

void Journal::Settle() const {
  if (!socket_.valid()) return;
  const auto end = std::chrono::steady_clock::now() + kSettleLimit;
  int waiting = 0;  // what was sent and not taken yet
  while (ioctl(socket_.get(), SIOCOUTQ, &waiting) == 0 && waiting > 0 &&
         std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(kSettleStep);
  std::this_thread::sleep_for(kLookUp);
}

}  // namespace virt_reclaim
