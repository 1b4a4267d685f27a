// Images as files of this machine: what they occupy, and what they stand on. Of an image it reads
// metadata only: stat, and the first bytes of a file that the domain XML calls qcow2 (a raw image's
// first bytes belong to the guest and are never interpreted).
#ifndef VIRT_RECLAIM_HOST_SERVICES_IMAGE_STORE_H_
#define VIRT_RECLAIM_HOST_SERVICES_IMAGE_STORE_H_

#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/range.h"
#include "host/model/facts.h"
#include "host/services/read_timer.h"
#include "host/services/storage_space.h"

namespace virt_reclaim {

class ImageStore {
 public:
  virtual ~ImageStore() = default;

  // The image and its backing files, from the top down, each with its data file (qcow2 headers name
  // it). `backing` is the chain libvirt tells, empty
  // when it does not (a domain that is off): then it is followed by qcow2 headers. Errors carry the
  // errno of the top image: NotFound, PermissionDenied, ... A backing file that cannot be examined
  // ends the chain without an error.
  virtual absl::StatusOr<std::vector<ImageFile>> Chain(
      const xml::ImageSource& top, const std::vector<xml::ImageSource>& backing) = 0;

  // Whether the filesystem below the image `path` can punch holes (FALLOC_FL_PUNCH_HOLE), tried on
  // a nameless file beside it (hole_trial.h). An error: it cannot be known (read-only, full, no
  // permission; a storage that says yes, and nothing comes free).
  virtual absl::StatusOr<bool> CanPunch(const std::string& path) = 0;

  // What the file or block device says of itself. `format` is what is known of it (raw, qcow2,
  // ...); empty: it is told by the first bytes, which in a raw image are the guest's.
  virtual absl::StatusOr<ImageHeader> ReadHeader(const std::string& path,
                                                 const std::string& format) = 0;

  // What punching a hole costs there, per MiB, measured on 16 MiB of a nameless file beside the
  // image `path`. Unimplemented: it cannot be done there; any other error: it cannot be known
  // (read- only, no permission, hardly any space left).
  virtual absl::StatusOr<absl::Duration> PunchCost(const std::string& path) = 0;

  // A clock for small reads of the storage below the image `path`, on a nameless file beside it of
  // 1 MiB. Errors: as NewReadTimer.
  virtual absl::StatusOr<ReadTimer> TimeReads(const std::string& path) = 0;

  // Bytes that an unprivileged program could still write on the filesystem of `image` (statvfs).
  virtual absl::StatusOr<uint64_t> Room(const ImageFile& image) = 0;

  // The storage of `image`: where it is mounted, how large it is, what is left.
  virtual absl::StatusOr<StorageSpace> Space(const ImageFile& image) = 0;

  // Whether `image` lies on the storage `path`: on the filesystem that is mounted there, or, when
  // it is no mount point, somewhere below that directory. Links are followed. NotFound: no `path`.
  virtual absl::StatusOr<bool> LiesOn(const ImageFile& image, const std::string& path) = 0;
  // What lies below the image. Tries a hole beside a file; of a block device it looks at sysfs.
  // What cannot be known is not, and says why.
  virtual ImageStorage Storage(const xml::ImageSource& image) = 0;

  // How much of `free` (sorted, distinct) the image occupies storage for, in pieces that can come
  // free: each rounded inwards to the image's granularity. Of qcow2 and the like by `qemu-img map`,
  // which reads their tables and takes no lock. Unimplemented: it cannot be known.
  virtual absl::StatusOr<uint64_t> AllocatedWithin(const ImageFile& image,
                                                   const std::vector<Range>& free,
                                                   const std::stop_token& stop) = 0;

  // Sum of what the files occupy now (st_blocks * 512), their data files included. Unavailable when
  // one is another by now, or a data file cannot be looked at.
  virtual absl::StatusOr<uint64_t> Allocation(const std::vector<ImageFile>& chain) = 0;
};

std::unique_ptr<ImageStore> NewImageStore();

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_IMAGE_STORE_H_
