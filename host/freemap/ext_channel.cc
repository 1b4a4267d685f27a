#include "host/freemap/ext_channel.h"

#include <new>

#include "absl/strings/str_cat.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

// What the next open is about: io_manager::open gets a name and no other argument.
thread_local const ByteSource* opening = nullptr;

struct Channel {
  struct_io_channel base = {};
  const ByteSource* source = nullptr;
};

errcode_t Open(const char* /*name*/, int /*flags*/, io_channel* out);

errcode_t Close(io_channel channel) {
  if (--channel->refcount > 0) return 0;
  delete static_cast<Channel*>(channel->private_data);
  return 0;
}

errcode_t SetBlockSize(io_channel channel, int size) {
  channel->block_size = size;
  return 0;
}

// libext2fs's convention: a negative count is bytes, a positive one blocks.
errcode_t Read64(io_channel channel, unsigned long long block, int count, void* data) {
  const auto block_size = static_cast<uint64_t>(channel->block_size);
  const uint64_t bytes = count < 0 ? static_cast<uint64_t>(-static_cast<int64_t>(count))
                                   : static_cast<uint64_t>(count) * block_size;
  uint64_t offset = 0;
  if (__builtin_mul_overflow(uint64_t{block}, block_size, &offset)) return EXT2_ET_SHORT_READ;
  const Channel* ours = static_cast<Channel*>(channel->private_data);
  const absl::Status status = ours->source->Read(offset, {static_cast<uint8_t*>(data), bytes});
  return status.ok() ? 0 : EXT2_ET_SHORT_READ;
}

errcode_t Read(io_channel channel, unsigned long block, int count, void* data) {
  return Read64(channel, block, count, data);
}

errcode_t Write64(io_channel /*channel*/, unsigned long long /*block*/, int /*count*/,
                  const void* /*data*/) {
  return EXT2_ET_RO_FILSYS;
}

errcode_t Write(io_channel /*channel*/, unsigned long /*block*/, int /*count*/,
                const void* /*data*/) {
  return EXT2_ET_RO_FILSYS;
}

errcode_t Flush(io_channel /*channel*/) { return 0; }

struct_io_manager MakeManager() {
  struct_io_manager manager = {};
  manager.magic = EXT2_ET_MAGIC_IO_MANAGER;
  manager.name = "virt-reclaim";
  manager.open = Open;
  manager.close = Close;
  manager.set_blksize = SetBlockSize;
  manager.read_blk = Read;
  manager.read_blk64 = Read64;
  manager.write_blk = Write;
  manager.write_blk64 = Write64;
  manager.flush = Flush;
  return manager;
}

struct_io_manager manager = MakeManager();

errcode_t Open(const char* /*name*/, int /*flags*/, io_channel* out) {
  auto* channel = new (std::nothrow) Channel;
  if (channel == nullptr) return EXT2_ET_NO_MEMORY;
  channel->source = opening;
  channel->base.magic = EXT2_ET_MAGIC_IO_CHANNEL;
  channel->base.manager = &manager;
  channel->base.block_size = 1024;
  channel->base.refcount = 1;
  channel->base.private_data = channel;
  *out = &channel->base;
  return 0;
}

}  // namespace

absl::StatusOr<ExtHandle> OpenExt(const ByteSource& source) {
  opening = &source;
  ext2_filsys fs = nullptr;
  const errcode_t error = ext2fs_open2("", nullptr, EXT2_FLAG_64BITS, 0, 0, &manager, &fs);
  opening = nullptr;
  if (error == 0) return ExtHandle(fs);
  if (error == EXT2_ET_UNSUPP_FEATURE) return UnknownError("libext2fs does not know a feature");
  if (error == EXT2_ET_NO_MEMORY) return TooLargeError("not enough memory for its descriptors");
  if (error == EXT2_ET_SB_CSUM_INVALID) return DamagedError("bad checksum of the superblock");
  if (error == EXT2_ET_CORRUPT_SUPERBLOCK) return DamagedError("the superblock is impossible");
  // libext2fs's words for the others are in a library of their own.
  return DamagedError(absl::StrCat("libext2fs refuses it: error ", error - EXT2_ET_BASE));
}

}  // namespace virt_reclaim::freemap
