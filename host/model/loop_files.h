// Files of a guest that its loop devices lie in: in which of its filesystems, and thereby on which
// disk of the domain. Pure. Takes time in proportion to what the guest has told, whatever that is.
#ifndef VIRT_RECLAIM_HOST_MODEL_LOOP_FILES_H_
#define VIRT_RECLAIM_HOST_MODEL_LOOP_FILES_H_

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "host/model/facts.h"

namespace virt_reclaim {

// Filesystems are named by their index in the guest's list. Keeps pointers into `guest`, which must
// outlive it. One thread.
class LoopFiles {
 public:
  // `on_disk`: of each filesystem, whether it lies on the disk without any file in between.
  LoopFiles(const GuestFacts& guest, std::vector<bool> on_disk);

  // The loop devices below a filesystem that have a file; of very many, the first ones.
  static std::vector<const GuestDevice*> LoopsOf(const GuestFilesystem& filesystem);

  // The filesystem a file of the guest lies in: the one mounted longest along its path.
  std::optional<size_t> HolderOf(absl::string_view path) const;

  // Whether files of the filesystem lie on the disk, be it in files of others (eight deep).
  bool Reaches(size_t filesystem) { return Reaches(filesystem, 0); }

 private:
  bool Reaches(size_t filesystem, int depth);

  const GuestFacts& guest_;
  const std::vector<bool> on_disk_;
  std::map<absl::string_view, size_t> mounted_;  // where -> which filesystem
  std::vector<std::optional<bool>> reaches_;     // of each, once it is asked for
};

// A filesystem on loop devices that can be trimmed. What it discards are holes in files of other
// filesystems of the guest, and those have to discard them in turn.
struct FilesystemInFile {
  std::string mount_point;
  std::vector<std::string> holders;  // mount points of those that hold its files, each once; sorted
  bool holders_discard = false;      // all of them are mounted with 'discard'
};

// Those whose files lie on the domain's disk `target` (`guest_to_target`: as MatchGuestDisks says),
// in the order of the guest's list.
std::vector<FilesystemInFile> FilesystemsInFiles(
    const GuestFacts& guest, const std::map<std::string, std::string>& guest_to_target,
    absl::string_view target);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_LOOP_FILES_H_
