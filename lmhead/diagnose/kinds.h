// What makes each diagnostic of the list; each is defined in the file of its name.
#pragma once

#include <memory>

#include "lmhead/diagnose/diagnostic.h"

namespace lmhead {

std::unique_ptr<Diagnostic> make_quality(const DiagnosticContext& context);
std::unique_ptr<Diagnostic> make_gradient_retention(const DiagnosticContext& context);
std::unique_ptr<Diagnostic> make_token_breakdown(const DiagnosticContext& context);
std::unique_ptr<Diagnostic> make_gradient_spectrum(const DiagnosticContext& context);
std::unique_ptr<Diagnostic> make_update_direction(const DiagnosticContext& context);
std::unique_ptr<Diagnostic> make_local_retention(const DiagnosticContext& context);
std::unique_ptr<Diagnostic> make_head_spectrum(const DiagnosticContext& context);

}  // namespace lmhead
