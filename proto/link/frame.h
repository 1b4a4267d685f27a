// The frames of the link, and the specification of its wire format. A virtio-serial port is a pipe
// without connections: bytes of an earlier host or agent run into ours unmarked, start anywhere and
// may be cut anywhere. A frame can therefore be found in any stream of bytes, and says itself
// whether it is whole.
//
//   frame    0x00  COBS(body)  0x00
//   body     type u8 | version u8 | reserved u16 | seq u32 | session u64 | payload | crc32 u32 (all
//   little endian)
//
// COBS (Consistent Overhead Byte Stuffing) writes the body without any zero byte, so that a zero is
// always the border of a frame. Each frame brings both its borders: whatever garbage lies before it
// ends at its first zero. Two zeros in a row mean nothing. crc32 is zlib's, over the body before
// it. reserved is written as 0 and not read. The payload is at most kMaxPayload, which keeps a
// whole frame within the 32 KiB that a virtio-serial port takes in one write.
//
//   type      from   session   payload                      meaning
//   HELLO     host   new       window u32                   opens the session, or is a repeated
//   knock WELCOME   agent  of HELLO  instance u64 | window u32    the session is open; the answer
//   to each of its HELLOs DATA      both   current   1 or more bytes              of gRPC's stream
//   CREDIT    both   current   consumed u64                 DATA bytes taken over so far by the
//   sender of CREDIT PING      host   current   consumed u64                 every 0.5 s PONG agent
//   current   consumed u64                 the answer (one may answer several PINGs) BYE       both
//   current   code u8 (EndCode)            the session is over ANNOUNCE  agent  0         instance
//   u64                 the agent started, or sees a host
//
// seq counts the DATA frames of this direction and session, modulo 2^32: a DATA frame has the
// number of DATA frames sent before it, and so has every other frame (HELLO, WELCOME and ANNOUNCE:
// 0). Hence any later frame, at the latest the next PING or PONG, shows that DATA was lost. A
// sender has at most `window` DATA bytes under way that the other end has not declared consumed.
// instance is a random number of the agent's process. A longer payload than listed is allowed and
// its rest not read, and an unknown type is not read either: both are left for additions. For
// anything more the version changes; type, version and session stay where they are, and HELLO of an
// unknown version is answered with BYE.
#ifndef VIRT_RECLAIM_PROTO_LINK_FRAME_H_
#define VIRT_RECLAIM_PROTO_LINK_FRAME_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace virt_reclaim::link {

inline constexpr uint8_t kWireVersion = 1;

enum class FrameType : uint8_t {
  kHello = 1,
  kWelcome = 2,
  kData = 3,
  kBye = 4,
  kPing = 5,
  kPong = 6,
  kAnnounce = 7,
  kCredit = 8,
};

// Why a session ended, in BYE. Numbers, not text: nothing a guest wrote is printed.
enum class EndCode : uint8_t {
  kFinished = 1,   // gRPC closed its end, all data is sent
  kBadFrame = 2,   // a damaged frame came
  kLostFrame = 3,  // a gap in seq
  kProtocol = 4,   // a frame that has no place where it came
  kSilence = 5,    // no sign of life
  kVersion = 6,    // HELLO of another version
  kTooMuch = 7,    // the host's cap on received bytes
  kTrouble = 8,    // the sender cannot go on, for reasons of its own
};

inline constexpr size_t kFrameHeaderSize = 16;
inline constexpr size_t kFrameCrcSize = 4;
inline constexpr size_t kMaxPayload = size_t{32} * 1024 - 256;
inline constexpr size_t kMaxBody = kFrameHeaderSize + kMaxPayload + kFrameCrcSize;
inline constexpr size_t kMaxStuffed = kMaxBody + kMaxBody / 254 + 1;
inline constexpr size_t kMaxFrame = kMaxStuffed + 2;
static_assert(kMaxFrame <= 32 * 1024);

struct Frame {
  FrameType type = FrameType::kData;  // any value when received
  uint8_t version = kWireVersion;
  uint32_t seq = 0;
  uint64_t session = 0;
  std::span<const uint8_t> payload = {};  // not owned
};

// Appends the frame to `out`. The payload must not be longer than kMaxPayload. Any thread.
void AppendFrame(const Frame& frame, std::vector<uint8_t>* out);

// Finds the frames in a stream of arbitrary bytes, fed in pieces of any size. Linear in time; never
// holds more than kMaxStuffed bytes. One thread.
class FrameDecoder {
 public:
  enum class Found {
    kNothing,   // all bytes taken in
    kFrame,     // a whole one
    kBadFrame,  // bytes between two zeros, or without a zero and too many of them, that are no
                // frame
  };
  // Takes bytes off the front of `*bytes` up to the next frame, or all of them. On kFrame, `*frame`
  // is filled in; its payload is valid until the next call.
  Found Next(std::span<const uint8_t>* bytes, Frame* frame);

  // Forgets a frame that has come in part.
  void Reset();

 private:
  bool Decode(Frame* frame);

  std::vector<uint8_t> buffer_;  // since the last zero
  bool decoded_ = false;         // buffer_ is what the last Next gave out
  bool skipping_ = false;        // too long: drop up to the next zero
};

}  // namespace virt_reclaim::link

#endif  // VIRT_RECLAIM_PROTO_LINK_FRAME_H_
