// Fuzzes the frame decoder. Whatever comes: the pieces it comes in make no difference, what it
// takes for a frame is one when it is written again, and a good frame behind it is found. Any bytes
// also survive being a payload.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "proto/link/frame.h"

namespace {

using virt_reclaim::link::AppendFrame;
using virt_reclaim::link::Frame;
using virt_reclaim::link::FrameDecoder;
using virt_reclaim::link::FrameType;
using Bytes = std::vector<uint8_t>;

void Require(bool condition) {
  if (!condition) abort();
}

struct Seen {
  std::vector<Bytes> frames;  // written again
  int bad = 0;
  bool operator==(const Seen&) const = default;
};

Seen Decode(std::span<const uint8_t> bytes, size_t piece) {
  Seen seen;
  FrameDecoder decoder;
  Frame frame;
  while (!bytes.empty()) {
    auto part = bytes.first(std::min(piece, bytes.size()));
    bytes = bytes.subspan(part.size());
    for (auto found = decoder.Next(&part, &frame); found != FrameDecoder::Found::kNothing;
         found = decoder.Next(&part, &frame)) {
      if (found == FrameDecoder::Found::kBadFrame) {
        ++seen.bad;
      } else {
        AppendFrame(frame, &seen.frames.emplace_back());
      }
    }
    Require(part.empty());
  }
  return seen;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span input(data, size);
  const Seen whole = Decode(input, SIZE_MAX);
  Require(whole == Decode(input, 1 + size / 3));
  if (size < 4096) Require(whole == Decode(input, 1));
  for (const Bytes& frame : whole.frames) Require(Decode(frame, SIZE_MAX).frames[0] == frame);

  const auto payload = input.first(std::min(size, virt_reclaim::link::kMaxPayload));
  Bytes good;
  AppendFrame({.type = FrameType::kData, .seq = 7, .session = 9, .payload = payload}, &good);
  Bytes stream(input.begin(), input.end());
  stream.insert(stream.end(), good.begin(), good.end());
  const Seen behind = Decode(stream, 4096);
  Require(!behind.frames.empty() && behind.frames.back() == good);
  return 0;
}
