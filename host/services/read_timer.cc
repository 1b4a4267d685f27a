#include "host/services/read_timer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/handle.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

constexpr size_t kBytes = 4096;          // of a read, and of every sector and page
constexpr off_t kFile = off_t{1} << 20;  // a device may keep the last place it has read

struct State {
  UniqueFd fd;
  Handle<void, free> buffer;
  off_t at = 0;
};

absl::StatusOr<absl::Duration> ReadOnce(State& state) {
  state.at = (state.at + 37 * static_cast<off_t>(kBytes)) % kFile;
  const absl::Time begin = absl::Now();
  const ssize_t n = pread(state.fd.get(), state.buffer.get(), kBytes, state.at);
  if (n < 0) return ErrnoStatus(errno, "read past the page cache");
  if (n != ssize_t{kBytes}) return absl::InternalError("read past the page cache: too short");
  return absl::Now() - begin;
}

// One reading after the other. Shared with the thread that reads, which may outlive whoever asks.
class PatientReader {
 public:
  explicit PatientReader(ReadTimer time) : time_(std::move(time)) {}

  static absl::StatusOr<absl::Duration> Read(const std::shared_ptr<PatientReader>& reader,
                                             absl::Duration patience) {
    std::unique_lock lock(reader->mutex_);
    if (!reader->reading_) {
      reader->reading_ = true;
      reader->began_ = absl::Now();
      std::thread([reader] { reader->ReadNow(); }).detach();
    }
    const bool ended = reader->ended_.wait_for(lock, absl::ToChronoMilliseconds(patience),
                                               [&] { return !reader->reading_; });
    return ended ? reader->result_ : absl::Now() - reader->began_;
  }

 private:
  void ReadNow() {
    auto result = time_();
    const std::lock_guard lock(mutex_);
    result_ = std::move(result);
    reading_ = false;
    ended_.notify_all();
  }

  const ReadTimer time_;
  std::mutex mutex_;
  std::condition_variable ended_;
  bool reading_ = false;
  absl::Time began_;
  absl::StatusOr<absl::Duration> result_;
};

}  // namespace

absl::StatusOr<ReadTimer> NewReadTimer(UniqueFd file) {
  const std::string bytes(static_cast<size_t>(kFile), '\x5a');
  const ssize_t n = pwrite(file.get(), bytes.data(), bytes.size(), 0);
  if (n < 0) return ErrnoStatus(errno, "write to a file beside the image");
  if (n != kFile) return absl::ResourceExhaustedError("no space beside the image");
  if (fdatasync(file.get()) != 0) return ErrnoStatus(errno, "sync a file beside the image");
  if (fcntl(file.get(), F_SETFL, O_DIRECT) != 0)
    return absl::UnimplementedError("no reads past the page cache there");
  auto state = std::make_shared<State>();
  state->fd = std::move(file);
  state->buffer.reset(std::aligned_alloc(kBytes, kBytes));
  if (state->buffer == nullptr) return absl::ResourceExhaustedError("no memory");
  return ReadTimer([state]() -> absl::StatusOr<absl::Duration> {
    std::array<absl::Duration, 3> took;
    for (absl::Duration& one : took) {
      VR_ASSIGN_OR_RETURN(one, ReadOnce(*state));
    }
    std::sort(took.begin(), took.end());
    return took[1];
  });
}

ReadTimer WithPatience(ReadTimer time, absl::Duration patience) {
  return [reader = std::make_shared<PatientReader>(std::move(time)), patience] {
    return PatientReader::Read(reader, patience);
  };
}

}  // namespace virt_reclaim
