// QEMU's image locks: which of its users may write an image at the same time.
//
// QEMU 2.10 and later (block/file-posix.c) keeps OFD *read* locks on single bytes of every image it
// opens: byte 100 + i says "I use permission i", byte 200 + i "I do not let others use it". i is 0
// consistent read, 1 write, 2 write the same content, 3 resize. Read locks never conflict with each
// other; a conflict is found by asking (F_OFD_GETLK) whether a write lock would be granted.
// `file.locking=off` switches them off: only the lease of image_guard.h sees such a domain.
#ifndef VIRT_RECLAIM_HOST_GUARD_IMAGE_LOCKS_H_
#define VIRT_RECLAIM_HOST_GUARD_IMAGE_LOCKS_H_

#include "absl/status/status.h"

namespace virt_reclaim {

// What we are going to do with an image.
enum class ImageIntent {
  kRead,         // the source of sync: nobody may write it meanwhile
  kSameContent,  // punch: what reads as zeroes becomes a hole
  kWrite,        // sparsify: what is free may read differently afterwards
  kResize,       // sync: may write everything, and another size
};

// Takes the locks of `intent` on `fd` (open for reading) and then looks whether somebody else's
// conflict, in QEMU's order, so that of two who try at once at least one backs off. Aborted when
// they conflict; what was taken stays until UnlockImage or close. Locks belong to the open file
// description: a dup or fork shares them. Any thread.
absl::Status LockImage(int fd, ImageIntent intent);
void UnlockImage(int fd);

// Aborted when somebody's locks forbid `intent`; takes none itself. Works on a descriptor of any
// mode.
absl::Status CheckImageLocks(int fd, ImageIntent intent);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_GUARD_IMAGE_LOCKS_H_
