// One line that shows how far a trim or a migration is, on stderr, and only when stderr is a
// terminal: elsewhere nothing of it appears.
#ifndef VIRT_RECLAIM_HOST_CLI_PROGRESS_H_
#define VIRT_RECLAIM_HOST_CLI_PROGRESS_H_

#include <mutex>
#include <string>

#include "absl/time/time.h"
#include "host/model/facts.h"
#include "host/services/guest_agent.h"

namespace virt_reclaim {

// Any thread.
class ProgressLine {
 public:
  // `fd`: usually 2. Reads COLUMNS of the terminal for the width.
  explicit ProgressLine(int fd);
  ~ProgressLine();

  void Show(const DomainSummary& domain, const GuestTrimProgress& progress);
  // `what` is being done with the domain; shown until something else is.
  void Show(const DomainSummary& domain, absl::string_view what);
  // Any text, at most ten times a second.
  void Show(const std::string& text);
  // A line that stays, terminal or not. Must be printable.
  void Say(absl::string_view line);

 private:
  // The mutex is held.
  void Draw(std::string line);
  void Clear();

  const int fd_;
  const bool enabled_;
  std::mutex mutex_;
  absl::Time last_ = absl::InfinitePast();
  size_t shown_ = 0;  // columns on the line now
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_PROGRESS_H_
