// How far a verb is that works on many files.
#ifndef VIRT_RECLAIM_HOST_CLI_FILES_PROGRESS_H_
#define VIRT_RECLAIM_HOST_CLI_FILES_PROGRESS_H_

#include <chrono>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "host/punch/pacer.h"

namespace virt_reclaim {

// "3 of 20 files, 45%, about 2m left: /backup/web.raw". One thread.
class FilesProgress {
 public:
  explicit FilesProgress(const punch::SteadyClock& clock) : clock_(clock), begin_(clock()) {}

  // `now`: file, files, done, allocation and path, as PunchFilesProgress has them.
  template <typename Progress>
  std::string Of(const Progress& now) const {
    std::string text = absl::StrCat(now.file, " of ", now.files, " files");
    if (now.allocation > 0) {
      const double part = static_cast<double>(now.done) / static_cast<double>(now.allocation);
      absl::StrAppend(&text, ", ", static_cast<int>(part * 100), "%");
      const std::chrono::duration<double> taken = clock_() - begin_;
      if (part > kEnoughToGuess) {
        const double left = taken.count() * (1 - part) / part;
        absl::StrAppend(&text, ", about ",
                        absl::FormatDuration(absl::Seconds(static_cast<int>(left))), " left");
      }
    }
    return absl::StrCat(text, ": ", now.path);
  }

 private:
  static constexpr double kEnoughToGuess = 0.01;
  const punch::SteadyClock& clock_;
  const std::chrono::steady_clock::time_point begin_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_FILES_PROGRESS_H_
