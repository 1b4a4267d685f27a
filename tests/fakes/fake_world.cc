#include "tests/fakes/fake_world.h"

#include <unistd.h>

#include <filesystem>
#include <functional>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "tests/fakes/fake_backups.h"
#include "tests/fakes/fake_guest_agent.h"
#include "tests/fakes/fake_offline_guest.h"

namespace virt_reclaim {
namespace {

// A port that nothing is ever read from: the fake agent does not speak. It knows whose it is.
class SilentPort : public link::Port {
 public:
  explicit SilentPort(std::string whose) : uuid(std::move(whose)) {}
  const std::string uuid;
  int fd() const override { return -1; }
  link::IoResult Read(std::span<uint8_t>) override { return {}; }
  link::IoResult Write(std::span<const uint8_t>) override { return {}; }
};

class FakeImageStore : public ImageStore {
 public:
  explicit FakeImageStore(FakeWorld& world) : world_(world) {}

  absl::StatusOr<std::vector<ImageFile>> Chain(
      const xml::ImageSource& top, const std::vector<xml::ImageSource>& backing) override {
    std::vector<xml::ImageSource> sources{top};
    sources.insert(sources.end(), backing.begin(), backing.end());
    std::vector<ImageFile> chain;
    for (const xml::ImageSource& source : sources) {
      const auto image = world_.images.find(source.path);
      if (image == world_.images.end()) {
        if (chain.empty())
          return absl::NotFoundError(
              absl::StrCat("stat '", source.path, "': No such file or directory"));
        break;
      }
      const auto device = world_.devices.find(source.path);
      chain.push_back({source.path, source.format, image->second,
                       device == world_.devices.end() ? 1 : device->second,
                       std::hash<std::string>()(source.path) + world_.replaced.count(source.path)});
      chain.back().internal_snapshots = world_.internal_snapshots;
      chain.back().granularity = world_.granularity;
      chain.back().qcow2_version = world_.qcow2_version;
      AddDataFile(chain.back());
    }
    return chain;
  }

  absl::StatusOr<bool> CanPunch(const std::string&) override { return world_.can_punch; }

  absl::StatusOr<ImageHeader> ReadHeader(const std::string& path,
                                         const std::string& format) override {
    if (const auto one = world_.headers.find(path); one != world_.headers.end()) return one->second;
    const auto image = world_.images.find(path);
    if (image == world_.images.end())
      return absl::NotFoundError(absl::StrCat("open '", path, "': No such file or directory"));
    ImageHeader header = world_.header;
    header.format = format.empty() ? "raw" : format;
    header.capacity = image->second.capacity.value_or(0);
    header.internal_snapshots = world_.internal_snapshots;
    return header;
  }

  absl::StatusOr<absl::Duration> PunchCost(const std::string&) override {
    return world_.punch_cost;
  }

  absl::StatusOr<ReadTimer> TimeReads(const std::string&) override {
    return ReadTimer([this]() -> absl::StatusOr<absl::Duration> {
      return world_.read_takes ? world_.read_takes() : absl::Milliseconds(1);
    });
  }
  absl::StatusOr<uint64_t> Room(const ImageFile& image) override {
    const auto found = world_.rooms.find(image.path);
    return found == world_.rooms.end() ? world_.room : found->second;
  }
  absl::StatusOr<StorageSpace> Space(const ImageFile&) override {
    return StorageSpace{"0:1", "/images", 2 * world_.room, world_.room};
  }

  absl::StatusOr<bool> LiesOn(const ImageFile& image, const std::string& path) override {
    if (path == "/nowhere") return absl::NotFoundError("find '/nowhere': No such file");
    return image.path.starts_with(path + "/");
  }

  ImageStorage Storage(const xml::ImageSource& image) override {
    ImageStorage storage;
    if (image.type == "block") {
      storage.devices = world_.block_storage;
    } else if (world_.images.contains(image.path)) {
      storage.filesystem = "ext4";
      storage.punches = world_.can_punch;
    } else {
      storage.unknown = "stat: No such file or directory";
    }
    return storage;
  }

  absl::StatusOr<uint64_t> AllocatedWithin(const ImageFile& image, const std::vector<Range>& free,
                                           const std::stop_token&) override {
    const auto allocated = world_.allocated.find(image.path);
    if (allocated == world_.allocated.end()) return absl::UnimplementedError("not known");
    return TotalBytes(
        Intersect(RoundInwards(free, std::max<uint64_t>(image.granularity, 1)), allocated->second));
  }

  absl::StatusOr<uint64_t> Allocation(const std::vector<ImageFile>& chain) override {
    uint64_t sum = 0;
    for (const ImageFile& file : chain) {
      sum += world_.images.at(file.path).allocation.value_or(0);
      if (file.external_data && !file.data) return absl::UnavailableError("no data file");
      if (file.data) sum += world_.images.at(file.data->path).allocation.value_or(0);
    }
    return sum;
  }

 private:
  void AddDataFile(ImageFile& file) {
    const auto data = world_.data_files.find(file.path);
    if (data == world_.data_files.end()) return;
    file.external_data = true;
    file.usage.allocation = std::nullopt;
    if (data->second.empty()) return;
    const auto device = world_.devices.find(data->second);
    file.data = DataFile{data->second, device == world_.devices.end() ? 1 : device->second,
                         std::hash<std::string>()(data->second), true};
    file.usage.allocation = world_.images.at(file.path).allocation.value_or(0) +
                            world_.images.at(data->second).allocation.value_or(0);
  }

  FakeWorld& world_;
};

}  // namespace

FakeAgent::FakeAgent() {
  GuestPreflight guest;
  guest.kernel = GuestKernelVersion{6, 1};
  guest.kernel_release = "6.1.0-32-amd64";
  guest.kernels = {{"6.1.0-32-amd64", true, true, "/boot/initrd.img-6.1.0-32-amd64",
                    GuestModuleState::kInInitramfs, GuestModuleState::kBuiltIn}};
  preflight = guest;
}

class FakeHypervisor : public FakeBackups {
 public:
  using FakeBackups::FakeBackups;

  std::string Uri() const override { return "fake:///world"; }
  bool ImagesAreLocal() const override { return world_.images_are_local; }

  absl::StatusOr<std::vector<DomainSummary>> ListDomains() override {
    std::vector<DomainSummary> summaries;
    for (const auto& [uuid, domain] : world_.domains) summaries.push_back(domain.summary);
    return summaries;
  }

  absl::StatusOr<std::string> DomainXml(const std::string& uuid, Xml kind) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    ++world_.definitions_read;
    VR_RETURN_IF_ERROR(domain->xml_error);
    const bool live = kind == Xml::kLive && domain->summary.state == DomainState::kRunning;
    return live ? domain->live_xml : domain->inactive_xml;
  }

  absl::StatusOr<Usage> BlockUsage(const std::string& uuid, const std::string& target) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    const auto usage = domain->block_usage.find(target);
    if (usage == domain->block_usage.end())
      return absl::InternalError("read block info: no such disk");
    return usage->second;
  }

  absl::StatusOr<std::vector<Blocker>> Jobs(const std::string& uuid, const xml::Domain&) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    VR_RETURN_IF_ERROR(domain->jobs_unknown);
    std::vector<Blocker> jobs;
    for (const Blocker& blocker : domain->activity) {
      if (blocker.reason == Reason::kJobActive || blocker.reason == Reason::kBlockJob)
        jobs.push_back(blocker);
    }
    return jobs;
  }

  absl::StatusOr<std::vector<Blocker>> Activity(const std::string& uuid,
                                                const xml::Domain&) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    return domain->activity;
  }

  absl::StatusOr<std::string> VolumePath(const std::string& pool,
                                         const std::string& volume) override {
    const auto found = world_.volumes.find(absl::StrCat(pool, "/", volume));
    if (found == world_.volumes.end()) return absl::NotFoundError("no such volume");
    return found->second;
  }
  absl::StatusOr<bool> HasManagedSave(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    return domain->managed_save;
  }

  absl::StatusOr<uint64_t> DeviceProperty(const std::string& uuid, const std::string& alias,
                                          const std::string& property) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    world_.calls.push_back(absl::StrCat("ask QEMU of ", domain->summary.name));
    const auto found = domain->device_properties.find(absl::StrCat(alias, ".", property));
    if (found == domain->device_properties.end())
      return absl::UnimplementedError("ask QEMU: no such property");
    return found->second;
  }

  absl::StatusOr<SnapshotCount> Snapshots(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    return domain->snapshots;
  }

  absl::StatusOr<xml::HostMachines> MachineTypes(const std::string&, const std::string&) override {
    return world_.machines;
  }

  absl::StatusOr<DomainState> State(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    if (world_.Now() >= domain->settled_at) return domain->summary.state;
    return domain->summary.state == DomainState::kRunning ? DomainState::kPaused
                                                          : DomainState::kShuttingDown;
  }

  absl::Status Start(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    const Effect effect(world_, "start", *domain);
    if (domain->summary.state == DomainState::kRunning || world_.Now() < domain->settled_at)
      return absl::FailedPreconditionError("start: domain is already running");
    if (!domain->start.ok() && domain->inactive_xml != domain->first_xml) return domain->start;
    domain->summary.state =
        domain->paused_after_start ? DomainState::kPaused : DomainState::kRunning;
    domain->settled_at = world_.Now() + domain->power_takes;
    domain->live_xml = domain->inactive_xml;
    if (domain->boots_from) domain->agent.facts.filesystems = {*domain->boots_from};
    return absl::OkStatus();
  }

  absl::Status Shutdown(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    const Effect effect(world_, "shutdown", *domain);
    if (domain->summary.state != DomainState::kRunning)
      return absl::FailedPreconditionError("shut down: domain is not running");
    if (domain->ignores_shutdown || domain->IsDead()) return absl::OkStatus();
    domain->summary.state = DomainState::kShutOff;
    domain->settled_at = world_.Now() + domain->power_takes;
    return domain->shutdown;
  }

  absl::StatusOr<bool> IsPausedByIoError(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    return domain->summary.state == DomainState::kPaused && domain->paused_by_io_error;
  }

  absl::Status Resume(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    const Effect effect(world_, "resume", *domain);
    if (domain->summary.state != DomainState::kPaused)
      return absl::FailedPreconditionError("resume: domain is already running");
    // Its guest tries to write once more.
    if (!domain->paused_by_io_error || world_.room >= domain->needs_room)
      domain->summary.state = DomainState::kRunning;
    return absl::OkStatus();
  }

  absl::Status PowerOff(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    const Effect effect(world_, "power off", *domain);
    domain->summary.state = DomainState::kShutOff;
    return absl::OkStatus();
  }

  absl::StatusOr<uint64_t> BytesWritten(const std::string& uuid,
                                        const std::vector<std::string>&) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    return domain->bytes_written;
  }

  absl::StatusOr<uint64_t> DiskRequests(const std::string& uuid,
                                        const std::vector<std::string>&) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    VR_RETURN_IF_ERROR(domain->statistics);
    const bool quiet = domain->IsDead() && !domain->dead_with_io;
    return quiet ? domain->disk_requests : ++domain->disk_requests;
  }

  absl::Status Define(const std::string& text) override {
    world_.MayCrash();
    VR_RETURN_IF_ERROR(world_.define);
    VR_ASSIGN_OR_RETURN(const xml::Domain parsed, xml::ParseDomain(text));
    FakeDomain& domain = world_.domains[parsed.uuid];
    domain.summary.name = parsed.name;
    domain.summary.uuid = parsed.uuid;
    domain.inactive_xml = world_.stored_xml.empty() ? text : std::exchange(world_.stored_xml, "");
    world_.calls.push_back(absl::StrCat("define ", parsed.name));
    if (world_.while_defining) world_.while_defining();
    world_.MayCrash();
    return absl::OkStatus();
  }

  absl::Status AttachDevice(const std::string& uuid, const std::string& text) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    const Effect effect(world_, "attach to", *domain);
    if (domain->summary.state == DomainState::kShutOff)
      return absl::FailedPreconditionError("plug the device: domain is not running");
    VR_RETURN_IF_ERROR(domain->attach);
    const size_t end = domain->live_xml.find("  </devices>");
    if (end == std::string::npos) return absl::InternalError("plug the device: no <devices>");
    domain->live_xml.insert(end, text);
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<link::Port>> OpenChannel(const std::string& uuid,
                                                          const std::string&,
                                                          const std::string&) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    VR_RETURN_IF_ERROR(domain->channel);
    if (domain->port) return domain->port();
    return std::make_unique<SilentPort>(uuid);
  }

  absl::StatusOr<std::string> QemuAgentCommand(const std::string& uuid, const std::string& command,
                                               absl::Duration timeout,
                                               const std::stop_token& stop) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    const FakeQemuAgent& agent = domain->qemu_agent;
    if (agent.handler) {
      domain->qemu_commands.push_back(command);
      if (stop.stop_requested()) return absl::CancelledError("interrupted");
      auto answer = agent.handler(command);
      if (absl::IsDeadlineExceeded(answer.status())) world_.Sleep(timeout);
      return answer;
    }
    if (agent.answers.empty()) return absl::UnimplementedError("no guest agent is configured");
    for (const auto& [name, answer] : agent.answers) {
      if (command.find(absl::StrCat("\"", name, "\"")) == std::string::npos) continue;
      domain->qemu_commands.push_back(command);
      if (absl::IsDeadlineExceeded(answer.status())) world_.Sleep(timeout);
      if (stop.stop_requested()) return absl::CancelledError("interrupted");
      if (name != "guest-fstrim") return answer;
      if (agent.while_trimming) agent.while_trimming();
      world_.beats.Tick();
      if (stop.stop_requested()) return absl::CancelledError("interrupted");
      for (const auto& [path, bytes] : agent.freed) {
        Usage& usage = world_.images.at(path);
        usage.allocation = *usage.allocation - bytes;
      }
      if (agent.pauses_domain) domain->summary.state = DomainState::kPaused;
      return answer;
    }
    return absl::InternalError(absl::StrCat("unable to execute QEMU agent command ", command));
  }

  absl::StatusOr<std::unique_ptr<ErrorWatch>> WatchErrors(
      const std::string& uuid, std::function<void(const std::string&)> on_error) override {
    VR_ASSIGN_OR_RETURN(FakeDomain * domain, Find(uuid));
    class Watch : public ErrorWatch {
     public:
      explicit Watch(FakeDomain& domain) : domain_(domain) {}
      ~Watch() override { domain_.on_io_error = nullptr; }

     private:
      FakeDomain& domain_;
    };
    domain->on_io_error = std::move(on_error);
    return std::make_unique<Watch>(*domain);
  }

 private:
  // Something that changes a domain: noted, and the program may die before and after it.
  class Effect {
   public:
    Effect(FakeWorld& world, absl::string_view what, const FakeDomain& domain) : world_(world) {
      world_.MayCrash();
      world_.calls.push_back(absl::StrCat(what, " ", domain.summary.name));
    }
    ~Effect() noexcept(false) { world_.MayCrash(); }

   private:
    FakeWorld& world_;
  };

  absl::StatusOr<FakeDomain*> Find(const std::string& uuid) {
    const auto domain = world_.domains.find(uuid);
    if (domain == world_.domains.end()) return absl::NotFoundError("no such domain");
    return &domain->second;
  }
};

FakeWorld::FakeWorld() {
  // Journals are synced at each step, and killed at each: in memory that takes no time.
  const std::filesystem::path memory = "/dev/shm";
  const std::filesystem::path directory =
      access(memory.c_str(), W_OK) == 0 ? memory : std::filesystem::temp_directory_path();
  std::string name = (directory / "virt-reclaim-world-XXXXXX").string();
  directory_ = mkdtemp(name.data());
  hypervisor_ = std::make_unique<FakeHypervisor>(*this);
  image_store_ = std::make_unique<FakeImageStore>(*this);
  offline_guest_ = std::make_unique<FakeOfflineGuest>(*this);
}

FakeWorld::~FakeWorld() { std::filesystem::remove_all(directory_); }

FakeDomain& FakeWorld::AddDomain(const std::string& xml, DomainState state) {
  const xml::Domain parsed = xml::ParseDomain(xml).value();
  FakeDomain& domain = domains[parsed.uuid];
  domain.summary = {parsed.name, parsed.uuid, state, true};
  domain.live_xml = domain.inactive_xml = domain.first_xml = xml;
  return domain;
}

bool FakeDomain::IsDead() const {
  return summary.state != DomainState::kRunning ||
         (!cannot_boot_with.empty() && live_xml.find(cannot_boot_with) != std::string::npos);
}

void FakeWorld::NoteTrim(const GuestTrimOptions& options) {
  const std::lock_guard lock(clock_);
  trimmed_with.push_back(options);
}

void FakeWorld::NoteReached(const std::string& piece) {
  const std::lock_guard lock(clock_);
  reached.push_back(piece);
}

void FakeWorld::Sleep(absl::Duration duration) {
  const std::lock_guard lock(clock_);
  now_ += duration;
}

absl::Time FakeWorld::Now() {
  const std::lock_guard lock(clock_);
  return now_;
}

void FakeWorld::MayCrash() {
  if (crash_in > 0 && --crash_in == 0) throw FakeCrash();
}

void FakeWorld::AddImage(const std::string& path, uint64_t capacity, uint64_t allocation) {
  images[path] = {capacity, allocation, capacity};
}

Services FakeWorld::services() {
  const auto connect = [this](std::unique_ptr<link::Port> port, absl::Duration timeout,
                              std::stop_token stop) -> absl::StatusOr<std::unique_ptr<GuestAgent>> {
    const auto* silent = dynamic_cast<const SilentPort*>(port.get());
    if (silent == nullptr) return ConnectGuestAgent(std::move(port), timeout, std::move(stop));
    const FakeDomain& domain = domains.at(silent->uuid);
    if (domain.IsDead()) return absl::DeadlineExceededError("no answer from the guest agent");
    const FakeAgent& agent = domain.agent;
    VR_RETURN_IF_ERROR(agent.connect);
    return std::make_unique<FakeGuestAgent>(*this, agent);
  };
  const auto sparsify_disks =
      [this](const std::vector<sparsify::DiskSpec>& disks, sparsify::Mode mode,
             const sparsify::SparsifyOptions&, const std::function<absl::Status()>& check,
             const sparsify::ProgressCallback&,
             const std::stop_token&) -> absl::StatusOr<sparsify::SparsifyResult> {
    if (!sparsify.ok()) return sparsify.status();
    if (mode == sparsify::Mode::kSparsify) {
      VR_RETURN_IF_ERROR(check());
      MayCrash();
      for (const auto& disk : disks) calls.push_back("sparsify " + disk.path);
      MayCrash();
    }
    return *sparsify;
  };
  const auto now = [this] {
    MayCrash();
    return Now();
  };
  Services services{*hypervisor_,
                    *image_store_,
                    connect,
                    directory_ + "/run",
                    directory_ + "/state",
                    now,
                    [this](absl::Duration d) { Sleep(d); },
                    offline_guest_.get(),
                    sparsify_disks};
  services.start_beat = [this](absl::Duration, std::function<void()> call) {
    return beats.Start(std::move(call));
  };
  return services;
}

}  // namespace virt_reclaim
