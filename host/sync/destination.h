// The copy that becomes equal to a source: a file, a new file, a block device, or (atomic) a
// nameless file that takes the place of the old one at the end.
//
// What is done to it, in this order: marked unfinished, made as long as the source, written and
// punched by many threads, the last odd bytes written, synced; and when all is well, Commit: its
// mtime, and the mark goes. A run that ends before leaves the mark and another mtime than the
// source's, so that the next run looks at everything again.
#ifndef VIRT_RECLAIM_HOST_SYNC_DESTINATION_H_
#define VIRT_RECLAIM_HOST_SYNC_DESTINATION_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "host/guard/image_guard.h"
#include "host/sync/piece_reader.h"
#include "host/sync/source.h"

namespace virt_reclaim::sync {

struct DestinationPlan {
  std::string path;
  std::optional<ImageIdentity> identity;  // absent: there is no such file yet
  bool atomic = false;
};

struct Changes {
  uint64_t written_bytes = 0;
  uint64_t punched_bytes = 0;
  uint64_t cloned_bytes = 0;
};

// Write, Zero, Clone and PushOut: any thread, for ranges that have nothing in common. The rest: one
// thread, while no other is at work. Aborted: somebody wants the file.
class Destination {
 public:
  // Takes the guard. Errors as of ImageGuard::Acquire; FailedPrecondition when the file is not the
  // one that was planned; Unimplemented for `atomic` where there are no reflinks. Changes nothing
  // but that a file is made, of no bytes and for its owner alone, where there is none (not when
  // atomic).
  static absl::StatusOr<std::unique_ptr<Destination>> Open(const DestinationPlan& plan);
  // A mark for which nothing was changed goes.
  ~Destination();

  int fd() const { return fd_; }
  bool is_new() const { return new_; }
  bool is_device() const { return guard_ && guard_->is_device(); }
  // Zeroes can be made without writing them.
  bool punches() const { return punches_; }
  uint64_t unit_bytes() const { return unit_; }
  std::string name() const;

  // Makes it as long as the source; of a device only looks whether it is long enough. A longer file
  // is cut at once: what it has behind the source's end is room that may be needed.
  absl::Status Resize(uint64_t size_bytes);

  // Where the source's time says that something differs, marks it now rather than at the first
  // change, so that nobody waits for the disk then. Beside other threads. An error comes back at
  // the first change.
  void MarkEarly(std::optional<int64_t> source_mtime_ns);
  // Nothing of it is read before Settle. On btrfs it is written through the page cache from here
  // on: around it each write waits until its bytes are on the disk (Linux 6.15, where there are
  // checksums), and makes an extent of its own.
  void WriteBehind();
  // `data`: the bytes of `range`, aligned as PieceReader says. The last block may be short.
  // `cached`: the range is in the page cache, and stays there.
  absl::Status Write(Range range, const unsigned char* data, bool cached);
  // Makes `run` read as zeroes. `differing`: the parts of it that do not yet.
  absl::Status Zero(Range run, std::span<const Range> differing);
  // Refers to the blocks of `source` (a file) at the same place. False when the kernel does not do
  // that here: nothing was changed.
  absl::StatusOr<bool> Clone(int source, Range range);
  // Where it is written behind: what a thread has written of `range` is sent to the disk, and what
  // of `before`, its range of the call before (empty: none), is there by the end, and not in the
  // cache any more.
  absl::Status PushOut(Range range, Range before);

  // Somebody wants to open it: let go. Any thread.
  bool Interrupted() const { return guard_ && guard_->Interrupted(); }

  // The odd bytes at the end, and all of it on the disk.
  absl::Status Settle();
  // After Settle: it is the source now. `like`: whose owner and mode a new file gets, -1 for
  // nobody's.
  absl::Status Commit(std::optional<int64_t> mtime_ns, int like);

  Changes changes() const { return {written_, punched_, cloned_}; }
  bool changed() const { return changed_; }

 private:
  Destination() = default;
  absl::Status OpenExisting();
  absl::Status OpenNew();
  absl::Status OpenTemporary();
  absl::Status FindAbilities();
  absl::Status Mark();
  absl::Status BeforeChange();
  absl::Status WriteDirect(Range range, const unsigned char* data, bool cached);
  void UseCache(int more);

  DestinationPlan plan_;
  std::string directory_;            // of the file behind all symbolic links
  std::string real_path_;            // that file
  std::optional<ImageGuard> guard_;  // of the file that is there; absent: new and atomic
  UniqueFd temporary_;               // atomic
  int fd_ = -1;                      // what is written to: one of the two
  bool direct_ = false;              // it has O_DIRECT
  bool new_ = false;
  bool punches_ = false;
  bool btrfs_ = false;
  bool behind_ = false;                 // see WriteBehind
  std::optional<absl::Status> marked_;  // how that went; guarded by mutex_
  bool mark_is_ours_ = false;           // ... and it was not there before
  uint64_t unit_ = 0;
  uint64_t size_ = 0;    // as it is
  uint64_t wanted_ = 0;  // as it will be
  int cache_users_ = 0;  // threads that write without O_DIRECT just now
  std::mutex mutex_;     // marking, tail_, cache_users_
  std::atomic<bool> changed_ = false;
  std::vector<unsigned char> tail_;  // of the last block, shorter than a block: O_DIRECT cannot
  uint64_t tail_at_ = 0;
  std::atomic<uint64_t> written_ = 0, punched_ = 0, cloned_ = 0;
};

}  // namespace virt_reclaim::sync

#endif  // VIRT_RECLAIM_HOST_SYNC_DESTINATION_H_
