# Where everything is installed, and where it then looks for its libraries.
#
# Into a prefix (scripts/setup, a virtual environment): bin/lmhead, bin/lmhead.native, lib/liblmhead.so and, with the
# command in it, lib/liblmhead_command.so.
# Into a wheel (scikit-build-core): the two programs among the environment's scripts, where pip puts the Python verbs too,
# and the two libraries in the package. Each finds the library and the torch beside the package by relative paths, and
# falls back on the libtorch that it was built against, which may lie in another environment.
if(SKBUILD)
  # From the scripts folder to site-packages: the same way in a virtual environment, a prefix and --user.
  execute_process(
    COMMAND "${Python3_EXECUTABLE}" -c
            "import os, sysconfig; print(os.path.relpath(sysconfig.get_path('platlib'), sysconfig.get_path('scripts')))"
    OUTPUT_VARIABLE LMHEAD_SITE_PACKAGES OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  set_target_properties(lmhead PROPERTIES INSTALL_RPATH "$ORIGIN/../torch/lib;${LIBTORCH_LIBRARY_DIR}")
  set_target_properties(lmhead_command PROPERTIES INSTALL_RPATH "$ORIGIN;$ORIGIN/../torch/lib;${LIBTORCH_LIBRARY_DIR}")
  set_target_properties(lmhead_runner PROPERTIES INSTALL_RPATH
    "$ORIGIN/${LMHEAD_SITE_PACKAGES}/lmhead;$ORIGIN/${LMHEAD_SITE_PACKAGES}/torch/lib;${LIBTORCH_LIBRARY_DIR}")
  install(TARGETS lmhead_front lmhead_runner RUNTIME DESTINATION "${SKBUILD_SCRIPTS_DIR}")
  install(TARGETS lmhead lmhead_command LIBRARY DESTINATION lmhead)
else()
  set_target_properties(lmhead PROPERTIES INSTALL_RPATH "${LIBTORCH_LIBRARY_DIR}")
  set_target_properties(lmhead_command PROPERTIES INSTALL_RPATH "$ORIGIN;${LIBTORCH_LIBRARY_DIR}")
  set_target_properties(lmhead_runner PROPERTIES INSTALL_RPATH "$ORIGIN/../lib;${LIBTORCH_LIBRARY_DIR}")
  install(TARGETS lmhead_front lmhead_runner RUNTIME DESTINATION bin)
  install(TARGETS lmhead lmhead_command LIBRARY DESTINATION lib)
endif()
