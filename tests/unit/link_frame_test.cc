// The wire format of the link: what is written is found again in any stream of bytes, and nothing
// else is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "proto/link/frame.h"

namespace virt_reclaim::link {
namespace {

using Bytes = std::vector<uint8_t>;

struct Got {
  FrameType type;
  uint8_t version;
  uint32_t seq;
  uint64_t session;
  Bytes payload;
  bool operator==(const Got&) const = default;
};

struct Seen {
  std::vector<Got> frames;
  int bad = 0;
};

void Feed(FrameDecoder* decoder, std::span<const uint8_t> bytes, Seen* seen) {
  Frame frame;
  while (true) {
    switch (decoder->Next(&bytes, &frame)) {
      case FrameDecoder::Found::kNothing:
        return;
      case FrameDecoder::Found::kBadFrame:
        ++seen->bad;
        break;
      case FrameDecoder::Found::kFrame:
        seen->frames.push_back({frame.type, frame.version, frame.seq, frame.session,
                                Bytes(frame.payload.begin(), frame.payload.end())});
        break;
    }
  }
}

Seen DecodeAll(std::span<const uint8_t> bytes) {
  FrameDecoder decoder;
  Seen seen;
  Feed(&decoder, bytes, &seen);
  return seen;
}

Bytes Encode(const Got& frame) {
  Bytes bytes;
  AppendFrame({frame.type, frame.version, frame.seq, frame.session, frame.payload}, &bytes);
  return bytes;
}

Bytes RandomBytes(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  Bytes bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

const Got kSample{FrameType::kData, kWireVersion, 0x01020304, 0x1122334455667788, {1, 0, 2, 0, 0}};

TEST(LinkFrame, IsWhatTheSpecificationSays) {
  const Bytes bytes = Encode({FrameType::kBye, 1, 2, 3, {9}});
  // Written by hand after frame.h; the checksum is zlib.crc32 of Python over the 17 bytes before
  // it.
  const Bytes expected = {0, 3, 4, 1, 1, 2, 2, 1,    1,    2,    3,    1,
                          1, 1, 1, 1, 1, 6, 9, 0xc9, 0x76, 0x82, 0x34, 0};
  EXPECT_EQ(bytes.size(), expected.size());
  EXPECT_EQ(bytes, expected);
}

TEST(LinkFrame, EveryPayloadSizeComesBack) {
  for (size_t size = 0; size <= 1100; ++size) {
    Got frame = kSample;
    frame.payload = RandomBytes(size, static_cast<uint32_t>(size));
    const Seen seen = DecodeAll(Encode(frame));
    ASSERT_EQ(seen.frames, std::vector{frame}) << size;
    ASSERT_EQ(seen.bad, 0);
  }
}

TEST(LinkFrame, RunsAroundTheLongestBlockComeBack) {
  for (const uint8_t fill : Bytes{0x00, 0x01, 0xff}) {
    for (size_t size = 230; size < 520; ++size) {
      Got frame = kSample;
      frame.payload.assign(size, fill);
      ASSERT_EQ(DecodeAll(Encode(frame)).frames, std::vector{frame}) << size;
      frame.payload.back() = 0;
      ASSERT_EQ(DecodeAll(Encode(frame)).frames, std::vector{frame}) << size;
    }
  }
}

TEST(LinkFrame, LargestFrameFitsOneWriteOfThePort) {
  for (const uint8_t fill : Bytes{0x00, 0x01}) {
    Got frame = kSample;
    frame.payload.assign(kMaxPayload, fill);
    const Bytes bytes = Encode(frame);
    EXPECT_LE(bytes.size(), kMaxFrame);
    EXPECT_LE(bytes.size(), size_t{32 * 1024});
    EXPECT_EQ(DecodeAll(bytes).frames, std::vector{frame});
  }
}

TEST(LinkFrame, NoZeroInsideAndOneAtEachBorder) {
  Bytes bytes = Encode(kSample);
  EXPECT_EQ(bytes.front(), 0);
  EXPECT_EQ(bytes.back(), 0);
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 0), 2);
}

TEST(LinkFrame, PiecesOfAnySizeMakeNoDifference) {
  Bytes stream;
  std::vector<Got> sent;
  for (uint32_t i = 0; i < 50; ++i) {
    sent.push_back({FrameType::kData, kWireVersion, i, i * 7919, RandomBytes(i * 37, i)});
    const Bytes one = Encode(sent.back());
    stream.insert(stream.end(), one.begin(), one.end());
  }
  for (const size_t piece :
       {size_t{1}, size_t{2}, size_t{3}, size_t{7}, size_t{100}, size_t{4096}}) {
    FrameDecoder decoder;
    Seen seen;
    for (size_t at = 0; at < stream.size(); at += piece) {
      Feed(&decoder, std::span(stream).subspan(at, std::min(piece, stream.size() - at)), &seen);
    }
    EXPECT_EQ(seen.frames, sent) << piece;
    EXPECT_EQ(seen.bad, 0);
  }
}

TEST(LinkFrame, EveryFlippedBitIsNoticed) {
  const Bytes whole = Encode(kSample);
  for (size_t bit = 8; bit < 8 * (whole.size() - 1); ++bit) {
    Bytes bytes = whole;
    bytes[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
    const Seen seen = DecodeAll(bytes);
    EXPECT_TRUE(seen.frames.empty()) << bit;
    EXPECT_GE(seen.bad, 1) << bit;
  }
}

TEST(LinkFrame, EveryCutIsNoticedWhenTheNextFrameComes) {
  const Bytes whole = Encode(kSample);
  for (size_t keep = 2; keep < whole.size() - 1; ++keep) {
    Bytes bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(keep));
    bytes.insert(bytes.end(), whole.begin(), whole.end());
    const Seen seen = DecodeAll(bytes);
    EXPECT_EQ(seen.frames, std::vector{kSample}) << keep;
    EXPECT_EQ(seen.bad, 1) << keep;
  }
}

TEST(LinkFrame, FrameIsFoundAfterAnyGarbage) {
  const Bytes whole = Encode(kSample);
  for (uint32_t seed = 0; seed < 20; ++seed) {
    Bytes bytes = RandomBytes(seed * 5003, seed);
    bytes.insert(bytes.end(), whole.begin(), whole.end());
    EXPECT_EQ(DecodeAll(bytes).frames, std::vector{kSample}) << seed;
  }
  Bytes ones(size_t{5} << 20, 0xff);
  ones.insert(ones.end(), whole.begin(), whole.end());
  EXPECT_EQ(DecodeAll(ones).frames, std::vector{kSample});
}

TEST(LinkFrame, BytesWithoutAnyZeroAreReportedOnceAndBeforeTheyEnd) {
  FrameDecoder decoder;
  Seen seen;
  Feed(&decoder, Bytes(kMaxStuffed, 0xff), &seen);
  EXPECT_EQ(seen.bad, 0);
  Feed(&decoder, Bytes(1, 0xff), &seen);
  EXPECT_EQ(seen.bad, 1);
  Feed(&decoder, Bytes(10 * kMaxStuffed, 0xff), &seen);
  EXPECT_EQ(seen.bad, 1);
  Feed(&decoder, Encode(kSample), &seen);
  EXPECT_EQ(seen.bad, 1);
  EXPECT_EQ(seen.frames, std::vector{kSample});
}

TEST(LinkFrame, ZerosAloneMeanNothing) {
  const Seen seen = DecodeAll(Bytes(100000, 0));
  EXPECT_EQ(seen.bad, 0);
  EXPECT_TRUE(seen.frames.empty());
}

TEST(LinkFrame, ShorterThanAHeaderIsBad) {
  for (size_t size = 1; size < 24; ++size) {
    Bytes bytes(size + 2, 1);  // "1" is an empty block: a body of size - 1 zeros
    bytes.front() = bytes.back() = 0;
    EXPECT_EQ(DecodeAll(bytes).bad, 1) << size;
  }
}

TEST(LinkFrame, ResetForgetsTheBegunFrame) {
  const Bytes whole = Encode(kSample);
  FrameDecoder decoder;
  Seen seen;
  Feed(&decoder, std::span(whole).first(10), &seen);
  decoder.Reset();
  Feed(&decoder, whole, &seen);
  EXPECT_EQ(seen.frames, std::vector{kSample});
  EXPECT_EQ(seen.bad, 0);
}

TEST(LinkFrame, UnknownTypesAndVersionsAreGivenOut) {
  const Got frame{static_cast<FrameType>(200), 77, 1, 2, {}};
  EXPECT_EQ(DecodeAll(Encode(frame)).frames, std::vector{frame});
}

}  // namespace
}  // namespace virt_reclaim::link
