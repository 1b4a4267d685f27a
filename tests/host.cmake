add_library(virt_reclaim_fakes STATIC fakes/fake_definitions.cc fakes/fake_world.cc)
target_link_libraries(virt_reclaim_fakes PUBLIC virt_reclaim_services)

virt_reclaim_test(model_test
  SOURCES unit/model_assessment_test.cc unit/model_daily_window_test.cc unit/model_discard_chain_test.cc
    unit/model_discard_chain_hostile_test.cc unit/model_growth_test.cc unit/model_guest_disks_test.cc unit/model_image_judge_test.cc
    unit/model_loop_files_test.cc unit/model_metrics_test.cc unit/model_migration_test.cc unit/model_outcome_test.cc unit/model_trim_pace_test.cc
  DEPS virt_reclaim_model LABEL unit)

virt_reclaim_test(policy_test
  SOURCES unit/policy_test.cc
  DEPS virt_reclaim_policy LABEL unit)
target_compile_definitions(policy_test PRIVATE POLICY_DATA_DIRECTORY="${CMAKE_CURRENT_SOURCE_DIR}/data/policy"
  POLICY_EXAMPLE="${CMAKE_SOURCE_DIR}/packaging/config/config.toml"
  POLICY_MAN_PAGE="${CMAKE_SOURCE_DIR}/docs/man/virt-reclaim-config.5.scd")

virt_reclaim_test(services_test
  SOURCES unit/allocation_map_test.cc unit/call_watchdog_test.cc unit/channel_socket_test.cc unit/domain_directory_test.cc unit/guest_free_map_test.cc
    unit/host_storage_test.cc unit/image_store_test.cc unit/migration_store_test.cc unit/monitor_calls_test.cc unit/qemu_guest_agent_test.cc unit/qmp_test.cc unit/read_timer_test.cc
    unit/storage_lock_test.cc unit/storage_space_test.cc
  DEPS virt_reclaim_fakes LABEL unit OPTIMIZED)

virt_reclaim_test(commands_test
  SOURCES unit/commands_agent_install_test.cc unit/commands_explain_test.cc unit/commands_migrate_test.cc
    unit/commands_migration_move_test.cc unit/commands_migration_others_test.cc unit/commands_migration_test.cc unit/commands_offline_test.cc unit/commands_plan_file_test.cc
    unit/commands_overview_test.cc unit/commands_report_test.cc unit/commands_run_order_test.cc unit/commands_run_test.cc
    unit/commands_appliance_test.cc unit/commands_image_users_test.cc unit/commands_sparsify_test.cc
    unit/commands_sync_domain_test.cc unit/commands_trim_choice_test.cc
    unit/commands_domain_turn_test.cc unit/commands_trim_history_test.cc unit/commands_trim_turns_test.cc
    unit/commands_trim_test.cc unit/report_check_test.cc unit/trim_schedule_test.cc
  DEPS virt_reclaim_fakes virt_reclaim_commands LABEL unit)

# Some hundred lives of a migration, each killed at another point.
virt_reclaim_test(commands_killed_test
  SOURCES unit/commands_migration_killed_test.cc
  DEPS virt_reclaim_fakes virt_reclaim_commands LABEL unit TIMEOUT 180)
set_tests_properties(commands_killed_test PROPERTIES COST 40)

virt_reclaim_test(program_test
  SOURCES golden/program_test.cc unit/cli_test.cc unit/completion_test.cc unit/files_progress_test.cc
    unit/html_report_test.cc unit/journal_output_test.cc unit/run_program_test.cc unit/unfinished_copies_test.cc unit/virt_sparsify_test.cc
  DEPS virt_reclaim_fakes virt_reclaim_cli LABEL golden)
target_compile_definitions(program_test PRIVATE GOLDEN_DIRECTORY="${CMAKE_CURRENT_SOURCE_DIR}/golden/cli"
  JOURNAL_DOCUMENT="${CMAKE_SOURCE_DIR}/docs/journal.md" JOURNAL_SOURCE="${CMAKE_SOURCE_DIR}/host/cli/journal_output.cc"
  JOURNAL_AGENT_SOURCE="${CMAKE_SOURCE_DIR}/guest-agent/daemon.cc"
  POLICY_DATA_DIRECTORY="${CMAKE_CURRENT_SOURCE_DIR}/data/policy"
  POLICY_EXAMPLE="${CMAKE_SOURCE_DIR}/packaging/config/config.toml")

virt_reclaim_test(hypervisor_contract_test
  SOURCES contract/hypervisor_contract_test.cc
  DEPS virt_reclaim_fakes LABEL contract)

find_package(Python3 3.11 COMPONENTS Interpreter REQUIRED)
add_test(NAME qemu_contract COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/contract/qemu_test.py)
set_tests_properties(qemu_contract PROPERTIES LABELS contract TIMEOUT 120 SKIP_RETURN_CODE 77)

# What libvirt's QEMU driver makes of the domains of its own tests: what it stores of them, rewritten, and what it fills in when
# they start. Programs of their own, since they may skip wholly.
add_library(virt_reclaim_corpus_domains STATIC contract/corpus_domains.cc)
target_link_libraries(virt_reclaim_corpus_domains PUBLIC virt_reclaim_services virt_reclaim_xml_tools)
foreach(corpus stored pending)
  add_executable(${corpus}_corpus contract/${corpus}_corpus.cc)
  target_link_libraries(${corpus}_corpus PRIVATE virt_reclaim_corpus_domains)
  add_test(NAME ${corpus}_corpus COMMAND ${corpus}_corpus ${CMAKE_SOURCE_DIR}/scripts/fetch-corpus)
  set_tests_properties(${corpus}_corpus PROPERTIES LABELS corpus TIMEOUT 3600 SKIP_RETURN_CODE 77)
endforeach()

virt_reclaim_test(hostile_guest_test
  SOURCES component/hostile_guest_test.cc component/lying_guest_test.cc
  DEPS virt_reclaim_services ZLIB::ZLIB LABEL component TIMEOUT 120 OPTIMIZED)
# It holds a deadline while two of its own threads keep a processor busy: alone.
set_tests_properties(hostile_guest_test PROPERTIES RUN_SERIAL ON COST 200)

add_test(NAME run_places COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/component/run_places_test.py)
add_test(NAME run_killed COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/component/run_killed_test.py)
set_tests_properties(run_places run_killed PROPERTIES LABELS component TIMEOUT 600 SKIP_RETURN_CODE 77
  ENVIRONMENT "VIRT_RECLAIM_BUILD_DIR=${PROJECT_BINARY_DIR};PYTHONDONTWRITEBYTECODE=1")
set_tests_properties(run_killed PROPERTIES COST 80)

virt_reclaim_test(hostile_fleet_test
  SOURCES component/hostile_fleet_test.cc
  DEPS virt_reclaim_fakes virt_reclaim_cli LABEL component TIMEOUT 120)
set_tests_properties(hostile_fleet_test PROPERTIES COST 30)

virt_reclaim_test(offline_guest_test
  SOURCES contract/offline_guest_test.cc
  DEPS virt_reclaim_services LABEL contract TIMEOUT 120)

if(VIRT_RECLAIM_GUESTFS)
  virt_reclaim_test(initramfs_archive_test
    SOURCES unit/initramfs_archive_test.cc
    DEPS virt_reclaim_initramfs_archive LABEL unit)
endif()
