#include "host/services/hole_trial.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "base/status.h"

namespace virt_reclaim {
namespace {

constexpr size_t kTrialBytes = 256 * 1024;  // more than any filesystem's block

// Of what is on the storage by now.
absl::StatusOr<uint64_t> OccupiedBytes(int fd) {
  struct stat st;
  if (fsync(fd) != 0) return ErrnoStatus(errno, "sync it");
  if (fstat(fd, &st) != 0) return ErrnoStatus(errno, "look at it");
  return static_cast<uint64_t>(st.st_blocks) * 512;
}

}  // namespace

std::string IncompressibleBytes(size_t size) {
  std::string bytes(size, '\0');
  uint64_t state = 0x9e3779b97f4a7c15;
  for (char& byte : bytes) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    byte = static_cast<char>(state >> 56);
  }
  return bytes;
}

int KernelPunch(int fd, size_t size) {
  return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(size)) == 0
             ? 0
             : errno;
}

absl::StatusOr<bool> TryHole(int fd, PunchCall punch) {
  const std::string bytes = IncompressibleBytes(kTrialBytes);
  const ssize_t n = pwrite(fd, bytes.data(), bytes.size(), 0);
  if (n < 0) return ErrnoStatus(errno, "write to it");
  VR_ASSIGN_OR_RETURN(const uint64_t before, OccupiedBytes(fd));
  const int error = punch(fd, static_cast<size_t>(n));
  if (error == EOPNOTSUPP || error == ENOSYS) return false;
  if (error != 0) return ErrnoStatus(error, "punch it");
  VR_ASSIGN_OR_RETURN(const uint64_t after, OccupiedBytes(fd));
  if (before < static_cast<uint64_t>(n) || after < before) return true;
  return absl::UnavailableError("a hole was punched, and nothing came free");
}

}  // namespace virt_reclaim
