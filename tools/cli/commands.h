// The commands. Each returns the exit status.
#pragma once

#include "tools/cli/options.h"

namespace foveal::cli {

int run(const Options& o);
int chat(const Options& o);
int info(const Options& o);
int bench(const Options& o);
int plan(const Options& o);

}  // namespace foveal::cli
