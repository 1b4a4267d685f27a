#include "host/guestfs/initramfs_archive.h"

#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/handle.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;
constexpr size_t kMaxNameBytes = 4096;  // PATH_MAX
constexpr int kMaxArchives = 16;  // microcode, firmware, drivers, the rest: honest ones have four
constexpr uint64_t kLzmaMemoryBytes = uint64_t{256} << 20;
constexpr int kZstdWindowLog = 27;  // 128 MiB; what zstd itself takes without being told

// Bytes with a view of what comes next.
class Stream {
 public:
  Stream(ByteSource source, uint64_t max_bytes)
      : source_(std::move(source)), max_bytes_(max_bytes), buffer_(kBufferBytes) {}

  // What is there, at least `wanted` bytes (at most kBufferBytes) unless the end comes before.
  absl::StatusOr<absl::string_view> Peek(size_t wanted) {
    if (end_ - begin_ < wanted && begin_ > 0) {
      std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
      end_ -= std::exchange(begin_, 0);
    }
    while (end_ - begin_ < wanted && !at_end_) {
      VR_ASSIGN_OR_RETURN(const size_t n, source_(buffer_.data() + end_, buffer_.size() - end_));
      if (n > buffer_.size() - end_) return absl::InternalError("more bytes than asked for");
      at_end_ = n == 0;
      end_ += n;
      total_ += n;
      if (total_ > max_bytes_) {
        return absl::ResourceExhaustedError(
            absl::StrCat("the initramfs has more than ", max_bytes_, " bytes"));
      }
    }
    return absl::string_view(buffer_.data() + begin_, end_ - begin_);
  }
  void Consume(size_t n) { begin_ += n; }

  absl::Status Skip(uint64_t n) {
    while (n > 0) {
      VR_ASSIGN_OR_RETURN(const absl::string_view bytes, Peek(1));
      if (bytes.empty()) return absl::DataLossError("the archive ends too early");
      const auto some = static_cast<size_t>(std::min<uint64_t>(n, bytes.size()));
      Consume(some);
      n -= some;
    }
    return absl::OkStatus();
  }
  // False: only zeroes were left.
  absl::StatusOr<bool> SkipZeroes() {
    while (true) {
      VR_ASSIGN_OR_RETURN(const absl::string_view bytes, Peek(1));
      if (bytes.empty()) return false;
      const size_t zeroes = std::min(bytes.find_first_not_of('\0'), bytes.size());
      Consume(zeroes);
      if (zeroes < bytes.size()) return true;
    }
  }

 private:
  ByteSource source_;
  uint64_t max_bytes_;
  uint64_t total_ = 0;
  std::vector<char> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  bool at_end_ = false;
};

absl::Status Damaged() {
  return absl::DataLossError("the compressed archive is damaged or cut off");
}

// Each takes what it needs from `in` and leaves what comes after its end there.
class Decoder {
 public:
  explicit Decoder(Stream& in) : in_(in) {}
  virtual ~Decoder() = default;

  absl::StatusOr<size_t> Read(char* out, size_t size) {
    if (done_ || size == 0) return size_t{0};
    while (true) {
      // Nothing left to put in does not mean that nothing is left to come out.
      VR_ASSIGN_OR_RETURN(const absl::string_view bytes, in_.Peek(1));
      size_t used = 0;
      size_t made = 0;
      VR_RETURN_IF_ERROR(Step(bytes, used, out, size, made));
      in_.Consume(used);
      if (made > 0 || done_) return made;
      if (used == 0) return Damaged();
    }
  }

 protected:
  virtual absl::Status Step(absl::string_view in, size_t& used, char* out, size_t size,
                            size_t& made) = 0;
  bool done_ = false;

 private:
  Stream& in_;
};

class GzipDecoder : public Decoder {
 public:
  explicit GzipDecoder(Stream& in) : Decoder(in) {
    ok_ = inflateInit2(&state_, 16 + MAX_WBITS) == Z_OK;
  }
  ~GzipDecoder() override { inflateEnd(&state_); }

 protected:
  absl::Status Step(absl::string_view in, size_t& used, char* out, size_t size,
                    size_t& made) override {
    if (!ok_) return absl::InternalError("inflateInit2");
    state_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
    state_.avail_in = static_cast<uInt>(in.size());
    state_.next_out = reinterpret_cast<Bytef*>(out);
    state_.avail_out = static_cast<uInt>(size);
    const int result = inflate(&state_, Z_NO_FLUSH);
    if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR) return Damaged();
    done_ = result == Z_STREAM_END;
    used = in.size() - state_.avail_in;
    made = size - state_.avail_out;
    return absl::OkStatus();
  }

 private:
  z_stream state_ = {};
  bool ok_ = false;
};

class XzDecoder : public Decoder {
 public:
  XzDecoder(Stream& in, bool alone) : Decoder(in) {
    ok_ = (alone ? lzma_alone_decoder(&state_, kLzmaMemoryBytes)
                 : lzma_stream_decoder(&state_, kLzmaMemoryBytes, 0)) == LZMA_OK;
  }
  ~XzDecoder() override { lzma_end(&state_); }

 protected:
  absl::Status Step(absl::string_view in, size_t& used, char* out, size_t size,
                    size_t& made) override {
    if (!ok_) return absl::InternalError("lzma decoder");
    state_.next_in = reinterpret_cast<const uint8_t*>(in.data());
    state_.avail_in = in.size();
    state_.next_out = reinterpret_cast<uint8_t*>(out);
    state_.avail_out = size;
    const lzma_ret result = lzma_code(&state_, LZMA_RUN);
    if (result != LZMA_OK && result != LZMA_STREAM_END && result != LZMA_BUF_ERROR)
      return Damaged();
    done_ = result == LZMA_STREAM_END;
    used = in.size() - state_.avail_in;
    made = size - state_.avail_out;
    return absl::OkStatus();
  }

 private:
  lzma_stream state_ = LZMA_STREAM_INIT;
  bool ok_ = false;
};

class ZstdDecoder : public Decoder {
 public:
  explicit ZstdDecoder(Stream& in) : Decoder(in), state_(ZSTD_createDCtx()) {
    if (state_ != nullptr) {
      ZSTD_DCtx_setParameter(state_.get(), ZSTD_d_windowLogMax, kZstdWindowLog);
    }
  }

 protected:
  absl::Status Step(absl::string_view in, size_t& used, char* out, size_t size,
                    size_t& made) override {
    if (state_ == nullptr) return absl::InternalError("ZSTD_createDCtx");
    ZSTD_inBuffer input = {in.data(), in.size(), 0};
    ZSTD_outBuffer output = {out, size, 0};
    const size_t result = ZSTD_decompressStream(state_.get(), &output, &input);
    if (ZSTD_isError(result) != 0) return Damaged();
    done_ = result == 0;
    used = input.pos;
    made = output.pos;
    return absl::OkStatus();
  }

 private:
  Handle<ZSTD_DCtx, ZSTD_freeDCtx> state_;
};

// The decoder for what begins with `magic`; null: not known here.
std::unique_ptr<Decoder> DecoderFor(absl::string_view magic, Stream& in) {
  if (absl::StartsWith(magic, "\x1f\x8b")) return std::make_unique<GzipDecoder>(in);
  if (absl::StartsWith(magic, "\x28\xb5\x2f\xfd")) return std::make_unique<ZstdDecoder>(in);
  if (absl::StartsWith(magic, absl::string_view("\xfd"
                                                "7zXZ\0",
                                                6))) {
    return std::make_unique<XzDecoder>(in, false);
  }
  if (absl::StartsWith(magic, absl::string_view("\x5d\0\0", 3))) {
    return std::make_unique<XzDecoder>(in, true);
  }
  return nullptr;
}

bool IsCpio(absl::string_view bytes) {
  return absl::StartsWith(bytes, "070701") || absl::StartsWith(bytes, "070702");
}

class Lister {
 public:
  explicit Lister(uint64_t max_unpacked_bytes) : max_unpacked_bytes_(max_unpacked_bytes) {}

  // One file of archives; those inside of a compressed one are not compressed again.
  absl::Status List(Stream& in, bool compressed_too) {
    while (true) {
      VR_ASSIGN_OR_RETURN(const bool more, in.SkipZeroes());
      if (!more) return absl::OkStatus();
      if (++archives_ > kMaxArchives) return absl::ResourceExhaustedError("too many archives");
      VR_ASSIGN_OR_RETURN(const absl::string_view magic, in.Peek(6));
      if (IsCpio(magic)) {
        VR_RETURN_IF_ERROR(ListCpio(in));
        continue;
      }
      const auto decoder = compressed_too ? DecoderFor(magic, in) : nullptr;
      if (decoder == nullptr) return absl::UnimplementedError("an unknown kind of initramfs");
      Stream unpacked([&](char* out, size_t size) { return decoder->Read(out, size); },
                      max_unpacked_bytes_);
      VR_RETURN_IF_ERROR(List(unpacked, false));
    }
  }

  std::string listing;

 private:
  // cpio(5), "newc": 13 fields of 8 hexadecimal digits behind the magic; name and content each
  // padded to a multiple of 4.
  absl::Status ListCpio(Stream& in) {
    constexpr size_t kHeader = 110;
    while (true) {
      VR_ASSIGN_OR_RETURN(const absl::string_view header, in.Peek(kHeader));
      if (header.size() < kHeader || !IsCpio(header)) return absl::DataLossError("no cpio header");
      uint32_t mode = 0;
      uint32_t size = 0;
      uint32_t name_size = 0;
      if (!absl::SimpleHexAtoi(header.substr(14, 8), &mode) ||
          !absl::SimpleHexAtoi(header.substr(54, 8), &size) ||
          !absl::SimpleHexAtoi(header.substr(94, 8), &name_size) || name_size == 0 ||
          name_size > kMaxNameBytes) {
        return absl::DataLossError("a damaged cpio header");
      }
      const size_t entry = (kHeader + name_size + 3) / 4 * 4;
      VR_ASSIGN_OR_RETURN(const absl::string_view bytes, in.Peek(entry));
      if (bytes.size() < entry) return absl::DataLossError("the archive ends too early");
      const std::string name(bytes.substr(kHeader, name_size - 1));
      in.Consume(entry);
      VR_RETURN_IF_ERROR(in.Skip((uint64_t{size} + 3) / 4 * 4));
      if (name == "TRAILER!!!") return absl::OkStatus();
      // A name of two lines would be two names.
      if ((mode & 0170000) == 0040000 || absl::StrContains(name, "\n")) continue;
      absl::StrAppend(&listing, name, "\n");
      if (listing.size() > kMaxInitramfsListingBytes) {
        return absl::ResourceExhaustedError("the initramfs has too many files");
      }
    }
  }

  uint64_t max_unpacked_bytes_;
  int archives_ = 0;
};

}  // namespace

absl::StatusOr<std::string> ListInitramfsArchive(const ByteSource& source,
                                                 uint64_t max_unpacked_bytes) {
  Stream in(source, kMaxInitramfsBytes);
  Lister lister(max_unpacked_bytes);
  VR_RETURN_IF_ERROR(lister.List(in, true));
  return std::move(lister.listing);
}

}  // namespace virt_reclaim
