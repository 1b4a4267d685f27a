# Tests on real guests (QEMU, emulated; a private libvirt each). They need root and the Debian packages of the group 'run'
# in scripts/packages.txt, and skip with status 77 and a reason where those are missing.
find_package(Python3 3.11 COMPONENTS Interpreter REQUIRED)

set(VIRT_RECLAIM_STATIC_AGENT ${PROJECT_SOURCE_DIR}/build/agent-static/guest-agent/virt-reclaim-agent CACHE FILEPATH
  "The static agent to test; scripts/build-static-agent makes it")

# virt_reclaim_integration_test(NAME TIMEOUT [SECONDS N] [ALONE]): tests/integration/NAME_test.py
#   SECONDS  what it took when it was last measured, on two cores; without: less than those that say it
#   ALONE    something is timed in it, and an emulated guest keeps a CPU or two busy
# The longest begin first, so that none is left over for the end.
function(virt_reclaim_integration_test name timeout)
  cmake_parse_arguments(arg "ALONE" "SECONDS" "" ${ARGN})
  if(NOT arg_SECONDS)
    math(EXPR arg_SECONDS "${timeout} / 10")
  endif()
  add_test(NAME integration.${name}
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/${name}_test.py)
  set_tests_properties(integration.${name} PROPERTIES
    LABELS integration TIMEOUT ${timeout} SKIP_RETURN_CODE 77 RUN_SERIAL ${arg_ALONE} COST ${arg_SECONDS}
    ENVIRONMENT "VIRT_RECLAIM_BUILD_DIR=${PROJECT_BINARY_DIR};VIRT_RECLAIM_STATIC_AGENT=${VIRT_RECLAIM_STATIC_AGENT}")
endfunction()

# Preloaded by migrate_test.py.
add_library(kill_at_sync MODULE ${CMAKE_CURRENT_LIST_DIR}/../lib/kill_at_sync.c)
target_link_libraries(kill_at_sync PRIVATE ${CMAKE_DL_LIBS})

# Preloaded by sync_freeze_test.py.
add_library(stop_at_backup MODULE ${CMAKE_CURRENT_LIST_DIR}/../lib/stop_at_backup.c)
target_link_libraries(stop_at_backup PRIVATE ${CMAKE_DL_LIBS})

virt_reclaim_integration_test(bed 600)
virt_reclaim_integration_test(story 900)
virt_reclaim_integration_test(quickstart 1500 SECONDS 250)
virt_reclaim_integration_test(link 900 ALONE)
virt_reclaim_integration_test(daemon 600 ALONE)
virt_reclaim_integration_test(trim 600 SECONDS 175)
virt_reclaim_integration_test(trim_matrix 600)
virt_reclaim_integration_test(busy 600)
virt_reclaim_integration_test(run 900)
virt_reclaim_integration_test(bad_input 300)
virt_reclaim_integration_test(migrate 1200 SECONDS 800)
virt_reclaim_integration_test(explain 1200 SECONDS 190)
virt_reclaim_integration_test(fleet 600)
virt_reclaim_integration_test(sata 600)
virt_reclaim_integration_test(migrate_storage 120)
virt_reclaim_integration_test(migrate_killed 300)
virt_reclaim_integration_test(sync_domain 900)
virt_reclaim_integration_test(sync_freeze 300)
virt_reclaim_integration_test(punch_live 300)
virt_reclaim_integration_test(sparsify 300)
if(NOT VIRT_RECLAIM_SANITIZE)  # as hold_at_read
  add_library(hold_at_free MODULE ${CMAKE_CURRENT_LIST_DIR}/../lib/hold_at_free.c)
  target_link_libraries(hold_at_free PRIVATE ${CMAKE_DL_LIBS})
  virt_reclaim_integration_test(sparsify_races 300)
endif()
virt_reclaim_integration_test(static_agent 300)
virt_reclaim_integration_test(agent_install 600)
# The first run on a machine fetches a Debian and makes a disk of it: beside three others it was not through after 1,500 s.
virt_reclaim_integration_test(debian_guest 2700 SECONDS 800)
if(VIRT_RECLAIM_GUESTFS)
  virt_reclaim_integration_test(offline_facts 2400 SECONDS 480)
endif()
