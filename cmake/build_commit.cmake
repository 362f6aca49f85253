# The commit that a build is of, for what it writes: a small source that is looked at anew by every build and compiled only
# where the commit has changed. Called as a script, this file writes that source.
if(CMAKE_SCRIPT_MODE_FILE)
  set(LMHEAD_COMMIT "unknown")
  find_program(GIT_PROGRAM git)
  if(GIT_PROGRAM)
    # A copy of the sources within somebody else's repository is not of that one's commit.
    execute_process(COMMAND "${GIT_PROGRAM}" -C "${SOURCE}" rev-parse --show-toplevel
                    OUTPUT_VARIABLE top OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    file(REAL_PATH "${SOURCE}" source)
    if(top STREQUAL source)
      execute_process(COMMAND "${GIT_PROGRAM}" -C "${SOURCE}" describe --always --dirty --abbrev=12
                      OUTPUT_VARIABLE described OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
      if(described)
        set(LMHEAD_COMMIT "${described}")
      endif()
    endif()
  endif()
  configure_file("${SOURCE}/lmhead/base/build_commit.cc.in" "${OUTPUT}" @ONLY)  # touches what has not changed not at all
  return()
endif()

set(LMHEAD_COMMIT_SOURCE "${CMAKE_BINARY_DIR}/build_commit.cc")
add_custom_target(lmhead_commit BYPRODUCTS "${LMHEAD_COMMIT_SOURCE}"
  COMMAND "${CMAKE_COMMAND}" "-DSOURCE=${CMAKE_SOURCE_DIR}" "-DOUTPUT=${LMHEAD_COMMIT_SOURCE}"
          -P "${CMAKE_CURRENT_LIST_FILE}" VERBATIM)
target_sources(lmhead PRIVATE "${LMHEAD_COMMIT_SOURCE}")
add_dependencies(lmhead lmhead_commit)
