# The Ansible collection in ansible/: its modules against a program that gives canned answers, what its users' tools say of it, and the
# playbooks over hypervisors in network namespaces. They need Ansible of the Debian packages of the group 'test', the last one root too.
find_package(Python3 3.11 COMPONENTS Interpreter REQUIRED)

# virt_reclaim_ansible_test(NAME SCRIPT LABEL TIMEOUT)
function(virt_reclaim_ansible_test name script label timeout)
  add_test(NAME ${name} COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/${script}_test.py)
  set_tests_properties(${name} PROPERTIES
    LABELS ${label} TIMEOUT ${timeout} SKIP_RETURN_CODE 77 ENVIRONMENT "VIRT_RECLAIM_BUILD_DIR=${PROJECT_BINARY_DIR}")
endfunction()

virt_reclaim_ansible_test(ansible_modules modules component 120)
virt_reclaim_ansible_test(ansible_collection collection lint 300)
virt_reclaim_ansible_test(integration.ansible fleet integration 600)
# Its time is judged.
set_tests_properties(integration.ansible PROPERTIES RUN_SERIAL ON COST 600)
