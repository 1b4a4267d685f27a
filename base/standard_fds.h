// Descriptors 0, 1 and 2 for a program that may be started without them.
#ifndef VIRT_RECLAIM_BASE_STANDARD_FDS_H_
#define VIRT_RECLAIM_BASE_STANDARD_FDS_H_

namespace virt_reclaim {

// Where one of stdin, stdout and stderr is closed, the next file opened would get its number, and
// what is printed would be written into it: an image, a socket. Puts /dev/null there instead, such
// that using it fails with EBADF as a closed descriptor would (stderr: writing succeeds, there is
// nobody to tell). First thing in main, before any thread; ends the process when /dev/null cannot
// be opened.
void KeepStandardFds();

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_STANDARD_FDS_H_
