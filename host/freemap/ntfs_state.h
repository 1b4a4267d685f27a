// Whether an NTFS volume is at rest: nobody has it mounted, no one sleeps on it, and nothing keeps
// freed clusters. One thread.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_NTFS_STATE_H_
#define VIRT_RECLAIM_HOST_FREEMAP_NTFS_STATE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "host/freemap/ntfs_stream.h"

namespace virt_reclaim::freemap {

// Numbers of records that every volume has.
inline constexpr uint64_t kNtfsMirrorFile = 1;
inline constexpr uint64_t kNtfsLogFile = 2;
inline constexpr uint64_t kNtfsVolumeFile = 3;
inline constexpr uint64_t kNtfsRootDirectory = 5;
inline constexpr uint64_t kNtfsBitmapFile = 6;
inline constexpr uint64_t kNtfsUpCaseFile = 10;  // the last of them

// $MFTMirr repeats the first records; $Volume has a known version and no flag; fills in the label.
absl::Status CheckNtfsMirror(const ByteSource& source, const NtfsGeometry& geometry,
                             const NtfsVolume& volume);
absl::Status CheckNtfsVolume(const NtfsVolume& volume, FilesystemFacts& facts);
// $LogFile was closed, or is empty.
absl::Status CheckNtfsLog(const NtfsVolume& volume);
// No catalog of shadow copies.
absl::Status CheckNtfsShadows(const ByteSource& source);
// The file hiberfil.sys: FailedPrecondition while it may hold a system's memory.
absl::Status CheckNtfsHibernation(const NtfsVolume& volume, uint64_t file, FilesystemFacts& facts);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_NTFS_STATE_H_
