// pread(2) of an image, with what it says and does not mean taken away.
#ifndef VIRT_RECLAIM_HOST_PUNCH_READ_AT_H_
#define VIRT_RECLAIM_HOST_PUNCH_READ_AT_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

namespace virt_reclaim::punch {

// As pread(2), and goes on after a signal. An EIO counts when it comes twice: a write with O_DIRECT
// that collided with a dirty page of the cache leaves one behind (mm/filemap.c,
// dio_warn_stale_pagecache), which is told once, to whoever comes next, though every byte can be
// read. A medium that cannot be read says so again. Any thread.
ssize_t ReadAt(int fd, void* memory, size_t bytes, uint64_t offset);

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_READ_AT_H_
