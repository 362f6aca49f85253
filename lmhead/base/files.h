// Files and folders that are whole or absent: atomic replacement.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace lmhead {

/// The whole content of a regular file (see InputFile) of at most 4 GiB. Throws when it cannot be read.
std::string read_file(const std::filesystem::path& path);

/// Replaces `path` by `content`: a reader, or a kill at any moment, sees the old content or the new. Returns the
/// content's hash (content_hash.h). What earlier, killed replacements of `path` left behind is removed.
std::string write_file_atomic(const std::filesystem::path& path, std::string_view content);

/// The same with `write`, which fills a file beside `path`, synced and renamed onto `path`; on an error `path` is
/// untouched.
std::string replace_file_atomic(const std::filesystem::path& path,
                                const std::function<void(const std::function<void(const void*, std::size_t)>&)>& write);

/// Fills a new directory through `fill(temporary)` and puts it in the place of `path` in one step, also where something
/// stands there; on an error that is untouched.
void replace_directory_atomic(const std::filesystem::path& path,
                              const std::function<void(const std::filesystem::path&)>& fill);

/// Removes a directory so that a kill at any moment leaves it whole or absent.
void remove_directory_atomic(const std::filesystem::path& path);

/// Removes what killed processes left of replacing files and directories in `directory`, as far as `is_ours(NAME)`
/// holds: NAME.tmp7 and NAME.old7, 7 the process. What a living process is about to put in place stays.
void remove_leftovers(const std::filesystem::path& directory,
                      const std::function<bool(const std::string& name)>& is_ours);

/// Makes the directory and its parents, names that survive a loss of power. Throws when that is not possible.
void make_directory(const std::filesystem::path& path);

namespace detail {
/// Exchanges two directories where the file system has no way to do it in one step: `fresh` takes the place of `path`,
/// and what stood there is then at `fresh`. On an error `path` is as it was.
void exchange_in_two_steps(const std::filesystem::path& fresh, const std::filesystem::path& path);
}  // namespace detail

}  // namespace lmhead
