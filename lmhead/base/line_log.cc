#include "lmhead/base/line_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "lmhead/base/descriptor.h"
#include "lmhead/base/error.h"

namespace lmhead {
namespace {

void require_whole(int descriptor, const std::filesystem::path& path) {
  require(!detail::ends_within_a_line(descriptor, path), "files", path.string(),
          " must end with a whole line, got one that is cut short");
}

}  // namespace

LineLog::LineLog(const std::filesystem::path& path) : path_(path), file_(path, O_RDWR | O_CREAT, "writable") {
  require_whole(file_.get(), path_);
}

void LineLog::append(const std::string& line) {
  require_whole(file_.get(), path_);  // of an earlier line that could neither be written nor taken back
  detail::append_line(file_.get(), line, path_, /*durable=*/false);
}

void LineLog::sync() {
  if (::fsync(file_.get()) != 0) detail::fail_system("writable", path_, errno);
  if (!name_is_durable_) detail::sync_directory(path_.parent_path());
  name_is_durable_ = true;
}

}  // namespace lmhead
