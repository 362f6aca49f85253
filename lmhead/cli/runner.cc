// The program behind the front.
#include "lmhead/cli/command.h"

int main(int argument_count, char** arguments) { return lmhead::run_command(argument_count, arguments, {}).exit_code; }
