# Checks of the sources themselves; no compiler needed. Each check is registered twice: on the tree, and with --self-test,
# which feeds it bad samples, so that a check that has stopped checking fails too.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
foreach(check includes docs man format proto)
  set(command ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_${check}.py)
  add_test(NAME lint_${check} COMMAND ${command} --root ${CMAKE_SOURCE_DIR})
  add_test(NAME lint_${check}_self_test COMMAND ${command} --self-test)
  set_tests_properties(lint_${check} lint_${check}_self_test PROPERTIES
    LABELS lint TIMEOUT 60 SKIP_RETURN_CODE 77 ENVIRONMENT PYTHONDONTWRITEBYTECODE=1)
endforeach()
# What decides whether a skip fails scripts/test.
add_test(NAME lint_skips_self_test COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/scripts/check-skips --self-test)
set_tests_properties(lint_skips_self_test PROPERTIES LABELS lint TIMEOUT 60)
# docs/quickstart.svg shows what README.md says.
add_test(NAME lint_picture COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/scripts/make-picture --check)
set_tests_properties(lint_picture PROPERTIES LABELS lint TIMEOUT 60)
# docs/architecture.svg shows what docs/architecture.diagram says.
add_test(NAME lint_diagram COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/scripts/make-diagram --check)
set_tests_properties(lint_diagram PROPERTIES LABELS lint TIMEOUT 60)
