// Entries with fields for the systemd journal, by its native protocol
// (https://systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram each. libsystemd would be one more
// library in every guest.
#ifndef VIRT_RECLAIM_BASE_JOURNAL_H_
#define VIRT_RECLAIM_BASE_JOURNAL_H_

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

namespace virt_reclaim {

inline constexpr char kJournalSocket[] = "/run/systemd/journal/socket";
// The longest value, and all of an entry: far below what one datagram takes (208 KiB), so that none
// has to go by a memfd.
inline constexpr size_t kMaxJournalValueBytes = 4096;
inline constexpr size_t kMaxJournalEntryBytes = size_t{64} << 10;

// As syslog(3) has them.
enum class JournalPriority { kError = 3, kWarning = 4, kNotice = 5, kInfo = 6 };

struct JournalField {
  absl::string_view name;  // a constant of ours: A-Z, 0-9 and _; a name may come more than once
  std::string value;       // anything
};

struct JournalEntry {
  absl::string_view message_id;  // 32 hexadecimal digits, for ever; listed in docs/journal.md
  JournalPriority priority = JournalPriority::kInfo;
  std::string message;
  std::vector<JournalField> fields;
};

// The datagram. Whatever a value says, it stays the value of its field: one with a line break has
// its length before it. What is too long is cut, a field that is too much is left out. Pure.
std::string JournalDatagram(absl::string_view program, const JournalEntry& entry);

// Whether what is written to `fd` goes to the journal: JOURNAL_STREAM of systemd.exec(5).
bool IsJournal(int fd);

// One thread.
class Journal {
 public:
  // `program`: who says it (SYSLOG_IDENTIFIER), a constant.
  explicit Journal(absl::string_view program, std::string socket = kJournalSocket)
      : program_(program), path_(std::move(socket)) {}

  // False: nobody has got it. Waits a second for a journal that is busy, once; after that it is
  // given up.
  bool Send(const JournalEntry& entry);

  // Before the process ends: waits until the journal has looked up whose entries these are, which
  // it does in /proc. Without that `journalctl --unit` does not find the last words of a short
  // process. At most a second.
  void Settle() const;

 private:
  bool Connect();

  const absl::string_view program_;
  const std::string path_;
  UniqueFd socket_;
  bool given_up_ = false;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_JOURNAL_H_
