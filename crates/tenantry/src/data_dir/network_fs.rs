//! Recognizes network file systems.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs;

use crate::storage::file_error;
use crate::{Error, ErrorKind, Result};

/// File systems on which locks and shared memory don't reach from one machine to the other, by the
/// number that [statfs](https://man7.org/linux/man-pages/man2/statfs.2.html) returns.
const NETWORK: [(u32, &str); 15] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFE53_4D42, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0x564C, "NCP"),
    (0x0102_1997, "9P"),
    (0x5346_414F, "AFS"),
    (0x6B41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x00C3_6400, "Ceph"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636F, "OCFS2"),
    (0x786F_4256, "a shared folder of VirtualBox"),
];
/// The number of all file systems that run as a program. The table of mounts names them.
const FUSE: u32 = 0x6573_5546;
/// Those of them that use a network.
const NETWORK_OF_FUSE: [&str; 10] = [
    "sshfs",
    "glusterfs",
    "s3fs",
    "rclone",
    "davfs",
    "ceph-fuse",
    "curlftpfs",
    "gcsfuse",
    "juicefs",
    "mount.davfs",
];

/// Returns the name of the network file system on which the directory lies, or the last one above
/// it that exists. `None` on any other file system.
pub(crate) fn network_fs(data_dir: &Path) -> Result<Option<String>> {
    let is_there = |dir: &&Path| dir.as_os_str().is_empty() || dir.exists();
    let dir = data_dir
        .ancestors()
        .find(is_there)
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let failed =
        |error| file_error(error, "the file system of the data directory can't be identified");
    let found = fs::statfs(dir).map_err(|error| failed(error.into()))?;
    // The number has 32 bits, whatever the type it comes in.
    Ok(match found.f_type as u32 {
        FUSE => {
            let kind = file_system(dir).map_err(failed)?;
            let program = kind.as_deref().and_then(|kind| kind.strip_prefix("fuse."));
            program.filter(|name| NETWORK_OF_FUSE.contains(name)).map(str::to_owned)
        }
        number => NETWORK
            .iter()
            .find(|(network, _)| *network == number)
            .map(|(_, name)| (*name).to_owned()),
    })
}

/// Returns the kind of the file system on which this directory lies, as `ext4`, or `fuse.sshfs` of
/// the program `sshfs`. `None` if the [table of
/// mounts](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html) lacks it.
fn file_system(dir: &Path) -> std::io::Result<Option<String>> {
    let device = std::fs::metadata(dir)?.dev();
    let device = format!("{}:{}", fs::major(device), fs::minor(device));
    for line in BufReader::new(File::open("/proc/self/mountinfo")?).lines() {
        let line = line?;
        if line.split(' ').nth(2) == Some(&device) {
            let kind = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').next());
            return Ok(kind.map(str::to_owned));
        }
    }
    Ok(None)
}

/// Returns the error for a file system that lacks something. It names the kind of the file system.
pub(crate) fn unfit(data_dir: &Path, lack: &Error) -> Error {
    let kind =
        file_system(data_dir).ok().flatten().map(|kind| format!(" ({kind})")).unwrap_or_default();
    let message = format!(
        "the file system of the data directory{kind} lacks what a store needs: {lack}; no store was made"
    );
    let error = Error::new(ErrorKind::Incompatible, message);
    match std::error::Error::source(lack).and_then(|source| source.downcast_ref::<std::io::Error>())
    {
        Some(source) if source.raw_os_error().is_some() => error.with_source(
            std::io::Error::from_raw_os_error(source.raw_os_error().unwrap_or_default()),
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_file_system_is_found_in_the_table_of_mounts() {
        assert_eq!(file_system(Path::new("/proc")).unwrap().as_deref(), Some("proc"));
        assert_eq!(network_fs(Path::new("/nowhere/at/all")).unwrap(), None);
    }
}
