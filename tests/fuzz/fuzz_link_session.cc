// Fuzzes the session layer, both roles. The input is a list of steps: raw bytes, frames with a
// right checksum and often the right session and number (which blind mutation would never find),
// time, and what the users of a session do. Whatever happens, buffers stay bounded and deadlines
// move on; and then a good host opens a session within 2 s of virtual time, through which bytes
// arrive both ways.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "proto/link/session.h"

namespace {

using std::chrono::milliseconds;
using virt_reclaim::link::AppendFrame;
using virt_reclaim::link::FrameType;
using virt_reclaim::link::kDefaultWindow;
using virt_reclaim::link::kMaxFrame;
using virt_reclaim::link::kOutboxTarget;
using virt_reclaim::link::Session;
using Bytes = std::vector<uint8_t>;
using State = Session::State;

void Require(bool condition) {
  if (!condition) abort();
}

class Input {
 public:
  explicit Input(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  uint8_t Byte() {
    const auto one = Take(1);
    return one.empty() ? uint8_t{0} : one[0];
  }
  std::span<const uint8_t> Take(size_t count) {
    const auto taken = bytes_.first(std::min(count, bytes_.size()));
    bytes_ = bytes_.subspan(taken.size());
    return taken;
  }

 private:
  std::span<const uint8_t> bytes_;
};

class World {
 public:
  World() : host_(NewSession(Session::Role::kHost)), agent_(NewSession(Session::Role::kAgent)) {}

  void Play(Input* input) {
    while (!input->empty()) {
      const uint8_t step = input->Byte();
      Session& target = (step & 0x80) != 0 ? host_ : agent_;
      Act(step & 0x0f, &target, input);
      Check(host_);
      Check(agent_);
    }
  }

  void ExpectGoodHostGetsThrough() {
    host_ = NewSession(Session::Role::kHost);
    const auto end = now_ + milliseconds(2000);
    while (host_.state() != State::kOpen || agent_.id() != host_.id()) {
      Require(now_ < end);
      Exchange();
    }
    const std::array<uint8_t, 3> question{1, 0, 2};
    const std::array<uint8_t, 3> answer{0, 0, 3};
    host_.Send(question);
    agent_.Send(answer);
    Exchange();
    Require(std::ranges::equal(agent_.Incoming(), question));
    Require(std::ranges::equal(host_.Incoming(), answer));
  }

 private:
  Session NewSession(Session::Role role) {
    return Session({.role = role,
                    .random = [this] { return ++last_id_; },
                    .max_received_bytes = role == Session::Role::kHost ? 300000U : 0U},
                   now_);
  }

  void Act(int action, Session* target, Input* input) {
    switch (action) {
      case 0:
        return target->Receive(now_, input->Take(input->Byte() * size_t{16}));
      case 1:
      case 2:
      case 3:
        return target->Receive(now_, MakeFrame(*target, input));
      case 4:
        return Advance(milliseconds(10 * input->Byte()));
      case 5:
        return target->Consume(target->Incoming().size() / (1 + size_t{input->Byte()}));
      case 6:
        return target->Send(Bytes(size_t{input->Byte()} * 300, 'x'));
      case 7:
        return target->Finish();
      case 8:
        return target->PeerLost(now_);
      case 9:
        return target->PeerAppeared(now_);
      case 10: {
        const auto output = target->Output();
        return target->OutputWritten(output.size() / (1 + size_t{input->Byte()}));
      }
      case 11:
        return target->Abort("fuzz");
      case 12: {
        // A flood of the same.
        const Bytes frame = MakeFrame(*target, input);
        for (int i = 0; i < 200; ++i) {
          target->Receive(now_, frame);
          target->Output();
        }
        return;
      }
      default:
        return Exchange();
    }
  }

  // Right in most respects.
  Bytes MakeFrame(const Session& target, Input* input) {
    const uint8_t kind = input->Byte();
    uint64_t session = target.id();
    if ((kind & 0x30) == 0x30) session = input->Byte();
    const uint32_t seq = input->Byte();
    const auto version = static_cast<uint8_t>((kind & 0xc0) == 0xc0 ? input->Byte() : 1);
    const auto taken = input->Take(input->Byte() % 32);
    Bytes payload(taken.begin(), taken.end());
    payload.resize(payload.size() * ((kind & 0xc0) == 0x80 ? 500 : 1), 'x');
    Bytes bytes;
    AppendFrame({.type = static_cast<FrameType>(kind & 0x0f),
                 .version = version,
                 .seq = seq,
                 .session = session,
                 .payload = payload},
                &bytes);
    return bytes;
  }

  void Advance(milliseconds time) {
    now_ += time;
    for (Session* session : {&host_, &agent_}) {
      // A deadline that does not move on would be a busy loop.
      for (int ticks = 0; session->deadline() && *session->deadline() <= now_; ++ticks) {
        Require(ticks < 10);
        session->Tick(now_);
      }
    }
  }

  void Exchange() {
    now_ += milliseconds(1);
    const Bytes to_agent = TakeOutput(&host_);
    const Bytes to_host = TakeOutput(&agent_);
    agent_.Receive(now_, to_agent);
    host_.Receive(now_, to_host);
    Advance(milliseconds(0));
  }

  static Bytes TakeOutput(Session* session) {
    const auto output = session->Output();
    const Bytes bytes(output.begin(), output.end());
    session->OutputWritten(bytes.size());
    return bytes;
  }

  static void Check(const Session& session) {
    Require(session.Incoming().size() <= kDefaultWindow);
    Require((session.id() != 0) ==
            (session.state() == State::kOpen || session.state() == State::kDraining ||
             session.state() == State::kConnecting));
    if (session.state() != State::kOpen) Require(session.SendCapacity() == 0);
    if (session.state() == State::kIdle || session.state() == State::kEnded) {
      Require(!session.deadline() && session.Incoming().empty());
    }
    Session copy = session;  // Output makes frames
    Require(copy.Output().size() <= 2 * kOutboxTarget + 2 * kMaxFrame);
  }

  Session::TimePoint now_{std::chrono::hours(1)};
  uint64_t last_id_ = 1000;
  Session host_;
  Session agent_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(std::span(data, std::min(size, size_t{4096})));
  World world;
  world.Play(&input);
  world.ExpectGoodHostGetsThrough();
  return 0;
}
