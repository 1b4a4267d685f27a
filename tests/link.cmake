# The link: frames, sessions, and both bridges over socketpairs, with and without gRPC.
virt_reclaim_test(link_frame_test SOURCES unit/link_frame_test.cc DEPS virt_reclaim_link LABEL unit)
virt_reclaim_test(link_session_test SOURCES unit/link_session_test.cc unit/link_session_hostile_test.cc
  DEPS virt_reclaim_link LABEL unit)
virt_reclaim_test(link_bridge_test
  SOURCES component/link_bridge_test.cc component/link_bridge_hostile_test.cc DEPS virt_reclaim_link
  LABEL component TIMEOUT 120)
virt_reclaim_test(link_grpc_test SOURCES component/link_grpc_test.cc
  DEPS virt_reclaim_link virt_reclaim_agent_proto gRPC::grpc++_unsecure protobuf::libprotobuf-lite
  LABEL component TIMEOUT 120)
