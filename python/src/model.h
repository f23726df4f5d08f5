// A model as Python holds it.
#pragma once

#include "bind.h"

namespace foveal::python {

struct PyModel : Owned<std::shared_ptr<const Model>> {
  using Owned::Owned;
};

// Messages come from the package as (role, [text bytes | image index]).
using PyMessage = std::pair<std::string, nb::list>;
std::vector<Message> to_messages(const std::vector<PyMessage>& messages);

}  // namespace foveal::python
