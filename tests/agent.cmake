# The guest agent. Its tests link what the program links (gRPC from the archives): see guest-agent/CMakeLists.txt.
if(NOT VIRT_RECLAIM_AGENT)
  return()
endif()

virt_reclaim_test(agent_unit_test
  SOURCES unit/agent_block_devices_test.cc unit/agent_convert_test.cc unit/agent_filesystems_test.cc
    unit/agent_fix_test.cc unit/agent_free_map_test.cc unit/agent_freed_meter_test.cc unit/agent_mounts_test.cc unit/agent_options_test.cc unit/agent_output_test.cc
    unit/agent_port_finder_test.cc unit/agent_preflight_test.cc unit/agent_pacing_test.cc unit/agent_ranges_test.cc unit/agent_stop_limit_test.cc unit/agent_text_test.cc
  DEPS virt_reclaim_agent_parts LABEL unit)
virt_reclaim_test(agent_component_test
  SOURCES component/agent_calls_test.cc component/agent_fitrim_test.cc component/agent_service_test.cc
  DEPS virt_reclaim_agent_parts LABEL component)
virt_reclaim_test(agent_daemon_test
  SOURCES component/agent_daemon_test.cc component/hostile_host_test.cc
  DEPS virt_reclaim_agent_parts LABEL component TIMEOUT 300)
virt_reclaim_test(agent_real_filesystems_test
  SOURCES component/agent_real_filesystems_test.cc
  DEPS virt_reclaim_agent_parts LABEL component TIMEOUT 240)
foreach(test agent_unit_test agent_component_test agent_daemon_test agent_real_filesystems_test)
  target_compile_definitions(${test} PRIVATE VIRT_RECLAIM_AGENT_PROGRAM="$<TARGET_FILE:virt-reclaim-agent>")
  add_dependencies(${test} virt-reclaim-agent)
endforeach()
set_tests_properties(agent_daemon_test agent_real_filesystems_test PROPERTIES COST 35)
