# The front answers --help and finds verbs without loading libtorch (0.3 s); it then replaces itself by the runner.
file(GLOB LMHEAD_COMMANDS CONFIGURE_DEPENDS lmhead/cli/*_command.cc)
set(LMHEAD_PROCESS lmhead/cli/command_line.cc lmhead/cli/signals.cc lmhead/cli/standard_streams.cc)
add_executable(lmhead_front lmhead/cli/front.cc ${LMHEAD_PROCESS} lmhead/base/printable_text.cc lmhead/base/words.cc)
target_link_libraries(lmhead_front PRIVATE lmhead_options CLI11::CLI11)
set_target_properties(lmhead_front PROPERTIES OUTPUT_NAME lmhead)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS python/lmhead/verbs.py)
file(STRINGS python/lmhead/verbs.py LMHEAD_PYTHON_VERBS REGEX "^    \"[a-z-]+\": \\(")
list(TRANSFORM LMHEAD_PYTHON_VERBS REPLACE "^    \"([a-z-]+)\".*" "\\1")
list(JOIN LMHEAD_PYTHON_VERBS " " LMHEAD_PYTHON_VERBS)
set_source_files_properties(lmhead/cli/front.cc PROPERTIES COMPILE_DEFINITIONS "LMHEAD_PYTHON_VERBS=\"${LMHEAD_PYTHON_VERBS}\"")
# The command as a library, which a process of Python takes (lmhead_command in command.h), and the program that is it.
add_library(lmhead_command SHARED lmhead/cli/command.cc ${LMHEAD_PROCESS} lmhead/cli/progress.cc
               lmhead/cli/measurement_table.cc lmhead/cli/study_table.cc lmhead/cli/printable_json.cc lmhead/cli/model_argument.cc lmhead/cli/python_program.cc
               lmhead/cli/transformers_engine.cc ${LMHEAD_COMMANDS})
target_link_libraries(lmhead_command PUBLIC lmhead PRIVATE CLI11::CLI11)
set_target_properties(lmhead_command PROPERTIES BUILD_RPATH "${LIBTORCH_LIBRARY_DIR};${CMAKE_LIBRARY_OUTPUT_DIRECTORY}")
add_executable(lmhead_runner lmhead/cli/runner.cc)
target_link_libraries(lmhead_runner PRIVATE lmhead_command)
set_target_properties(lmhead_runner PROPERTIES OUTPUT_NAME lmhead.native BUILD_RPATH
                      "${LIBTORCH_LIBRARY_DIR};${CMAKE_LIBRARY_OUTPUT_DIRECTORY}")
