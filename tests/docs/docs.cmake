# Every command of README.md and docs/*.md is run, or known (tests/docs/commands.toml); and what the recipes say of other programs. Root,
# and the Debian packages of the groups 'run' and 'test'; only that of virtnbdbackup boots a guest.
if(NOT VIRT_RECLAIM_HOST)
  return()
endif()
find_package(Python3 3.11 COMPONENTS Interpreter REQUIRED)
foreach(test commands recipes)
  add_test(NAME docs_${test} COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/${test}_test.py)
  set_tests_properties(docs_${test} PROPERTIES LABELS component TIMEOUT 600 SKIP_RETURN_CODE 77 COST 50
    ENVIRONMENT "VIRT_RECLAIM_BUILD_DIR=${PROJECT_BINARY_DIR};PYTHONDONTWRITEBYTECODE=1")
endforeach()
add_test(NAME integration.virtnbdbackup COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/virtnbdbackup_test.py)
set_tests_properties(integration.virtnbdbackup PROPERTIES LABELS integration TIMEOUT 600 SKIP_RETURN_CODE 77 COST 60
  ENVIRONMENT "VIRT_RECLAIM_BUILD_DIR=${PROJECT_BINARY_DIR};PYTHONDONTWRITEBYTECODE=1")
