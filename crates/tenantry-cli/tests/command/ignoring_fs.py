"""A file system that shows a directory and takes names for the same that others keep apart.

usage: ignoring_fs.py DIRECTORY MOUNT-POINT FOLDING

FOLDING is `case`, as on NTFS; `case+form`, as on APFS, where the normalization form doesn't count either; or `case+nfd`,
as on HFS+, which besides stores every name decomposed.
"""

import errno
import os
import sys
import unicodedata

from mfusepy import FUSE, FuseOSError, Operations

STAT = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
TIMES = ("st_atime", "st_mtime", "st_ctime")
STATVFS = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail", "f_namemax")


class Ignoring(Operations):
    use_ns = True

    def __init__(self, top, folding):
        self.top, self.folding = top, folding

    def folded(self, name):
        form = "NFC" if self.folding == "case" else "NFD"
        return name.casefold() if form == "NFC" else unicodedata.normalize(form, name.casefold())

    def real(self, path):
        """The path below the directory, each name as it is spelled there, if it is there."""
        here = self.top
        for name in filter(None, path.split("/")):
            if self.folding == "case+nfd":
                name = unicodedata.normalize("NFD", name)
            if not os.path.lexists(os.path.join(here, name)) and os.path.isdir(here):
                same = (other for other in os.listdir(here) if self.folded(other) == self.folded(name))
                name = next(same, name)
            here = os.path.join(here, name)
        return here

    def getattr(self, path, fh=None):
        found = os.lstat(self.real(path)) if fh is None else os.fstat(fh)
        attributes = {name: getattr(found, name) for name in STAT}
        return attributes | {name: getattr(found, name + "_ns") for name in TIMES}

    def statfs(self, path):
        found = os.statvfs(self.top)
        return {name: getattr(found, name) for name in STATVFS}

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(self.real(path))]

    def mkdir(self, path, mode):
        os.mkdir(self.real(path), mode)

    def rmdir(self, path):
        os.rmdir(self.real(path))

    def unlink(self, path):
        os.unlink(self.real(path))

    def rename(self, old, new):
        os.rename(self.real(old), self.real(new))

    def link(self, target, source):
        os.link(self.real(source), self.real(target))

    def symlink(self, target, source):
        os.symlink(source, self.real(target))

    def readlink(self, path):
        return os.readlink(self.real(path))

    def chmod(self, path, mode):
        os.chmod(self.real(path), mode)

    def chown(self, path, uid, gid):
        os.lchown(self.real(path), uid, gid)

    def utimens(self, path, times=None):
        os.utime(self.real(path), ns=times, follow_symlinks=False)

    def truncate(self, path, length, fh=None):
        os.truncate(self.real(path) if fh is None else fh, length)

    def open(self, path, flags):
        return os.open(self.real(path), flags & ~(os.O_CREAT | os.O_EXCL | os.O_APPEND))

    def create(self, path, mode, fi=None):
        return os.open(self.real(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        return os.pwrite(fh, data, offset)

    def release(self, path, fh):
        os.close(fh)

    def fsync(self, path, datasync, fh):
        os.fsync(fh)

    def fsyncdir(self, path, datasync, fh):
        pass

    def getxattr(self, path, name, position=0):
        raise FuseOSError(errno.ENOTSUP)

    def listxattr(self, path):
        return []


if __name__ == "__main__":
    _, directory, mount_point, folding = sys.argv
    # Names are looked up each time: the kernel would keep one spelling that was removed by another.
    timeouts = {name: 0 for name in ("entry_timeout", "attr_timeout", "negative_timeout")}
    FUSE(Ignoring(os.path.realpath(directory), folding), mount_point, nothreads=True, default_permissions=True, **timeouts)
