// `trim` over a fleet in which most guests are hostile: the whole program, with real links, real
// gRPC and real images. The others are served, nobody waits longer than was said, the program does
// not grow, and what it prints can be read.
//
// The guests live in a process of their own, so that the memory here is the host's alone. It is
// forked before anything of gRPC runs.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/byte_size.h"
#include "base/unique_fd.h"
#include "host/cli/program.h"
#include "tests/component/grpc_guest.h"
#include "tests/component/guest_limits.h"
#include "tests/component/link_test_port.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

using testing::HasSubstr;

constexpr uint64_t kAllocated = 48 * kMiB;
constexpr uint64_t kFreed = 32 * kMiB;
constexpr absl::Duration kTimeout = absl::Seconds(3);     // of a domain
constexpr absl::Duration kConnecting = absl::Seconds(2);  // before that
constexpr absl::Duration kMeasuring = absl::Seconds(2);   // after it
constexpr int64_t kFleetMemoryKiB = 2 * kMemoryLimitKiB;  // of all of them together
constexpr size_t kReadableBytes = size_t{64} << 10;       // for a dozen domains
constexpr int kMillion = 1000000;
constexpr char kNasty[] = "/mnt/\n\x1b[2J\x1b]0;title\x07\r\xe2\x80\xae root: total 0";

void SleepUntilCancelled(grpc::ServerContext* context, absl::Duration most) {
  const absl::Time end = absl::Now() + most;
  while (!context->IsCancelled() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(10));
}

void AddFilesystem(v1::ListFilesystemsResponse* response, const std::string& mount_point) {
  v1::Filesystem& filesystem = *response->add_filesystems();
  filesystem.set_type("ext4");
  filesystem.add_mount_points(mount_point);
  filesystem.set_size_bytes(kGiB);
  filesystem.set_used_bytes(kMiB);
  filesystem.set_free_bytes(kGiB - kMiB);
  filesystem.set_obstacle(v1::TRIM_OBSTACLE_NONE);
  v1::BlockDevice& disk = *filesystem.add_devices();
  disk.set_name("vda");
  disk.set_kind(v1::BLOCK_DEVICE_KIND_DISK);
  disk.set_size_bytes(kGiB);
  disk.set_bus_path("pci0000:00/0000:00:05.0/virtio2");
}

// An honest guest, whose disk is the file `image`.
class GoodAgent : public v1::Agent::Service {
 public:
  explicit GoodAgent(std::string image) : image_(std::move(image)) {}

  grpc::Status ListFilesystems(grpc::ServerContext*, const v1::ListFilesystemsRequest*,
                               v1::ListFilesystemsResponse* response) override {
    AddFilesystem(response, "/");
    return grpc::Status::OK;
  }
  grpc::Status Trim(grpc::ServerContext*, const v1::TrimRequest*,
                    grpc::ServerWriter<v1::TrimEvent>* writer) override {
    // As QEMU does it.
    const UniqueFd fd(open(image_.c_str(), O_RDWR | O_CLOEXEC));
    if (fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kFreed) != 0)
      return {grpc::StatusCode::INTERNAL, "punch"};
    Finish(writer, "/", 900 * kMiB);
    return grpc::Status::OK;
  }

 protected:
  static bool Finish(grpc::ServerWriter<v1::TrimEvent>* writer, const std::string& mount_point,
                     uint64_t trimmed) {
    v1::TrimEvent event;
    v1::TrimFinished& finished = *event.mutable_finished();
    finished.set_mount_point(mount_point);
    finished.set_result(v1::TRIM_RESULT_DONE);
    finished.set_trimmed_bytes(trimmed);
    finished.set_obstacle(v1::TRIM_OBSTACLE_NONE);
    finished.add_disks("vda");
    return writer->Write(event);
  }

 private:
  const std::string image_;
};

class NeverAnswers : public GoodAgent {
 public:
  using GoodAgent::GoodAgent;
  grpc::Status ListFilesystems(grpc::ServerContext* context, const v1::ListFilesystemsRequest*,
                               v1::ListFilesystemsResponse*) override {
    SleepUntilCancelled(context, absl::InfiniteDuration());
    return grpc::Status::OK;
  }
};

// Does what it was asked, and says so when nobody asks any more.
class AnswersLate : public GoodAgent {
 public:
  using GoodAgent::GoodAgent;
  grpc::Status Trim(grpc::ServerContext*, const v1::TrimRequest*,
                    grpc::ServerWriter<v1::TrimEvent>* writer) override {
    absl::SleepFor(kTimeout + absl::Seconds(1));
    Finish(writer, "/", kMiB);
    return grpc::Status::OK;
  }
};

class LiesAboutBytes : public GoodAgent {
 public:
  using GoodAgent::GoodAgent;
  grpc::Status Trim(grpc::ServerContext*, const v1::TrimRequest*,
                    grpc::ServerWriter<v1::TrimEvent>* writer) override {
    // Together just 1 byte, for who adds carelessly.
    Finish(writer, "/", UINT64_MAX);
    Finish(writer, "/home", 2);
    return grpc::Status::OK;
  }
};

// Says for ever that it is at work, `pause` apart.
class StreamsForEver : public GoodAgent {
 public:
  StreamsForEver(std::string image, absl::Duration pause)
      : GoodAgent(std::move(image)), pause_(pause) {}
  grpc::Status Trim(grpc::ServerContext*, const v1::TrimRequest*,
                    grpc::ServerWriter<v1::TrimEvent>* writer) override {
    v1::TrimEvent event;
    event.mutable_progress()->set_position_bytes(kMiB);
    while (writer->Write(event)) absl::SleepFor(pause_);
    return grpc::Status::OK;
  }

 private:
  const absl::Duration pause_;
};

class MillionFilesystems : public GoodAgent {
 public:
  using GoodAgent::GoodAgent;
  grpc::Status ListFilesystems(grpc::ServerContext*, const v1::ListFilesystemsRequest*,
                               v1::ListFilesystemsResponse* response) override {
    for (int i = 0; i < kMillion; ++i) response->add_filesystems()->set_size_bytes(1);
    return grpc::Status::OK;
  }
};

class TrimsMillionFilesystems : public GoodAgent {
 public:
  using GoodAgent::GoodAgent;
  grpc::Status Trim(grpc::ServerContext*, const v1::TrimRequest*,
                    grpc::ServerWriter<v1::TrimEvent>* writer) override {
    for (int i = 0; i < kMillion; ++i) {
      if (!Finish(writer, absl::StrCat("/mnt/", i), kMiB)) break;
    }
    return grpc::Status::OK;
  }
};

class NastyNames : public GoodAgent {
 public:
  using GoodAgent::GoodAgent;
  grpc::Status ListFilesystems(grpc::ServerContext*, const v1::ListFilesystemsRequest*,
                               v1::ListFilesystemsResponse* response) override {
    AddFilesystem(response, "/\n\x1b[31m");
    response->mutable_filesystems(0)->mutable_devices(0)->set_serial("\r\n\x1b[2J");
    return grpc::Status::OK;
  }
  grpc::Status Trim(grpc::ServerContext*, const v1::TrimRequest*,
                    grpc::ServerWriter<v1::TrimEvent>* writer) override {
    v1::TrimEvent event;
    event.mutable_started()->set_mount_point("/\n\x1b[31m");
    writer->Write(event);
    v1::TrimFinished& finished = *event.mutable_finished();
    finished.set_mount_point(kNasty);
    finished.set_source(finished.mount_point());
    finished.set_result(v1::TRIM_RESULT_FAILED);
    finished.set_error_name("EWHAT\n\x1b[31mvirt-reclaim: all is well");
    finished.set_obstacle(v1::TRIM_OBSTACLE_DM_CRYPT);
    finished.set_obstacle_device("dm\n\x1b[2J");
    finished.add_disks("vda");
    writer->Write(event);
    return {grpc::StatusCode::INTERNAL, "\x1b[2J\nvirt-reclaim: all is well\n"};
  }
};

struct HostileDomain {
  std::string name;
  std::function<std::unique_ptr<v1::Agent::Service>(const std::string& image)>
      agent;           // none: silent
  std::string reason;  // its one reason in the JSON; "": none
  std::string status;
};

template <typename Agent>
std::unique_ptr<v1::Agent::Service> New(const std::string& image) {
  return std::make_unique<Agent>(image);
}

// In the order in which they are trimmed: one after the other, since they have one storage.
std::vector<HostileDomain> Fleet() {
  return {
      {"a-good", New<GoodAgent>, "", "done"},
      {"b-silent", nullptr, "agent-silent", "failed"},
      {"c-never", New<NeverAnswers>, "", "failed"},
      {"d-late", New<AnswersLate>, "", "failed"},
      {"e-lies", New<LiesAboutBytes>, "", "done"},
      {"f-drips",
       [](const std::string& image) {
         return std::make_unique<StreamsForEver>(image, absl::Milliseconds(5));
       },
       "", "failed"},
      {"g-floods",
       [](const std::string& image) {
         return std::make_unique<StreamsForEver>(image, absl::ZeroDuration());
       },
       "", "failed"},
      {"h-lists-million", New<MillionFilesystems>, "", "failed"},
      {"i-trims-million", New<TrimsMillionFilesystems>, "", "failed"},
      {"j-nasty", New<NastyNames>, "", "failed"},
      {"k-good", New<GoodAgent>, "", "done"},
  };
}

// The guests' process: serves until the test's is gone.
[[noreturn]] void ServeGuests(const std::vector<std::string>& images,
                              std::vector<UniqueFd> sockets) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::vector<std::unique_ptr<v1::Agent::Service>> services;
  std::vector<std::unique_ptr<GrpcGuest>> guests;
  const auto fleet = Fleet();
  for (size_t i = 0; i < fleet.size(); ++i) {
    if (!fleet[i].agent) continue;
    services.push_back(fleet[i].agent(images[i]));
    guests.push_back(std::make_unique<GrpcGuest>(*services.back(), std::move(sockets[i])));
  }
  while (true) pause();
}

class HostileFleet : public testing::Test {
 protected:
  HostileFleet() : directory_(absl::StrCat(testing::TempDir(), "/fleet-", getpid())) {
    std::filesystem::create_directory(directory_);
    std::vector<UniqueFd> guest_ends;
    const auto fleet = Fleet();
    for (size_t i = 0; i < fleet.size(); ++i) {
      images_.push_back(absl::StrCat(directory_, "/", fleet[i].name, ".raw"));
      auto [host, guest] = link::SocketPair();
      host_ends_.push_back(std::move(host));
      guest_ends.push_back(std::move(guest));
      const std::string uuid = absl::StrCat("11111111-2222-3333-4444-5555555555", 10 + i);
      FakeDomain& domain =
          world_.AddDomain(DomainXml(fleet[i].name, uuid, "pc-q35-7.2",
                                     {{"vda", "virtio", images_[i], "unmap"}}, "connected"),
                           DomainState::kRunning);
      domain.port = [this, i] {
        return link::NewFdPort(UniqueFd(fcntl(host_ends_[i].get(), F_DUPFD_CLOEXEC, 0)), true);
      };
    }
    guests_ = fork();
    if (guests_ == 0) ServeGuests(images_, std::move(guest_ends));
  }
  ~HostileFleet() override {
    if (guests_ > 0) {
      kill(guests_, SIGKILL);
      waitpid(guests_, nullptr, 0);
    }
    std::filesystem::remove_all(directory_);
  }

  void FillImages() {
    for (const std::string& image : images_) {
      const UniqueFd fd(open(image.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
      ASSERT_EQ(ftruncate(fd.get(), kGiB), 0);
      ASSERT_EQ(fallocate(fd.get(), 0, 0, kAllocated), 0);
    }
  }

  ProgramResult Run(const std::vector<std::string>& words) {
    FillImages();
    const auto images = NewImageStore();
    const auto with_services = [&](const CommandLine&,
                                   const std::function<void(const Services&)>& use) {
      const Services fakes = world_.services();
      use(Services{fakes.hypervisor, *images, fakes.connect_agent, fakes.lock_directory,
                   fakes.state_directory, absl::Now, absl::SleepFor, nullptr});
      return absl::OkStatus();
    };
    const UniqueFd nowhere(open("/dev/null", O_WRONLY | O_CLOEXEC));
    ProgressLine progress(nowhere.get());
    const int64_t before = StatusKiB("VmRSS");
    ResetPeak();
    const absl::Time begin = absl::Now();
    ProgramResult result = RunProgram(words, with_services, progress, {});
    const absl::Duration took = absl::Now() - begin;
    const auto count = static_cast<int64_t>(images_.size());
    printf("took %s, %ld KiB more at the highest\n", absl::FormatDuration(took).c_str(),
           StatusKiB("VmHWM") - before);
    EXPECT_LE(took, count * (kConnecting + kTimeout + kMeasuring));
    if (!kSanitized) {
      EXPECT_LE(StatusKiB("VmHWM") - before, kFleetMemoryKiB);
    }
    EXPECT_EQ(result.status, ExitStatus::kSomeFailed) << result.out << result.err;
    return result;
  }

  const std::string directory_;
  std::vector<std::string> images_;
  std::vector<UniqueFd> host_ends_;
  FakeWorld world_;
  pid_t guests_ = -1;
};

bool IsReadable(char c) { return c == '\n' || (c >= ' ' && c != '\x7f'); }

// One process of guests for both: gRPC must not run here before they are forked.
TEST_F(HostileFleet, OthersAreServedAndAllIsBoundedAndReadable) {
  const std::string seconds = absl::StrCat(absl::ToInt64Seconds(kTimeout), "s");

  const ProgramResult text = Run({"trim", "--timeout", seconds});
  for (const std::string& printed : {text.out, text.err}) {
    EXPECT_TRUE(std::all_of(printed.begin(), printed.end(), IsReadable)) << printed;
    EXPECT_LE(printed.size(), kReadableBytes);
    // Nothing of a guest's begins a line of its own.
    for (const absl::string_view line : absl::StrSplit(printed, '\n'))
      EXPECT_NE(line.substr(0, 13), "virt-reclaim:") << line;
  }
  for (const HostileDomain& domain : Fleet()) EXPECT_THAT(text.out, HasSubstr(domain.name));

  const ProgramResult json = Run({"trim", "--timeout", seconds, "--json"});
  EXPECT_TRUE(std::all_of(json.out.begin(), json.out.end(), IsReadable));
  const auto document = nlohmann::json::parse(json.out);
  const auto fleet = Fleet();
  ASSERT_EQ(document["domains"].size(), fleet.size());
  for (size_t i = 0; i < fleet.size(); ++i) {
    const auto& shown = document["domains"][i];
    SCOPED_TRACE(fleet[i].name);
    EXPECT_EQ(shown["name"], fleet[i].name);
    EXPECT_EQ(shown["status"], fleet[i].status);
    if (!fleet[i].reason.empty()) {
      EXPECT_EQ(shown["reasons"], nlohmann::json::array({fleet[i].reason}));
    }
    EXPECT_LE(shown["filesystems"].size(), 8192u);
    const bool trimmed = fleet[i].name == "a-good" || fleet[i].name == "k-good";
    if (!shown["freed_bytes"].is_null()) {
      EXPECT_EQ(shown["freed_bytes"], trimmed ? kFreed : 0);
    }
    if (trimmed) {
      EXPECT_EQ(shown["freed_bytes"], kFreed);
    }
  }
  // What a guest says of itself makes nobody else's figures wrong.
  EXPECT_EQ(document["total"]["freed_bytes"], 2 * kFreed);
  EXPECT_EQ(document["total"]["trimmed_bytes"], UINT64_MAX);
  EXPECT_EQ(document["domains"][4]["trimmed_bytes"], UINT64_MAX);
  // It says itself that its disk takes no discards.
  EXPECT_EQ(document["domains"][4]["disks"][0]["reasons"],
            nlohmann::json::array({"guest-not-supported"}));
}

}  // namespace
}  // namespace virt_reclaim
