#include "proto/link/frame.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "proto/link/little_endian.h"

namespace virt_reclaim::link {
namespace {

constexpr size_t kMaxRun = 254;

uint32_t Checksum(std::span<const uint8_t> bytes) {
  return static_cast<uint32_t>(crc32(0, bytes.data(), static_cast<uInt>(bytes.size())));
}

std::optional<size_t> FindZero(std::span<const uint8_t> bytes) {
  if (bytes.empty()) return std::nullopt;
  const void* zero = std::memchr(bytes.data(), 0, bytes.size());
  if (zero == nullptr) return std::nullopt;
  return static_cast<size_t>(static_cast<const uint8_t*>(zero) - bytes.data());
}

// Blocks of a count (run + 1) and a run without zeros; each block but the last stands for its run
// and one zero, except that a full one (count 255) stands for its run alone. Returns the end of
// what it wrote.
uint8_t* Stuff(std::span<const uint8_t> in, uint8_t* out) {
  while (true) {
    const size_t room = std::min(kMaxRun, in.size());
    const size_t run = FindZero(in.first(room)).value_or(room);
    *out++ = static_cast<uint8_t>(run + 1);
    out = std::copy_n(in.data(), run, out);
    in = in.subspan(run);
    if (run < room) {
      in = in.subspan(1);  // the zero: at least one more block follows, if only an empty one
    } else if (in.empty()) {
      return out;
    }
  }
}

// In place: the result is never longer than what was read. `bytes` has no zero.
std::optional<size_t> Unstuff(std::span<uint8_t> bytes) {
  size_t in = 0;
  size_t out = 0;
  while (in < bytes.size()) {
    const size_t count = bytes[in++];
    const size_t run = count - 1;
    if (run > bytes.size() - in) return std::nullopt;
    std::memmove(bytes.data() + out, bytes.data() + in, run);
    in += run;
    out += run;
    if (run < kMaxRun && in < bytes.size()) bytes[out++] = 0;
  }
  return out;
}

}  // namespace

void AppendFrame(const Frame& frame, std::vector<uint8_t>* out) {
  std::array<uint8_t, kMaxBody> body;  // not initialised: every byte used is written below
  body[0] = static_cast<uint8_t>(frame.type);
  body[1] = frame.version;
  PutLittleEndian<uint16_t>(0, &body[2]);
  PutLittleEndian(frame.seq, &body[4]);
  PutLittleEndian(frame.session, &body[8]);
  const size_t payload = std::min(frame.payload.size(), kMaxPayload);
  std::copy_n(frame.payload.begin(), payload, body.begin() + kFrameHeaderSize);
  const size_t covered = kFrameHeaderSize + payload;
  PutLittleEndian(Checksum(std::span(body).first(covered)), &body[covered]);

  const size_t start = out->size();
  const size_t length = covered + kFrameCrcSize;
  out->resize(start + length + length / kMaxRun + 3);
  uint8_t* at = out->data() + start;
  *at++ = 0;
  at = Stuff(std::span(body).first(length), at);
  *at++ = 0;
  out->resize(static_cast<size_t>(at - out->data()));
}

FrameDecoder::Found FrameDecoder::Next(std::span<const uint8_t>* bytes, Frame* frame) {
  if (decoded_) Reset();
  while (!bytes->empty()) {
    const std::optional<size_t> zero = FindZero(*bytes);
    const size_t run = zero.value_or(bytes->size());
    const auto piece = bytes->first(run);
    *bytes = bytes->subspan(run);
    if (!skipping_ && run > kMaxStuffed - buffer_.size()) {
      // Said at once, not at the next zero, which may never come.
      buffer_.clear();
      skipping_ = true;
      return Found::kBadFrame;
    }
    if (!skipping_) buffer_.insert(buffer_.end(), piece.begin(), piece.end());
    if (!zero) return Found::kNothing;
    *bytes = bytes->subspan(1);
    skipping_ = false;
    if (buffer_.empty()) continue;
    decoded_ = true;
    return Decode(frame) ? Found::kFrame : Found::kBadFrame;
  }
  return Found::kNothing;
}

void FrameDecoder::Reset() {
  buffer_.clear();
  decoded_ = false;
  skipping_ = false;
}

bool FrameDecoder::Decode(Frame* frame) {
  const std::optional<size_t> length = Unstuff(buffer_);
  if (!length || *length < kFrameHeaderSize + kFrameCrcSize || *length > kMaxBody) return false;
  const size_t covered = *length - kFrameCrcSize;
  const auto body = std::span<const uint8_t>(buffer_).first(covered);
  if (GetLittleEndian<uint32_t>(&buffer_[covered]) != Checksum(body)) return false;
  frame->type = static_cast<FrameType>(body[0]);
  frame->version = body[1];
  frame->seq = GetLittleEndian<uint32_t>(&body[4]);
  frame->session = GetLittleEndian<uint64_t>(&body[8]);
  frame->payload = body.subspan(kFrameHeaderSize);
  return true;
}

}  // namespace virt_reclaim::link
