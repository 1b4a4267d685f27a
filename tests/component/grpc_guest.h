// A guest in this process: a real gRPC server with a service of the test's choice, behind the real
// link over a socket. One thread makes it and lets it go.
#ifndef VIRT_RECLAIM_TESTS_COMPONENT_GRPC_GUEST_H_
#define VIRT_RECLAIM_TESTS_COMPONENT_GRPC_GUEST_H_

#include <grpcpp/grpcpp.h>
#include <grpcpp/server_posix.h>

#include <chrono>
#include <memory>
#include <stop_token>
#include <thread>
#include <utility>

#include "base/unique_fd.h"
#include "proto/link/bridge.h"
#include "virt_reclaim/agent/v1/agent.grpc.pb.h"

namespace virt_reclaim {

namespace v1 = virt_reclaim::agent::v1;

class GrpcGuest {
 public:
  // `socket`: what is the port's device in a guest; host after host may be at its other end.
  // `service` outlives the guest.
  GrpcGuest(v1::Agent::Service& service, UniqueFd socket) {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service);
    server_ = builder.BuildAndStart();
    link_ = std::make_unique<link::AgentLink>(
        link::NewFdPort(std::move(socket), true), [this](UniqueFd session) {
          grpc::AddInsecureChannelFromFd(server_.get(), session.Release());
        });
    thread_ = std::jthread(
        [this](const std::stop_token& stop) { static_cast<void>(link_->Run(stop).ok()); });
  }
  ~GrpcGuest() {
    thread_.request_stop();
    thread_.join();
    server_->Shutdown(std::chrono::system_clock::now());
  }

 private:
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<link::AgentLink> link_;
  std::jthread thread_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_TESTS_COMPONENT_GRPC_GUEST_H_
